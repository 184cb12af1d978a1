"""Sampling on the pretended device: bytes, synchronizations, memory."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers.pretended_cuda import counted
from torch import Tensor

from memaudit.audit.denoising.noised_images import NoisedImages
from memaudit.audit.diagnostics.membership_inference import MembershipConfig, infer_membership
from memaudit.data.images import ImageSet
from memaudit.errors import CheckpointError
from memaudit.models.build import build_network
from memaudit.models.execution import Execution
from memaudit.models.generate import generate_images
from memaudit.models.networks.layers import Resample
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler_config import SamplerConfig

pytestmark = pytest.mark.emulated

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), np.uint8)
UNET = {
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 3,
    "model_channels": 8,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}
CHURN = {"S_churn": 8.0, "S_min": 0.05, "S_max": 50.0}


def network(precond: str, device: str) -> Any:
    torch.manual_seed(0)
    made = build_network({**UNET, "class_name": precond}).eval().requires_grad_(False)
    for parameter in made.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return made.to(device)


def all_images(denoiser: Any, num_images: int, **options: Any) -> np.ndarray:
    batches = generate_images(denoiser, range(num_images), **options)
    return np.concatenate([batch.images for batch in batches])


@pytest.mark.parametrize(
    ("precond", "config", "at_most"),
    [
        ("EDMPrecond", SamplerConfig(num_steps=4), 1),
        ("EDMPrecond", SamplerConfig(num_steps=4, **CHURN), 1),
        ("EDMPrecond", SamplerConfig(num_steps=4, solver="euler", discretization="ve"), 1),
        ("EDMPrecond", SamplerConfig(num_steps=4, solver="multistep"), 1),
        ("VPPrecond", SamplerConfig(num_steps=4, schedule="vp", scaling="vp"), 1),
        # Tables of noise levels are read on the CPU.
        ("iDDPMPrecond", SamplerConfig(num_steps=4), 2),
        ("iDDPMPrecond", SamplerConfig(num_steps=4, sampler="own", solver="ancestral"), 3),
    ],
)
def test_a_group_is_waited_for_once_and_its_bytes_are_the_cpus(
    precond: str, config: SamplerConfig, at_most: int
):
    """Not at every step, so that the next group is in the queue before this one is done."""
    there = network(precond, "cuda")
    options = {"config": config, "execution": Execution(64, "cuda")}
    all_images(there, 1, **options)
    with counted() as counts:
        found = all_images(there, 130, **options)
    assert counts.synchronizations.total() <= 3 * at_most + 1, counts.synchronizations
    expected = all_images(network(precond, "cpu"), 130, config=config)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_labels_and_starts_are_not_waited_for():
    start = np.random.default_rng(1).integers(0, 256, (5, 1, 8, 8), np.uint8)
    there = network("EDMPrecond", "cuda")
    options = {"config": SamplerConfig(num_steps=2, sigma_max=1.0), "start": start}
    with counted() as counts:
        found = all_images(there, 5, class_index=2, execution=Execution(64, "cuda"), **options)
    assert counts.synchronizations.total() == 1, counts.synchronizations
    expected = all_images(network("EDMPrecond", "cpu"), 5, class_index=2, **options)
    assert np.abs(found.astype(int) - expected).max() <= 1


class Narrow(ClosedFormOptimum):
    """A denoiser that has memory for a few images at a time."""

    def __init__(self, images: np.ndarray, most: int) -> None:
        super().__init__(images, device="cuda")
        self.most = most
        self.sizes: list[int] = []

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return super().__call__(x, sigma, class_labels)


def test_fewer_images_are_sampled_at_a_time_where_memory_runs_out():
    """The rest is sampled by as many as fitted, and all images are there."""
    model, told = Narrow(IMAGES, most=10), []
    batches = list(
        generate_images(
            model,
            range(40),
            config=SamplerConfig(num_steps=3, **CHURN),
            execution=Execution(32, "cuda"),
            progress=lambda *said: told.append(said[3:]),
        )
    )
    assert [len(batch.seeds) for batch in batches] == [32, 8]
    assert {batch.group_size for batch in batches} == {8}
    assert model.sizes == [32, 16] + [8] * 5 * 5
    assert ("8 images at a time",) in told
    expected = all_images(ClosedFormOptimum(IMAGES), 40, config=SamplerConfig(num_steps=3, **CHURN))
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in batches]), expected)


def test_images_that_are_not_finite_are_named():
    class Broken(ClosedFormOptimum):
        def __call__(self, x: Tensor, sigma: Tensor, class_labels: Any = None) -> Tensor:
            return x * float("nan")

    with pytest.raises(CheckpointError, match=r"not finite for seed 0 \(for 5 of the 5"):
        all_images(Broken(IMAGES, device="cuda"), 5, execution=Execution(8, "cuda"))


def test_diagnostics_evaluate_fewer_images_where_memory_runs_out():
    data = ImageSet.from_array(IMAGES)
    wide, narrow = (
        NoisedImages.of(model, data, Execution(16, "cuda")).losses([1.0, 0.1])
        for model in (ClosedFormOptimum(IMAGES, device="cuda"), Narrow(IMAGES, most=3))
    )
    np.testing.assert_allclose(narrow, wide, atol=1e-9)
    config = MembershipConfig(num_images=10, max_fpr=0.2, execution=Execution(16, "cuda"))
    wide, narrow = (
        infer_membership(model, data, data, config=config).auc
        for model in (ClosedFormOptimum(IMAGES, device="cuda"), Narrow(IMAGES, most=3))
    )
    assert narrow == wide


def test_the_batch_size_is_chosen_by_memory_and_handed_out():
    """An image is said to take a sixth of a gigabyte, of which 60 are free."""
    (batch,) = generate_images(
        ClosedFormOptimum(IMAGES, device="cuda"),
        range(256),
        config=SamplerConfig(num_steps=1),
        execution=Execution(device="cuda"),
    )
    assert batch.group_size == 256


def test_a_device_without_float64_is_given_float32_and_the_state_stays_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("memaudit.models.devices.has_float64", lambda device: device.type == "cpu")
    there, given = network("EDMPrecond", "cuda"), set()
    there.register_forward_pre_hook(
        lambda _, inputs: given.update((each.device.type, each.dtype) for each in inputs)
    )
    config = SamplerConfig(num_steps=3, **CHURN)
    found = all_images(there, 5, config=config, execution=Execution(64, "cuda"))
    assert given == {("cuda", torch.float32)}
    expected = all_images(network("EDMPrecond", "cpu"), 5, config=config)
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_gpu_takes_means_and_repeats_pixels_with_the_bits_of_the_convolution(direction: Any):
    x = torch.randn(2, 5, 6, 10)
    there, here = (Resample(direction, [1, 1]).to(device) for device in ("cuda", "cpu"))
    with counted() as counts:
        found = there(x.to("cuda"))
    assert "convolution" not in counts.kernels
    assert torch.equal(found.cpu(), here(x))
    wider = Resample(direction, [1, 3, 3, 1]).to("cuda")
    assert wider(x.to("cuda")).shape == found.shape
