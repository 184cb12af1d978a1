"""The bound within which fast images are confirmed, by geometry and by simulation."""

from fractions import Fraction

import numpy as np
import pytest

from memaudit.audit.confirmation import (
    Margins,
    evaluate_probe,
    match_with_margins,
    share_unseen,
    surprises,
    tolerance_rank,
)
from memaudit.audit.memorization.matches import match_images
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.pixel_index import NeighborIndex


def training_images(rng: np.random.Generator) -> np.ndarray:
    """Clusters of near-duplicates and of equal images, so that the first neighbor often changes."""
    centers = rng.integers(0, 256, (12, 1, 4, 4))
    near = np.repeat(centers, 4, axis=0) + rng.integers(-6, 7, (48, 1, 4, 4))
    near[::4] = near[1::4]
    return near.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("every_cell", [False, True])
@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("rms", [0.0, 3.0, 8.0])
def test_no_verdict_differs_where_an_image_moves_by_less_than_its_margin(every_cell, flips, rms):
    rng = np.random.default_rng(0)
    train = training_images(rng)
    index = NeighborIndex(train, flips=flips)
    rule = Rule(Fraction(1, 3), rms)
    near = train[rng.integers(48, size=600)] + rng.normal(0, 1, (600, 1, 4, 4)) * rng.uniform(
        0, 40, (600, 1, 1, 1)
    )
    images = near.clip(0, 255).astype(np.uint8)
    moves = rng.normal(0, 1, images.shape) * rng.exponential(2.5, (600, 1, 1, 1))
    again = (images + moves).clip(0, 255).astype(np.uint8)
    moved = np.sqrt(((images.astype(float) - again) ** 2).reshape(600, -1).sum(1))

    fast, margins = match_with_margins(index, images, rule, every_cell=every_cell)
    exact = match_images(index, again, rule)
    safe = moved < margins.certain
    assert 20 < safe.sum() < 580
    for name in ("is_copy", "memorized_paper", "memorized_distinct"):
        assert np.array_equal(getattr(fast, name)[safe], getattr(exact, name)[safe]), name
    assert np.array_equal(
        fast.memorized(0.0, rule.threshold)[safe], exact.memorized(0.0, rule.threshold)[safe]
    )
    if every_cell:
        for radius in (0.0, 4.0, 8.0, 16.0):
            assert np.array_equal(fast.is_near(radius)[safe], exact.is_near(radius)[safe])
            for threshold in (Fraction(1, 5), Fraction(1, 2)):
                found = fast.memorized(radius, threshold), exact.memorized(radius, threshold)
                assert np.array_equal(found[0][safe], found[1][safe])
    copies = safe & fast.is_copy
    same = train[fast.nn1[copies]] == train[exact.nn1[copies]]
    assert flips or same.all()
    assert (fast.is_copy != exact.is_copy).any()  # beyond their margins, some do differ


def test_the_matches_of_fast_images_are_those_of_a_scan():
    rng = np.random.default_rng(1)
    train = training_images(rng)
    index, images = NeighborIndex(train), rng.integers(0, 256, (50, 1, 4, 4)).astype(np.uint8)
    found, _ = match_with_margins(index, images, Rule(), every_cell=True)
    expected = match_images(index, images, Rule())
    assert found.neighbors.radii == expected.neighbors.radii
    assert np.array_equal(found.neighbors.index_distinct, expected.neighbors.index_distinct)


def test_share_beyond_the_largest_of_a_probe():
    assert (1 - share_unseen(512)) ** 512 == pytest.approx(0.05)
    assert share_unseen(1) == pytest.approx(0.95)


def test_tolerance_rank_covers_with_its_confidence():
    """The (k + 1)-th largest of 512 uniform numbers lies above 0.975 in 95 % of the cases."""
    rng = np.random.default_rng(0)
    rank = tolerance_rank(512, 0.975)
    limits = np.sort(rng.random((4_000, 512)), axis=1)[:, ::-1]
    assert (limits[:, rank] >= 0.975).mean() >= 0.95 - 0.008
    assert (limits[:, rank + 1] >= 0.975).mean() < 0.95


def simulated(rng, number, *, diverging: float):
    """Margins and moves of images; of a share of them the fp32 image is another one altogether."""
    margin = rng.normal(0, 40, number)
    move = rng.standard_cauchy(number) * 0.3  # as 1/t
    lost = rng.random(number) < diverging
    exact = np.where(lost, rng.normal(0, 40, number), margin + move)
    one = np.ones((number, 1), dtype=bool)
    fast = Margins(margin[:, None], one, abs(margin), margin < 0)
    return fast, Margins(exact[:, None], one, abs(exact), exact < 0), abs(exact - margin)


@pytest.mark.parametrize("diverging", [0.0, 1 / 300, 1 / 50])
def test_images_unseen_beyond_the_bound_are_as_rare_as_stated(diverging):
    """Heavy tails, and a mixture in which 1 of 300 images diverges: in at least 95 % of the scans,
    the share of images that lie beyond the bound and move by more than half of their margin is
    below what is stated; images whose verdict changes are some of these."""
    rng = np.random.default_rng(0)
    blank = np.zeros((512, 1, 1, 1), dtype=np.uint8)
    holds = []
    for _ in range(200):
        fast, exact, moved = simulated(rng, 512, diverging=diverging)
        images = moved.clip(0, 255).astype(np.uint8)[:, None, None, None]
        probe, bound = evaluate_probe(fast, exact, images, blank)
        later, truth, _ = simulated(rng, 10_000, diverging=diverging)
        unseen = surprises(later, truth) > bound
        changed = (later.is_copy != truth.is_copy) & (later.certain > bound)
        assert (changed <= unseen).all()
        holds.append(unseen.mean() <= probe.share_unseen)
        if diverging == 1 / 50:
            assert not probe.pays or probe.forecast > 0.4
    assert np.mean(holds) >= 0.95 - 0.03


def test_a_probe_whose_images_are_elsewhere_in_fp32_does_not_pay():
    rng = np.random.default_rng(0)
    fast, exact, _ = simulated(rng, 512, diverging=1.0)
    images = rng.integers(0, 256, (512, 1, 4, 4)).astype(np.uint8)
    probe, _ = evaluate_probe(fast, exact, images, images[::-1])
    assert not probe.pays and probe.agree.ratio < 0.7


def test_equal_images_give_a_bound_of_nothing():
    rng = np.random.default_rng(0)
    fast, _, _ = simulated(rng, 512, diverging=0)
    images = rng.integers(0, 256, (512, 1, 2, 2)).astype(np.uint8)
    probe, bound = evaluate_probe(fast, fast, images, images)
    assert bound == 0 and probe.pays and probe.rms_largest == 0 and probe.agree.count == 512
