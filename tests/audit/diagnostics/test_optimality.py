"""Model against optimum: the optimum itself, a linear denoiser, and identities that must hold."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from memaudit.audit.diagnostics.optimality import (
    DIAGNOSTIC,
    Optimality,
    OptimalityConfig,
    compare_with_optimum,
)
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError, DataError
from memaudit.models.execution import Execution
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler import karras_sigmas
from memaudit.models.sampler_config import SamplerConfig

SHAPE = (1, 8, 8)
PATTERNS = np.random.default_rng(0).normal(size=(8, *SHAPE))
CONFIG = OptimalityConfig(num_images=200, num_trajectories=16, sampler=SamplerConfig(num_steps=8))


def draw(seed: int, num_images: int, **more) -> ImageSet:
    """Images from one distribution: Gaussian blends of eight patterns, and a little noise."""
    rng = np.random.default_rng(seed)
    blends = np.tensordot(rng.normal(size=(num_images, 8)), PATTERNS, 1)
    pixels = 127.5 + 16 * blends + 6 * rng.normal(size=blends.shape)
    images = pixels.clip(0, 255).astype(np.uint8)
    return ImageSet(images, [f"{seed}[{i}]" for i in range(num_images)], **more)


class Wiener:
    """The best linear denoiser, m + C (C + σ²)⁻¹ (x − m): it has no image by heart."""

    img_channels, img_resolution, label_dim = 1, 8, 0
    sigma_min, sigma_max = 0.0, float("inf")

    def __init__(self, images: np.ndarray) -> None:
        y = torch.from_numpy(images.reshape(len(images), -1) / 127.5 - 1)
        self.mean = y.mean(0)
        self.variances, self.axes = torch.linalg.eigh(torch.cov(y.T))

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        along = (x.flatten(1).double() - self.mean) @ self.axes
        shrunk = along * self.variances / (self.variances + sigma**2)
        return (self.mean + shrunk @ self.axes.T).view(x.shape).float()

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return sigma


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return draw(1, 200)


@pytest.fixture(scope="module")
def holdout() -> ImageSet:
    return draw(2, 200)


@pytest.fixture(scope="module")
def of_optimum(train, holdout) -> Optimality:
    return compare_with_optimum(
        ClosedFormOptimum(train.images), train, holdout=holdout, config=CONFIG
    )


@pytest.fixture(scope="module")
def of_wiener(train, holdout) -> Optimality:
    return compare_with_optimum(
        Wiener(draw(3, 20_000).images), train, holdout=holdout, config=CONFIG
    )


def test_the_levels_are_those_that_the_sampler_visits(of_optimum):
    grid = karras_sigmas(8, sigma_min=0.002, sigma_max=80.0, rho=7.0)
    assert [at.sigma for at in of_optimum.at_sigma] == grid.tolist()


def test_the_optimum_as_a_model_has_mem_gap_1_and_agrees_with_itself(of_optimum):
    gaps = [at.mem_gap for at in of_optimum.at_sigma if at.mem_gap is not None]
    assert len(gaps) >= 4
    for gap in gaps:
        assert gap.value == pytest.approx(1, abs=1e-6)
        assert gap.low == pytest.approx(1, abs=1e-6)
    assert of_optimum.agreement.ratio == 1
    for at in of_optimum.at_sigma:
        assert at.train.squared_distance.value < 1e-11
        assert at.trajectory.value < 1e-11


def test_a_linear_denoiser_treats_training_and_held_out_images_alike(of_wiener):
    gaps = [at.mem_gap for at in of_wiener.at_sigma if at.mem_gap is not None]
    assert len(gaps) >= 3
    assert all(abs(gap.value) < 0.1 for gap in gaps)
    assert np.mean([gap.low <= 0 <= gap.high for gap in gaps]) > 0.7
    assert of_wiener.agreement.ratio < 0.9


def test_a_large_sigma_tells_training_from_held_out_images_by_noise_only(of_wiener):
    """There both losses are the images' variance: nothing to divide by."""
    assert of_wiener.at_sigma[0].sigma == pytest.approx(80)
    assert of_wiener.at_sigma[0].mem_gap is None


def test_excess_loss_is_the_squared_distance_from_the_optimum(of_wiener):
    """E‖D − y‖² = E‖D* − y‖² + E‖D − D*‖² over noised training images, D* being E[y | x]."""
    for at in of_wiener.at_sigma:
        excess = at.train.model_loss.value - at.train.optimum_loss.value
        width = at.train.model_loss.high - at.train.model_loss.low
        assert excess == pytest.approx(at.train.squared_distance.value, abs=width)


def test_no_denoiser_beats_the_optimum_on_training_images(of_wiener):
    for at in of_wiener.at_sigma:
        assert at.train.optimum_loss.low <= at.train.model_loss.high


def test_the_posterior_narrows_from_all_images_to_one(of_wiener):
    counts = [at.train.num_effective.value for at in of_wiener.at_sigma]
    assert counts[0] == pytest.approx(200, rel=0.05)
    assert counts[-1] == pytest.approx(1, abs=1e-6)
    assert counts == sorted(counts, reverse=True)


def test_intervals_hold_their_value(of_wiener):
    for at in of_wiener.at_sigma:
        for estimate in (at.train.model_loss, at.holdout.model_loss, at.trajectory):
            assert estimate.low <= estimate.value <= estimate.high
            assert estimate.low < estimate.high


def test_the_result_is_plain_json(of_wiener):
    assert json.loads(json.dumps(asdict(of_wiener), allow_nan=False))["num_holdout"] == 200


def test_batches_and_a_given_index_change_nothing(train, of_optimum):
    few = replace(CONFIG, num_images=50)
    one = compare_with_optimum(Wiener(train.images), train, config=few)
    other = compare_with_optimum(
        Wiener(train.images),
        train,
        index=NeighborIndex(train.images),
        config=replace(few, execution=Execution(batch_size=7)),
    )
    assert one.agreement == other.agreement
    for a, b in zip(one.at_sigma, other.at_sigma, strict=True):
        assert a.train.model_loss.value == pytest.approx(b.train.model_loss.value, rel=1e-5)
        assert a.train.num_effective.low == pytest.approx(b.train.num_effective.low, rel=1e-5)


def test_without_held_out_images_there_is_no_mem_gap(train):
    found = compare_with_optimum(Wiener(train.images), train, config=replace(CONFIG, num_images=50))
    assert found.num_holdout == 0
    assert all(at.holdout is None and at.mem_gap is None for at in found.at_sigma)


def test_a_conditional_model_is_held_against_the_conditional_optimum():
    """With unique labels the optimum is the labeled image at once: effective number 1."""
    train = draw(4, 20, labels=np.arange(20))
    found = compare_with_optimum(
        ClosedFormOptimum(train.images, train.labels), train, config=CONFIG
    )
    assert found.num_train == 20
    assert found.agreement.ratio == 1
    assert all(at.train.num_effective.value == pytest.approx(1) for at in found.at_sigma)
    assert all(at.trajectory.value < 1e-12 for at in found.at_sigma)


def test_images_that_do_not_fit_the_model_are_refused(train):
    model = ClosedFormOptimum(train.images)
    wide = ImageSet(np.zeros([5, 1, 16, 16], np.uint8), list("abcde"), source="wide.npz")
    with pytest.raises(DataError, match=r"wide.npz.*\[1, 16, 16\].*\[1, 8, 8\]"):
        compare_with_optimum(model, train, holdout=wide)
    with pytest.raises(DataError, match="holds 1 image"):
        compare_with_optimum(model, train, holdout=draw(5, 1))
    conditional = ClosedFormOptimum(train.images, np.arange(200) % 3)
    with pytest.raises(DataError, match="has no classes but the model has 3"):
        compare_with_optimum(conditional, train)
    with pytest.raises(DataError, match="has 5 classes but the model has 3"):
        compare_with_optimum(conditional, draw(6, 10, labels=np.arange(10) % 5))


@pytest.mark.parametrize(
    ("option", "value"),
    [("num_images", 1), ("num_trajectories", 1), ("confidence", 1.0)],
)
def test_options_that_make_no_sense_are_refused(option, value):
    with pytest.raises(ConfigError, match=option):
        OptimalityConfig(**{option: value})


def test_the_baseline_is_the_agreement_with_images_that_the_model_never_saw(of_optimum, of_wiener):
    baseline = of_optimum.baseline
    assert baseline.num_images == 200
    assert baseline.train.ratio == 1 and baseline.holdout.ratio < 0.7
    alike = of_wiener.baseline
    assert alike.train == of_wiener.agreement
    assert alike.holdout.low <= alike.train.high and alike.train.low <= alike.holdout.high


def test_the_baseline_compares_sets_of_one_size(train):
    found = compare_with_optimum(
        ClosedFormOptimum(train.images), train, holdout=draw(2, 50), config=CONFIG
    )
    assert found.baseline.num_images == 50
    assert found.agreement.ratio == 1


def test_mem_gap_is_evidence_for_the_optimum_and_not_for_a_linear_denoiser(of_optimum, of_wiener):
    (clause,) = DIAGNOSTIC.evidence(of_optimum, 0.05)
    assert "better than held-out ones (MemGap 1.00, 1.00 to 1.00, at sigma " in clause
    assert list(DIAGNOSTIC.evidence(of_wiener, 0.05)) == []
    without = replace(
        of_optimum,
        at_sigma=tuple(replace(at, p_adjusted=None, mem_gap=None) for at in of_optimum.at_sigma),
    )
    assert list(DIAGNOSTIC.evidence(without, 0.05)) == []


@pytest.mark.slow
@pytest.mark.parametrize(("num_train", "num_holdout"), [(100, 100), (60, 20)])
def test_a_model_that_knows_neither_set_is_branded_in_at_most_alpha_of_all_runs(
    num_train: int, num_holdout: int
):
    model = Wiener(draw(3, 20_000).images)
    config = replace(CONFIG, num_trajectories=2)
    branded = 0
    for run in range(200):
        found = compare_with_optimum(
            model,
            draw(1000 + run, num_train),
            holdout=draw(5000 + run, num_holdout),
            config=replace(config, seed=run),
        )
        branded += bool(list(DIAGNOSTIC.evidence(found, 0.05)))
    assert clopper_pearson(branded, 200, 0.999).low <= 0.05


CLASSES = replace(CONFIG, num_images=30, num_trajectories=12, sampler=SamplerConfig(num_steps=4))


def test_classes_without_training_images_are_left_out():
    """Eight classes, of which the training images have three and the held-out ones four."""
    train = draw(7, 30, labels=np.array([1, 4, 6])[np.arange(30) % 3])
    holdout = draw(8, 40, labels=np.array([1, 4, 5, 6])[np.arange(40) % 4])
    asked: set[int] = set()

    class Asked(ClosedFormOptimum):
        def __call__(self, x, sigma, class_labels=None):
            asked.update(class_labels.argmax(1).tolist())
            return super().__call__(x, sigma, class_labels)

    model = Asked(train.images, train.labels, label_dim=8)
    found = compare_with_optimum(model, train, holdout=holdout, config=CLASSES)
    assert asked == {1, 4, 6}
    assert found.agreement.ratio == found.baseline.train.ratio == 1
    assert found.num_holdout == 30 and found.baseline.num_images == 30


def test_classes_are_drawn_as_often_as_asked():
    train = draw(9, 20, labels=np.arange(20) % 2)
    model = ClosedFormOptimum(train.images, train.labels, label_dim=5)
    weights = (0.0, 1.0, 7.0, 0.0, 0.0)  # the third class has no training images
    with_weights = compare_with_optimum(
        model, train, config=replace(CLASSES, class_weights=weights)
    )
    one_class = compare_with_optimum(model, train, config=replace(CLASSES, class_index=1))
    assert asdict(with_weights) == asdict(one_class)


def test_without_a_class_in_common_there_is_no_baseline():
    train = draw(10, 20, labels=np.arange(20) % 2)
    holdout = draw(11, 20, labels=2 + np.arange(20) % 2)
    model = ClosedFormOptimum(train.images, train.labels, label_dim=4)
    found = compare_with_optimum(model, train, holdout=holdout, config=CLASSES)
    assert found.num_holdout == 0 and found.baseline is None
