"""Noise and return, on denoisers that know by heart what the test planted in them."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from memaudit.audit.diagnostics.noise_and_return import ReturnTestConfig, return_test
from memaudit.audit.memorization.matches import match_images
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.data.images import ImageSet, uint8_to_float
from memaudit.errors import ConfigError, DataError
from memaudit.models.generate import generate_images
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler_config import SamplerConfig

SAMPLER = SamplerConfig(num_steps=12)
CONFIG = ReturnTestConfig(sigmas=(0.25, 0.5, 4.0), num_images=40, sampler=SAMPLER)


def noise_images(seed: int, num_images: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_images, 1, 8, 8), dtype=np.uint8)


def image_set(images: np.ndarray, **more) -> ImageSet:
    return ImageSet(images, [f"image {i}" for i in range(len(images))], **more)


class WeightedMemory:
    """D(x; σ) = Σ wᵢ yᵢ, w = softmax(ln πᵢ − ‖x − yᵢ‖²/2σ²): an image i is sampled πᵢ often."""

    img_channels, img_resolution, label_dim = 1, 8, 0
    sigma_min, sigma_max = 0.0, math.inf

    def __init__(self, images: np.ndarray, log_prior: np.ndarray) -> None:
        self.y = uint8_to_float(torch.from_numpy(images)).flatten(1).double()
        self.log_prior = torch.from_numpy(log_prior)

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        squared = torch.cdist(x.flatten(1).double(), self.y).square()
        weights = (self.log_prior - squared / (2 * sigma**2)).softmax(1)
        return (weights @ self.y).view(x.shape).float()

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return sigma


def test_leaks_that_sampling_never_shows_are_found():
    """Three of 40 training images are known by heart, with a weight of 1e-9 each."""
    train, holdout = image_set(noise_images(0, 40)), image_set(noise_images(1, 40))
    known = np.concatenate([train.images[[5, 11, 30]], noise_images(2, 200)])
    model = WeightedMemory(known, np.log(np.where(np.arange(203) < 3, 1e-9, 1.0)))
    index = NeighborIndex(train.images)

    batches = generate_images(model, range(300), config=SAMPLER)
    sampled = np.concatenate([batch.images for batch in batches])
    assert match_images(index, sampled).memorized_distinct.sum() == 0

    found = return_test(model, train, holdout=holdout, index=index, config=CONFIG)
    assert {attractor.index for attractor in found.attractors} == {5, 11, 30}
    assert {attractor.name for attractor in found.attractors} == {"image 5", "image 11", "image 30"}
    assert all(attractor.sigma >= 0.25 for attractor in found.attractors)
    assert [at.sigma for at in found.at_sigma] == [0.25, 0.5, 4.0]
    assert found.at_sigma[0].train.count == 3
    assert found.at_sigma[2].train.count == 0
    assert all(at.holdout.count == 0 and at.holdout.total == 40 for at in found.at_sigma)
    assert found.holdout_sigma == 0


def test_the_optimum_returns_to_every_training_image_and_to_no_held_out_one():
    train, holdout = image_set(noise_images(3, 60)), image_set(noise_images(4, 50))
    config = replace(CONFIG, sigmas=(0.3, 0.6), num_images=32)
    found = return_test(ClosedFormOptimum(train.images), train, holdout=holdout, config=config)
    assert [at.train.ratio for at in found.at_sigma] == [1, 1]
    assert [at.holdout.ratio for at in found.at_sigma] == [0, 0]
    assert len(found.attractors) == 32
    assert {attractor.sigma for attractor in found.attractors} == {0.6}


def test_a_model_that_leaves_small_noise_alone_treats_both_sets_alike():
    """D(x; σ) = x sees no noise, so that every image comes back from little of it."""

    class Identity(WeightedMemory):
        def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
            return x.float()

    train, holdout = image_set(noise_images(5, 30)), image_set(noise_images(6, 30))
    config = replace(CONFIG, sigmas=(0.05, 8.0))
    found = return_test(Identity(train.images, np.zeros(30)), train, holdout=holdout, config=config)
    for at, ratio in zip(found.at_sigma, (1, 0), strict=True):
        assert at.train.ratio == at.holdout.ratio == ratio
    assert found.holdout_sigma == 0.05


def test_duplicates_neither_hide_a_return_nor_make_one():
    """Each training image twice, one gray level apart; held-out images that duplicate them."""
    once = noise_images(7, 20).clip(1, 254)
    train = image_set(np.concatenate([once, once + 1]))
    holdout = image_set(np.concatenate([once[:10] - 1, noise_images(8, 10)]))
    config = replace(CONFIG, sigmas=(0.3,))
    found = return_test(ClosedFormOptimum(train.images), train, holdout=holdout, config=config)
    assert found.at_sigma[0].train.ratio == 1
    assert found.at_sigma[0].holdout.count == 10


@pytest.mark.parametrize(("num_others", "returns"), [(20, 1), (0, 0)])
def test_the_second_neighbor_of_a_held_out_image_lies_outside_its_duplicates(
    num_others: int, returns: int
):
    """The model gives z + 1: 1 gray level from z and 2 from its 20 duplicates, z − 1 and less.

    Only beyond them d₂ > 3·d₁. Where nothing lies beyond, the published rule decides: d₂ = 2·d₁.
    """
    z = noise_images(16, 1).clip(30, 225)
    duplicates = np.concatenate([z - 1 - i // 4 for i in range(20)])
    train = image_set(np.concatenate([duplicates, noise_images(17, num_others)]))
    holdout = image_set(np.concatenate([z, noise_images(18, 1)]))
    model = ClosedFormOptimum(z + 1)
    found = return_test(model, train, holdout=holdout, config=replace(CONFIG, sigmas=(0.3,)))
    assert found.at_sigma[0].holdout.count == returns


def test_a_held_out_image_is_judged_as_if_it_were_a_training_image():
    """A model that knows the held-out images: they return as training images would."""
    train, holdout = image_set(noise_images(9, 20)), image_set(noise_images(10, 20))
    config = replace(CONFIG, sigmas=(0.5,))
    model = ClosedFormOptimum(holdout.images)
    as_holdout = return_test(model, train, holdout=holdout, config=config).at_sigma[0]
    assert as_holdout.train.count == 0
    assert as_holdout.holdout.ratio == 1


def test_images_start_with_the_label_of_their_class():
    """In the optimum of unique labels every image returns from any noise to itself."""
    train = image_set(noise_images(11, 12), labels=np.arange(12))
    config = replace(CONFIG, sigmas=(16.0,))
    found = return_test(ClosedFormOptimum(train.images, train.labels), train, config=config)
    assert found.at_sigma[0].train.ratio == 1
    assert found.at_sigma[0].holdout is None and found.holdout_sigma is None
    assert len(found.attractors) == 12


def test_an_image_counts_where_half_of_its_noises_lead_back():
    train = image_set(noise_images(12, 6))
    config = replace(CONFIG, sigmas=(0.3,), num_noises=3)
    told: list[tuple[int, int | None]] = []
    found = return_test(
        ClosedFormOptimum(train.images),
        train,
        config=config,
        progress=lambda task, done, total, note="": told.append((done, total)),
    )
    assert (found.at_sigma[0].train.count, found.at_sigma[0].train.total) == (6, 6)
    assert told[-1] == (18, 18)


def test_the_result_is_plain_json_and_the_same_again():
    train = image_set(noise_images(13, 8))
    config = replace(CONFIG, sigmas=(1.0,))
    first = return_test(ClosedFormOptimum(train.images), train, config=config)
    again = return_test(ClosedFormOptimum(train.images), train, config=config)
    assert json.dumps(asdict(first), allow_nan=False) == json.dumps(asdict(again))


def test_levels_above_the_models_are_left_out_or_refused():
    train = image_set(noise_images(14, 8))
    model = WeightedMemory(train.images, np.zeros(8))
    model.sigma_max = 1.0
    found = return_test(model, train, config=replace(CONFIG, sigmas=(0.5, 2.0)))
    assert [at.sigma for at in found.at_sigma] == [0.5]
    with pytest.raises(ConfigError, match="is 2, but the model handles at most 1"):
        return_test(model, train, config=replace(CONFIG, sigmas=(2.0,)))


def test_images_that_do_not_fit_are_refused():
    train = image_set(noise_images(15, 8))
    wide = image_set(np.zeros((3, 1, 4, 4), np.uint8), source="wide")
    with pytest.raises(DataError, match=r"wide holds images of \[1, 4, 4\]"):
        return_test(ClosedFormOptimum(train.images), train, holdout=wide)


@pytest.mark.parametrize(
    ("option", "value"),
    [("sigmas", ()), ("sigmas", (0.0,)), ("num_images", 0), ("num_noises", 0)],
)
def test_options_that_make_no_sense_are_refused(option: str, value: object):
    with pytest.raises(ConfigError, match=option):
        ReturnTestConfig(**{option: value})
