"""Images by seed: the same bytes whatever they are generated beside."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from helpers.formula_weights import set_formula_weights
from torch import Tensor

from memaudit.data.images import float_to_uint8, uint8_to_float
from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.ablation import (
    GeneralPath,
    default_sigma_range,
    discretize,
    noise_schedule,
    pick_levels,
)
from memaudit.models.build import build_network
from memaudit.models.execution import Execution
from memaudit.models.generate import GeneratedBatch, generate_images
from memaudit.models.iddpm import iddpm_levels
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler import heun_sampler, karras_sigmas
from memaudit.models.sampler_config import SamplerConfig
from memaudit.models.seeds import PerImageRandom

CHURN = {"S_churn": 10, "S_min": 0.05, "S_max": 50, "S_noise": 1.003}


class ConstantDenoiser:
    """Sees one image, class k as the gray level k / label_dim, whatever it is given."""

    img_channels = 3
    img_resolution = 4
    sigma_min = 0.0
    sigma_max = math.inf

    def __init__(self, label_dim: int = 0) -> None:
        self.label_dim = label_dim

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        if class_labels is None:
            return torch.zeros_like(x)
        level = class_labels.argmax(1) / self.label_dim
        return level[:, None, None, None].expand_as(x)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return sigma


class BrokenDenoiser(ConstantDenoiser):
    """NaN for images whose noise is one of those given [K, C, H, W]."""

    def __init__(self, broken: Tensor) -> None:
        super().__init__()
        self.broken = broken

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        noise = (x / 80).to(torch.float32)
        hit = torch.tensor([any(torch.equal(n, b) for b in self.broken) for n in noise])
        return torch.where(hit[:, None, None, None], math.nan, torch.zeros_like(x))


class LastBits(ConstantDenoiser):
    """Shows the last bits of a network's float32 answer as pixels."""

    img_resolution = 8

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__(label_dim=10)
        self.network = network

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        denoised = self.network(x, sigma, class_labels).to(torch.float64)
        return (denoised * 2**16) % 2 - 1


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """A small class-conditional DDPM++ whose every path matters."""
    network = build_network(
        {
            "class_name": "EDMPrecond",
            "img_resolution": 8,
            "img_channels": 3,
            "label_dim": 10,
            "model_type": "SongUNet",
            "model_channels": 16,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attn_resolutions": [4],
        }
    )
    set_formula_weights(network, seed=1)
    return network.eval()


def generate(denoiser: Any, seeds: Sequence[int], **options: Any) -> GeneratedBatch:
    """All images as one batch."""
    batches = list(generate_images(denoiser, seeds, **options))
    classes = [batch.class_index for batch in batches if batch.class_index is not None]
    return GeneratedBatch(
        seeds=np.concatenate([batch.seeds for batch in batches]),
        images=np.concatenate([batch.images for batch in batches]),
        class_index=np.concatenate(classes) if classes else None,
    )


def assert_close(images: np.ndarray, expected: np.ndarray) -> None:
    """The same but for bytes that turned."""
    assert np.abs(images.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("options", [{}, CHURN], ids=["deterministic", "churn"])
def test_the_same_seeds_give_the_same_bits_whatever_the_batch_size(
    network: torch.nn.Module, options: dict[str, Any]
) -> None:
    config = SamplerConfig(num_steps=2, **options)
    seeds = range(70)  # more than one group
    whole = generate(LastBits(network), seeds, config=config, execution=Execution(100))
    for batch_size in (1, 7, 64):
        parts = generate(LastBits(network), seeds, config=config, execution=Execution(batch_size))
        assert np.array_equal(parts.images, whole.images)
        assert np.array_equal(parts.class_index, whole.class_index)


@pytest.mark.parametrize("options", [{}, CHURN], ids=["deterministic", "churn"])
def test_an_image_does_not_depend_on_the_other_seeds(network: Any, options: dict[str, Any]) -> None:
    config = SamplerConfig(num_steps=4, **options)
    together = generate(network, [3, 17, 5], config=config)
    alone = generate(network, [17], config=config)
    assert together.seeds.tolist() == [3, 17, 5]
    # A byte may turn where a kernel does not treat every row alike; none did on the CPUs seen.
    assert_close(together.images[1:2], alone.images)


def test_batches_hold_batch_size_images_in_the_order_of_the_seeds() -> None:
    batches = list(generate_images(ConstantDenoiser(), [9, 1, 8, 2, 7], execution=Execution(2)))
    assert [batch.seeds.tolist() for batch in batches] == [[9, 1], [8, 2], [7]]
    assert [tuple(batch.images.shape) for batch in batches] == [(2, 3, 4, 4)] * 2 + [(1, 3, 4, 4)]
    assert all(batch.images.dtype == np.uint8 for batch in batches)
    assert all(batch.class_index is None for batch in batches)


def test_an_image_is_the_samplers_end_rounded_down(network: Any) -> None:
    """Draws in EDM's order: noise, class, then the noise of the steps."""
    seeds = [4, 8]
    random = PerImageRandom(seeds)
    noise, classes = random.noise((3, 8, 8)), random.class_index(10)
    x = heun_sampler(
        network,
        noise,
        karras_sigmas(4),
        torch.eye(10)[classes],
        randn_like=random.randn_like,
        **CHURN,
    )
    batch = generate(network, seeds, config=SamplerConfig(num_steps=4, **CHURN))
    assert np.array_equal(batch.class_index, classes.numpy())
    assert_close(batch.images, float_to_uint8(x).numpy())


def test_a_given_class_replaces_the_drawn_one_and_leaves_the_noise(network: Any) -> None:
    config = SamplerConfig(num_steps=4, **CHURN)
    drawn = generate(network, range(6), config=config)
    assert len(set(drawn.class_index.tolist())) > 1
    chosen = int(drawn.class_index[2])
    given = generate(network, range(6), config=config, class_index=chosen)
    assert given.class_index.tolist() == [chosen] * 6
    assert np.array_equal(given.images[2], drawn.images[2])


def test_each_image_can_have_its_own_class(network: Any) -> None:
    config = SamplerConfig(num_steps=4)
    classes = [index % 10 for index in range(70)]  # more than one group
    given = generate(network, range(70), config=config, class_index=classes)
    assert given.class_index.tolist() == classes
    alone = generate(network, [66], config=config, class_index=6)
    assert_close(given.images[66:67], alone.images)


@pytest.mark.parametrize("options", [{}, {"discretization": "iddpm", "scaling": "vp"}])
def test_sampling_may_begin_at_noised_images(options: dict[str, Any]) -> None:
    """D(x) = x leaves the state where it began: at y + sigma·n, to the last byte."""

    class Identity(ConstantDenoiser):
        def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
            return x

    start = np.random.default_rng(0).integers(0, 256, (70, 3, 4, 4), dtype=np.uint8)
    config = SamplerConfig(num_steps=3, sigma_max=0.1, **options)
    batch = generate(Identity(), range(70), config=config, start=start)
    levels = torch.from_numpy(iddpm_levels(dtype=np.float64)[:-1])
    sigma = float(pick_levels(levels, 3, sigma_min=0.002, sigma_max=0.1)[0]) if options else 0.1
    noise = PerImageRandom(range(70)).noise((3, 4, 4)).double()
    expected = float_to_uint8(uint8_to_float(torch.from_numpy(start)) + sigma * noise)
    assert_close(batch.images, expected.numpy())
    assert (batch.images == expected.numpy()).mean() > 0.99


def test_as_many_starts_and_classes_as_seeds_are_needed() -> None:
    with pytest.raises(ValueError, match="start holds 2, but there are 3 seeds"):
        generate_images(ConstantDenoiser(), range(3), start=np.zeros((2, 3, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="class_index holds 1, but there are 3 seeds"):
        generate_images(ConstantDenoiser(5), range(3), class_index=[4])


def test_labels_reach_the_denoiser_as_one_hot_rows() -> None:
    batch = generate(ConstantDenoiser(label_dim=10), range(20))
    levels = float_to_uint8(torch.from_numpy(batch.class_index).double() / 10).numpy()
    assert (batch.images == levels[:, None, None, None]).all()


def test_an_ablation_choice_turns_to_the_general_sampler(network: Any) -> None:
    options = {"solver": "euler", "discretization": "vp", "schedule": "vp", "scaling": "vp"}
    batch = generate(network, [1], config=SamplerConfig(num_steps=4, **options), class_index=0)
    noise = PerImageRandom([1]).noise((3, 8, 8))
    low, high = default_sigma_range("vp")
    x = heun_sampler(
        network,
        noise,
        discretize("vp", 4, sigma_min=low, sigma_max=high),
        torch.eye(10)[:1],
        path=GeneralPath(noise_schedule("vp", sigma_min=low, sigma_max=high), "vp"),
        solver="euler",
    )
    assert_close(batch.images, float_to_uint8(x).numpy())


def test_pixels_that_are_not_finite_are_refused_with_their_seed() -> None:
    denoiser = BrokenDenoiser(PerImageRandom([12, 14]).noise((3, 4, 4)))
    with pytest.raises(CheckpointError, match=r"not finite for seed 12 \(for 2 of the 5 images"):
        generate(denoiser, [10, 11, 12, 13, 14], config=SamplerConfig(num_steps=1))
    assert len(generate(denoiser, [10, 11, 13], config=SamplerConfig(num_steps=1)).images) == 3


def test_images_come_out_writable(network: Any) -> None:
    (batch,) = generate_images(network, [0], config=SamplerConfig(num_steps=2))
    batch.images[0] = 0


def test_progress_counts_images_and_ends_at_all_of_them() -> None:
    told: list[tuple[str, int, int | None]] = []
    generate(
        ConstantDenoiser(),
        range(100),
        config=SamplerConfig(num_steps=4),
        execution=Execution(10),
        progress=lambda task, done, total, note="": told.append((task, done, total)),
    )
    assert told[0] == ("Sampling", 16, 100)  # a quarter of the first 64
    assert told[-1] == ("Sampling", 100, 100)
    assert all(a[1] <= b[1] for a, b in pairwise(told))


@pytest.mark.parametrize(
    ("label_dim", "message"), [(0, "Class 3 .* no classes"), (3, "Class 3 .* classes 0 to 2")]
)
def test_a_class_that_the_model_lacks_is_refused_at_once(label_dim: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate_images(ConstantDenoiser(label_dim), [0], class_index=3)


def test_a_batch_of_nothing_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="batch_size is 0; at least 1"):
        Execution(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps is 0; at least 1"),
        ({"sigma_min": 0.0}, "sigma_min is 0.0; more than 0 and finite"),
        ({"sigma_max": math.nan}, "sigma_max is nan; more than 0 and finite"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "sigma_min is 2 and sigma_max is 1; .* not be larg"),
        ({"rho": 0.0}, "rho is 0.0; more than 0 and finite"),
        ({"S_churn": -1.0}, "S_churn is -1.0; at least 0 and finite"),
        ({"S_min": -1.0}, "S_min is -1.0; at least 0"),
        ({"S_min": 2.0, "S_max": 1.0}, "S_min is 2 and S_max is 1; .* not be larger"),
        ({"S_noise": math.inf}, "S_noise is inf; at least 0 and finite"),
        ({"solver": "rk4"}, "solver is 'rk4'; one of euler, heun"),
        ({"discretization": "ddim"}, "discretization is 'ddim'; one of vp, ve, iddpm, edm"),
        ({"schedule": "cosine"}, "schedule is 'cosine'; one of vp, ve, linear"),
        ({"scaling": "ve"}, "scaling is 've'; one of vp, none"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplerConfig(**options)


def test_weighted_classes_change_the_class_and_not_the_noise():
    """An image is the one that asking for its class by number gives."""
    images = np.random.default_rng(0).integers(0, 256, (12, 1, 4, 4), np.uint8)
    model = ClosedFormOptimum(images, np.arange(12) % 3)
    config = SamplerConfig(num_steps=4, S_churn=4.0)
    (weighted,) = generate_images(model, range(20), config=config, class_weights=[1, 0, 3])
    assert set(weighted.class_index.tolist()) == {0, 2}
    (asked,) = generate_images(
        model, range(20), config=config, class_index=weighted.class_index.tolist()
    )
    assert np.array_equal(weighted.images, asked.images)


@pytest.mark.parametrize("weights", [[1, 1], [1, -1, 1], [0, 0, 0]])
def test_weights_that_are_not_one_per_class_are_refused(weights: list[float]):
    images = np.zeros((3, 1, 4, 4), np.uint8)
    model = ClosedFormOptimum(images, np.arange(3))
    with pytest.raises(ValueError, match="one number ≥ 0 per class"):
        generate_images(model, range(2), class_weights=weights)
