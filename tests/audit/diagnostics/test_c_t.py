"""C_T on known sources, and in cells that run empty."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import norm

from memaudit.audit.diagnostics.c_t import DIAGNOSTIC, CopyingStatistic, copying_statistic
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.statistics.mann_whitney import mann_whitney_z
from memaudit.errors import DataError

PATTERNS = np.random.default_rng(0).normal(size=(6, 1, 6, 6))


def draw(rng: np.random.Generator, num_images: int, shift: float = 0.0) -> np.ndarray:
    """Blends of six patterns around one of two places, and a little noise."""
    blends = np.tensordot(rng.normal(size=(num_images, 6)), PATTERNS, 1)
    place = np.where(rng.random(num_images) < 0.5, -40, 40)[:, None, None, None]
    pixels = 127.5 + shift + place + 12 * blends + 4 * rng.normal(size=blends.shape)
    return pixels.clip(0, 255).astype(np.uint8)


def measure_copying(
    train: np.ndarray,
    holdout: np.ndarray,
    generated: np.ndarray,
    *,
    index: NeighborIndex | None = None,
    **options: int,
) -> CopyingStatistic:
    """C_T, after a search for the nearest training images."""
    index = index or NeighborIndex(train)
    distance_holdout, distance_generated = (
        index.nearest(images, 1).squared_distance[:, 0] for images in (holdout, generated)
    )
    return copying_statistic(
        train,
        holdout,
        generated,
        squared_distance_holdout=distance_holdout,
        squared_distance_generated=distance_generated,
        **options,
    )


def on_a_line(*values: int) -> np.ndarray:
    """One image a value, flat: uint8 [N, 1, 4, 4]."""
    return np.repeat(np.array(values, dtype=np.uint8), 16).reshape(-1, 1, 4, 4)


def test_copies_give_a_statistic_far_below_0_and_noise_one_far_above():
    rng = np.random.default_rng(2)
    train, holdout = draw(rng, 400), draw(rng, 200)
    copies = train[rng.integers(400, size=200)]
    noise = rng.integers(0, 256, (200, 1, 6, 6), dtype=np.uint8)
    copied = measure_copying(train, holdout, copies)
    assert copied.value < -5 * copied.spread
    assert copied.z == copied.value / copied.spread
    assert copied.p_value == pytest.approx(norm.cdf(copied.z))
    (clause,) = DIAGNOSTIC.evidence(copied, 0.05)
    assert clause.endswith(f"(C_T z = {copied.z:.1f})")
    missed = measure_copying(train, holdout, noise)
    assert missed.value > 5 * missed.spread
    assert missed.p_value == pytest.approx(1)
    assert not list(DIAGNOSTIC.evidence(missed, 0.05))


def test_a_few_copies_among_new_images_lower_the_statistic():
    rng = np.random.default_rng(3)
    train, holdout = draw(rng, 400), draw(rng, 400)
    new = draw(rng, 400)
    mixed = np.concatenate([train[:150], new[150:]])
    assert (
        measure_copying(train, holdout, mixed).value
        < measure_copying(train, holdout, new).value - 2
    )


def test_new_images_give_a_statistic_around_0_with_the_stated_spread():
    rng = np.random.default_rng(4)
    train = draw(rng, 200)
    index = NeighborIndex(train)
    found = [
        measure_copying(train, draw(rng, 60), draw(rng, 80), index=index, num_cells=4, seed=run)
        for run in range(200)
    ]
    standard = np.array([statistic.value / statistic.spread for statistic in found])
    assert abs(standard.mean()) < 4 / math.sqrt(200)
    assert standard.std() == pytest.approx(1, abs=0.2)
    assert standard.tolist() == [statistic.z for statistic in found]
    assert sum(bool(list(DIAGNOSTIC.evidence(statistic, 0.05))) for statistic in found) <= 2


def test_one_cell_is_the_plain_mann_whitney_test():
    rng = np.random.default_rng(5)
    train, holdout, generated = draw(rng, 100), draw(rng, 50), draw(rng, 70)
    index = NeighborIndex(train)
    found = measure_copying(train, holdout, generated, num_cells=1)
    a = index.nearest(generated, 1).squared_distance[:, 0]
    b = index.nearest(holdout, 1).squared_distance[:, 0]
    assert found.value == pytest.approx(mann_whitney_z(a, b))
    assert found.spread == 1


def test_cells_that_one_set_lacks_are_merged_and_no_image_is_lost():
    rng = np.random.default_rng(6)
    train, holdout = draw(rng, 300), draw(rng, 40)
    generated = draw(rng, 100)
    generated = generated[generated.mean((1, 2, 3)) < 127][:30]  # one of the two places only
    found = measure_copying(train, holdout, generated, num_cells=25)
    assert 1 <= len(found.cells) < 25
    assert all(cell.num_holdout and cell.num_generated for cell in found.cells)
    assert sum(cell.num_holdout for cell in found.cells) == 40
    assert sum(cell.num_generated for cell in found.cells) == 30
    alone = measure_copying(train, holdout, generated[:1], num_cells=25)
    assert len(alone.cells) == 1


def test_more_cells_than_training_images_and_equal_images_do_no_harm():
    train = on_a_line(10, 10, 200)
    found = measure_copying(train, on_a_line(11, 190), on_a_line(12, 180))
    assert sum(cell.num_holdout for cell in found.cells) == 2


def test_the_same_seed_gives_the_same_cells():
    rng = np.random.default_rng(7)
    train, holdout, generated = draw(rng, 100), draw(rng, 50), draw(rng, 70)
    first = measure_copying(train, holdout, generated, seed=3)
    assert asdict(first) == asdict(measure_copying(train, holdout, generated, seed=3))


def test_nothing_to_compare_is_refused():
    train = on_a_line(1, 2)
    with pytest.raises(DataError, match="there are 0 and 1"):
        measure_copying(train, on_a_line(), on_a_line(1))
    with pytest.raises(ValueError, match="one distance per image, got .2, 0. for .2, 1."):
        copying_statistic(
            train,
            train,
            on_a_line(1),
            squared_distance_holdout=np.zeros(2),
            squared_distance_generated=np.zeros(0),
        )
    with pytest.raises(ValueError, match="num_cells"):
        measure_copying(train, train, on_a_line(1), num_cells=0)
