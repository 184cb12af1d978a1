"""The denoising test against denoisers whose loss is known, and against every way around it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from torch import Tensor, nn

from memaudit.audit.config import ScanConfig
from memaudit.audit.denoising.loss_test import MAX_RATIO, check_denoising
from memaudit.audit.denoising.noise_range import NoiseRange, check_noise_range
from memaudit.audit.denoising.noised_images import NUM_IMAGES, corrected_loss
from memaudit.audit.report.ci import junit_xml, markdown_summary
from memaudit.audit.report.page import render_page
from memaudit.audit.report.schema import make_report
from memaudit.audit.scan import scan
from memaudit.data.images import ImageSet, uint8_to_float
from memaudit.data.sources import open_images
from memaudit.errors import CheckpointError, ConfigError, DataError
from memaudit.models.build import build_network
from memaudit.models.checkpoints import open_checkpoint
from memaudit.models.execution import Execution
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.precond import Preconditioner
from memaudit.models.published_networks import PRESETS, Preset
from memaudit.models.sampler_config import SamplerConfig
from tests.helpers.tiny_networks import TINY, tiny


def smooth(num_images: int = 60, size: int = 8, seed: int = 0) -> ImageSet:
    """Color gradients: pixels that resemble their neighbors."""
    corners = np.random.default_rng(seed).uniform(0, 255, (num_images, 3, 2, 2))
    t = np.linspace(0, 1, size)
    rows = corners[:, :, :1] * (1 - t[:, None]) + corners[:, :, 1:] * t[:, None]
    images = rows[..., :1] * (1 - t) + rows[..., 1:] * t
    return ImageSet.from_array(images.round().astype(np.uint8), source="train")


TRAIN = smooth()


@dataclass
class Answers:
    """A denoiser of a given function."""

    function: Any
    img_channels: int = 3
    img_resolution: int = 8
    label_dim: int = 0
    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return torch.as_tensor(sigma)

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return self.function(x, sigma, class_labels)  # type: ignore[no-any-return]


class TrainedNetwork(nn.Module):
    """What an EDM network that learned its images by heart predicts: F = (D* - c_skip x)/c_out.

    Its noise label is bounded, as an embedding is.
    """

    def __init__(self, images: np.ndarray) -> None:
        super().__init__()
        self.optimum = ClosedFormOptimum(images)
        self.trained_as = tiny("EDMPrecond")

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        sigma = (4 * noise_labels[0].clamp(-2, 1.5)).exp()
        c_skip, c_out, c_in, _ = self.trained_as.scalings(sigma)
        return ((self.optimum(x / c_in, sigma) - c_skip * x / c_in) / c_out).to(torch.float32)


def trained(class_name: str = "EDMPrecond", **options: Any) -> Preconditioner:
    """A network of EDM that copies its training images, under a configuration of its own."""
    network = tiny(class_name, **options)
    network.model = TrainedNetwork(TRAIN.images)
    return network


def shrink_to_mean(data: ImageSet) -> Answers:
    y = uint8_to_float(torch.from_numpy(np.array(data.images))).double()
    mean, variance = y.mean(), y.var(correction=0)
    return Answers(
        lambda x, sigma, _: mean + variance / (variance + sigma**2) * (x - mean),
        img_channels=data.image_shape[0],
        img_resolution=data.image_shape[1],
    )


def wiener_filter(data: ImageSet) -> Answers:
    """The best filter, from the power spectrum of the images."""
    y = uint8_to_float(torch.from_numpy(np.array(data.images))).double()
    mean = y.mean()
    power = (
        torch.from_numpy(dctn((y - mean).numpy(), axes=(1, 2, 3), norm="ortho")).square().mean(0)
    )

    def denoise(x: Tensor, sigma: Tensor, _: Tensor | None) -> Tensor:
        spectrum = dctn((x - mean).numpy(), axes=(1, 2, 3), norm="ortho")
        gain = (power / (power + sigma**2)).numpy()
        return mean + torch.from_numpy(idctn(gain * spectrum, axes=(1, 2, 3), norm="ortho"))

    return Answers(denoise)


# ------------------------------------------------------------------------------------------------
# The losses


def test_losses_of_shrinking_and_of_a_filter_are_those_of_denoisers_that_do_so():
    data = smooth(NUM_IMAGES)  # all of them are used
    shrunk = check_denoising(shrink_to_mean(data), data)
    filtered = check_denoising(wiener_filter(data), data)
    assert [round(level.sigma, 3) for level in shrunk.levels][::8] == [80, 0.002]
    assert len(shrunk.levels) == 9 and shrunk.num_images == NUM_IMAGES
    for by_mean, by_filter in zip(shrunk.levels, filtered.levels, strict=True):
        # 48 images of 192 values: the loss varies by 1 to 3 percent.
        assert by_mean.loss == pytest.approx(by_mean.shrink_loss, rel=0.08)
        assert by_filter.loss == pytest.approx(by_filter.linear_loss, rel=0.15)
        assert by_filter.linear_loss <= by_filter.shrink_loss * (1 + 1e-12)
    assert filtered.denoises and not filtered.warnings


def test_the_optimum_and_a_network_that_is_run_as_it_was_trained_denoise():
    for model in (ClosedFormOptimum(TRAIN.images), trained()):
        found = check_denoising(model, TRAIN)
        assert found.allows_pass and found.causes == ()
        assert max(level.ratio for level in found.levels) < 1.1
        assert "as configured" in found.message and "0.002 to 80" in found.message


def test_the_numbers_are_the_same_at_every_run_and_for_every_batch_size():
    network = tiny("EDMPrecond")
    first = check_denoising(network, TRAIN, execution=Execution(batch_size=64))
    assert check_denoising(network, TRAIN, execution=Execution(batch_size=5)) == first


def test_a_shrinking_denoiser_that_sees_through_nothing_does_not_pass():
    """It is what an untrained EDM network does, and a filter does much better."""
    found = check_denoising(shrink_to_mean(TRAIN), TRAIN)
    assert not found.denoises
    assert found.worst.sigma < 1 and found.worst.ratio < MAX_RATIO
    assert "linear filter" in found.message and "never trained" in found.causes[0]


def test_shrinking_does_not_pass_where_a_filter_is_only_somewhat_better():
    """As a hardly trained model of noisy images: within what is allowed at every single level."""
    rng = np.random.default_rng(0)
    noisy = np.clip(TRAIN.images / 2.0 + rng.normal(64, 30, TRAIN.images.shape), 0, 255)
    data = ImageSet.from_array(noisy.astype(np.uint8))
    found = check_denoising(shrink_to_mean(data), data)
    assert all(level.loss <= level.allowed for level in found.levels)
    assert any(level.linear_loss < 0.8 * level.shrink_loss for level in found.levels)
    assert not found.denoises and "at no noise level" in found.message
    assert check_denoising(ClosedFormOptimum(data.images), data).denoises


def test_white_noise_leaves_nothing_to_learn_so_that_shrinking_is_enough():
    noise = np.random.default_rng(0).integers(0, 256, (60, 3, 8, 8), np.uint8)
    data = ImageSet.from_array(noise)
    assert check_denoising(shrink_to_mean(data), data).denoises


@pytest.mark.parametrize("class_name", ["EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond"])
def test_random_weights_do_not_denoise(class_name: str):
    torch.manual_seed(0)
    assert not check_denoising(build_network({"class_name": class_name} | TINY), TRAIN).denoises


def test_a_denoiser_without_a_use_for_sigma_is_told_so():
    constant = Answers(lambda x, sigma, _: torch.zeros_like(x, dtype=torch.float32))
    found = check_denoising(constant, TRAIN)
    assert not found.denoises and found.worst.sigma < 1


def test_errors_too_small_to_see_and_errors_that_the_noise_hides_are_allowed():
    optimum = ClosedFormOptimum(TRAIN.images)

    def off_by(x: Tensor, sigma: Tensor, _: Tensor | None) -> Tensor:
        error = 3 / 127.5 + 0.05 * sigma
        return optimum(x, sigma) + error  # type: ignore[no-any-return]

    found = check_denoising(Answers(off_by), TRAIN)
    assert found.denoises
    assert max(level.ratio for level in found.levels) > 100  # at 0.002


@pytest.mark.parametrize("value", [0, 7, 128, 255])
@pytest.mark.parametrize("num_images", [1, 2])
def test_images_of_a_single_color_have_no_variance(value: int, num_images: int):
    data = ImageSet.from_array(np.full((num_images, 3, 8, 8), value, np.uint8))
    y = value / 127.5 - 1
    right = check_denoising(Answers(lambda x, sigma, _: torch.full_like(x, y)), data)
    wrong = check_denoising(Answers(lambda x, sigma, _: x.to(torch.float32)), data)
    assert right.denoises and not wrong.denoises
    assert right.variance == 0 and right.num_images == num_images
    assert "inf" in wrong.message


def test_labels_are_those_of_the_images_or_drawn():
    labels = np.arange(60) % 3
    data = replace(TRAIN, labels=labels)
    optimum = ClosedFormOptimum(data.images, labels, label_dim=3)
    known = check_denoising(optimum, data)
    assert known.given_labels and known.denoises
    drawn = check_denoising(optimum, TRAIN)
    assert not drawn.given_labels
    assert drawn.levels[0].loss > known.levels[0].loss
    too_many = check_denoising(tiny("EDMPrecond", label_dim=2), data)
    assert not too_many.given_labels


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, s, _: torch.full_like(x, math.nan), "48 of 48 .* noise level 80 .* not finite"),
        (lambda x, s, _: x[:, :1], r"\[48, 3, 8, 8\] to \[48, 1, 8, 8\]"),
    ],
)
def test_answers_that_are_no_images_are_refused(answer: Any, message: str):
    with pytest.raises(CheckpointError, match=message):
        check_denoising(Answers(answer), TRAIN)


def test_images_that_the_model_cannot_be_given_are_refused():
    with pytest.raises(DataError, match=r"\[3, 16, 16\] but the model makes \[3, 8, 8\]"):
        check_denoising(tiny("EDMPrecond"), smooth(size=16))
    with pytest.raises(DataError, match="holds no images"):
        check_denoising(tiny("EDMPrecond"), TRAIN.take(np.array([], np.int64)))


# ------------------------------------------------------------------------------------------------
# Ways around a gate: weights that copy, under a configuration that hides it

FEW: dict[str, Any] = {"seeds": range(32), "without": ("optimality",)}
GATED = ScanConfig(**FEW, fail_above=0.2)

CONFIGURED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "class VPPrecond": ("VPPrecond", {}),
    "class VEPrecond": ("VEPrecond", {}),
    "class iDDPMPrecond": ("iDDPMPrecond", {}),
    "class ConsistencyPrecond": ("ConsistencyPrecond", {}),
    "sigma_data 50": ("EDMPrecond", {"sigma_data": 50.0}),
    "sigma_data 5": ("EDMPrecond", {"sigma_data": 5.0}),
    "sigma_data 0.01": ("EDMPrecond", {"sigma_data": 0.01}),
}
CUT: Mapping[str, dict[str, float]] = {
    "sigma_max 0.002": {"sigma_max": 0.002},
    "sigma_max 0.01": {"sigma_max": 0.01},
    "sigma_max 0.1": {"sigma_max": 0.1},
    "sigma_max 0.3": {"sigma_max": 0.3},
    "sigma_min 20": {"sigma_min": 20.0},
}


def test_the_network_that_the_others_are_made_from_fails_the_gate():
    result = scan(trained(), TRAIN, config=GATED)
    assert result.verdict == "FAIL" and result.denoising is not None
    assert result.denoising.allows_pass and result.source.warnings == ()


@pytest.mark.parametrize("name", CONFIGURED)
def test_a_wrong_configuration_is_not_taken_for_a_model_that_does_not_copy(name: str):
    class_name, options = CONFIGURED[name]
    result = scan(trained(class_name, **options), TRAIN, config=GATED)
    found = result.denoising
    assert found is not None
    assert not found.denoises and not found.allows_pass
    assert "does not denoise as configured" in found.message
    assert result.source.warnings[0].startswith(found.message)
    assert "preconditioning" in result.source.warnings[0]
    for shown in (junit_xml(result), markdown_summary(result), result.summary()):
        assert "does not denoise as configured" in shown
    assert "<strong>No.</strong>" in render_page(result, make_report(result))


@pytest.mark.parametrize("sigma_data", [0.05, 0.2, 0.3, 0.4, 0.45, 0.55, 0.7, 1.0, 1.5, 3.0])
def test_a_changed_sigma_data_is_seen_before_it_hides_copies(sigma_data: float):
    found = check_denoising(trained(sigma_data=sigma_data), TRAIN)
    assert not found.denoises and "sigma_data" in " ".join(found.causes[:2])


class Skewed:
    """The optimum, scaled, with a part of its input added."""

    def __init__(self, optimum: ClosedFormOptimum, scale: float, share: float) -> None:
        self.optimum, self.scale, self.share = optimum, scale, share

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimum, name)

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return self.scale * self.optimum(x, sigma, class_labels) + self.share * x


@pytest.mark.parametrize(
    ("scale", "share", "denoises"),
    [(1, 0, True), (0.98, 0, True), (0.93, 0.06, False), (1.05, -0.06, False)],
)
def test_what_a_linear_correction_would_improve_is_no_trained_denoiser(
    scale: float, share: float, denoises: bool
):
    found = check_denoising(Skewed(ClosedFormOptimum(TRAIN.images), scale, share), TRAIN)
    assert found.denoises == denoises
    assert denoises or "is skewed" in found.message


def test_the_corrected_loss_is_that_of_the_best_linear_correction():
    generator = torch.Generator().manual_seed(0)
    x, D, error = torch.randn(3, 500, generator=generator, dtype=torch.float64)
    error = error + 0.3 * D - 0.2 * x + 0.1
    parts = torch.stack([x, D, torch.ones_like(x), error])
    found = corrected_loss((parts @ parts.T / 500).numpy())
    given = torch.stack([x - x.mean(), D - D.mean()], 1)
    left = error - given @ torch.linalg.lstsq(given, error[:, None]).solution[:, 0]
    assert found == pytest.approx(float(left.square().mean()), rel=1e-9)
    assert found < 0.95 * float(error.square().mean())
    assert corrected_loss(np.zeros((4, 4))) == 0


@pytest.mark.parametrize("name", CUT)
def test_a_noise_range_that_hides_the_copies_is_an_error_under_a_gate(name: str):
    network = trained(**CUT[name])
    with pytest.raises(ConfigError, match=r"says that it supports noise levels") as error:
        scan(network, TRAIN, config=GATED)
    assert error.value.fields == ("fail_above",)
    result = scan(network, TRAIN, config=ScanConfig(**FEW))
    found = result.denoising
    assert found is not None and not found.allows_pass
    assert found.noise_range.problem in result.source.warnings[0]
    limits = (found.noise_range.used_min, found.noise_range.used_max)
    assert limits == (max(0.002, network.sigma_min), min(80, network.sigma_max))
    stated = make_report(result).denoising
    assert stated is not None and stated.noise_range == found.noise_range
    assert f"{limits[0]:g} to {limits[1]:g}" in markdown_summary(result)


def test_a_range_that_the_user_asked_for_is_no_error_but_allows_no_pass():
    result = scan(
        trained(), TRAIN, config=replace(GATED, sampler=SamplerConfig(sigma_max=0.5, num_steps=4))
    )
    found = result.denoising
    assert found is not None and found.denoises
    assert not found.noise_range.is_cut and not found.allows_pass
    assert "begins at noise level 0.5" in result.source.warnings[0]


def range_of(network: Any, *, needed_max: float = 10.0) -> NoiseRange:
    low, high = max(network.sigma_min, 0.002), min(network.sigma_max, 80.0)
    return NoiseRange(0.002, 80.0, low, high, needed_max)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_published_networks_keep_their_ranges(preset: Preset):
    stated = {
        name: value
        for name, value in preset.config.items()
        if name in ("sigma_min", "sigma_max", "M", "beta_d", "beta_min", "epsilon_t")
    }
    assert not range_of(tiny(str(preset.config["class_name"]), **stated)).problem


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [
        ("linear", torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
        ("scaled_linear", torch.linspace(8.5e-4**0.5, 0.012**0.5, 1000).double() ** 2),
        ("sigmoid", torch.sigmoid(torch.linspace(-6, 6, 1000).double()) * (0.02 - 1e-4) + 1e-4),
    ],
)
def test_usual_schedules_keep_their_ranges(schedule: str, betas: Tensor):
    alpha_bar = (1 - betas).cumprod(0)
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
    model = Answers(None, sigma_min=float(sigma[0]), sigma_max=float(sigma[-1]))
    assert not range_of(model).problem
    check_noise_range(range_of(model))


def test_a_range_that_cuts_without_harm_is_recorded_and_no_warning():
    network = trained(sigma_min=0.02, sigma_max=30.0)
    result = scan(network, TRAIN, config=GATED)
    found = result.denoising
    assert found is not None and found.allows_pass and result.source.warnings == ()
    assert (found.noise_range.used_min, found.noise_range.used_max) == (0.02, 30.0)
    page = render_page(result, make_report(result))
    assert "the model supports 0.02 to 30 of them" in page


def test_given_images_are_not_tested():
    result = scan(TRAIN.images[:5], TRAIN)
    assert result.denoising is None and make_report(result).denoising is None
    assert "Does the model denoise" not in render_page(result, make_report(result))


@pytest.mark.parametrize("name", ["class_VPPrecond", "sigma_max_0.1"])
def test_checkpoints_that_were_made_to_pass_do_not(name: str, security_cases: Path):
    checkpoint = open_checkpoint(security_cases / f"evade_{name}.safetensors")
    data = open_images(security_cases / "train6.npz")
    found = check_denoising(checkpoint.network, data)
    assert not found.allows_pass
    honest = open_checkpoint(security_cases / "copying_model.safetensors")
    assert check_denoising(honest.network, data).allows_pass


@pytest.fixture
def security_cases(golden: Path) -> Path:
    folder = golden.parent / "cases/security"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder
