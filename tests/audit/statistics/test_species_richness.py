"""How much of a leak was seen, against draws whose truth is known."""

import json
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest

from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.audit.statistics.species_richness import Chao1, SpeciesRichness, estimate_richness
from memaudit.models.generate import generate_images
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler_config import SamplerConfig


def draw(
    shares: np.ndarray, num_hits: int, rng: np.random.Generator
) -> tuple[SpeciesRichness, float]:
    """The richness estimated from a draw, and the true share of the images that it missed."""
    hits = rng.multinomial(num_hits, shares)
    richness = estimate_richness(hits[hits > 0].tolist(), num_images=10_000)
    return richness, float(shares[hits == 0].sum())


def test_the_formulas_by_hand():
    """Six images, f₁ = 3, f₂ = 1, k = 3 + 2 + 5 + 7: Ŝ = 6 + 3·2/(2·2), m = 3/17."""
    found = estimate_richness([1, 1, 1, 2, 5, 7], num_images=100)
    assert (found.num_leaking, found.num_once, found.num_twice, found.num_hits) == (6, 3, 1, 17)
    assert found.chao1.value == 7.5
    assert found.unseen_share.value == pytest.approx(3 / 17)
    assert found.chao1.low <= 7.5 <= found.chao1.high
    assert found.unseen_share.low < 3 / 17 < found.unseen_share.high


def test_without_copies_there_is_nothing_to_estimate_from():
    found = estimate_richness([], num_images=100)
    assert (found.num_hits, found.num_leaking) == (0, 0)
    assert found.chao1 is None and found.unseen_share is None


@pytest.mark.parametrize(("num_leaking", "fewest"), [(1, 1), (2, 2), (5, 5), (6, 6), (30, 128)])
def test_where_nothing_recurs_there_is_an_interval_but_no_estimate(num_leaking: int, fewest: int):
    found = estimate_richness([1] * num_leaking, num_images=1000)
    assert found.chao1 == Chao1(None, fewest, 1000)
    assert found.unseen_share.value == found.unseen_share.high == 1
    assert found.unseen_share.low < 1


@pytest.mark.parametrize("k", [3, 4, 9, 40, 300])
def test_the_lower_end_is_the_largest_leak_that_would_have_shown_a_repeat(k: int):
    """Π (1 − i/S) ≤ 1/40, in fractions: S is ruled out, S + 1 is not."""

    def chance(size: int) -> Fraction:
        product = Fraction(1)
        for i in range(k):
            product *= Fraction(size - i, size)
        return product

    fewest = int(estimate_richness([1] * k, num_images=10**6).chao1.low)
    assert fewest == k or chance(fewest) <= Fraction(1, 40)
    assert chance(fewest + 1) > Fraction(1, 40)


@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_the_lower_end_without_repeats_errs_in_at_most_a_fortieth_of_all_draws(spread: float):
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(2000):
        shares = np.exp(spread * rng.normal(size=60))
        hits = rng.multinomial(14, shares / shares.sum())
        if hits.max() == 1:
            wrong += estimate_richness([1] * 14, num_images=1000).chao1.low > 60
    assert clopper_pearson(wrong, 2000, 0.999).low <= 0.025


def test_a_few_that_recur_often_leave_no_pairs_to_estimate_from():
    found = estimate_richness([5, 1, 1, 7], num_images=1000)
    assert found.chao1 == Chao1(None, 4, 1000)
    assert estimate_richness([5, 1, 7], num_images=1000).chao1.value == 3


def test_where_everything_recurs_often_the_leak_is_seen():
    found = estimate_richness([20] * 8, num_images=1000)
    assert (found.chao1.value, found.chao1.low, found.chao1.high) == (8, 8, 9)
    assert found.unseen_share.value == found.unseen_share.low == 0
    assert 0 < found.unseen_share.high < 0.05


def test_no_estimate_exceeds_the_training_set():
    found = estimate_richness([1] * 40 + [2], num_images=50)
    assert found.chao1.value == found.chao1.high == 50
    assert found.chao1.low <= 50


@pytest.mark.parametrize("num_hits", [100, 300, 1000, 4000])
def test_intervals_hold_the_truth_where_200_images_leak_alike(num_hits: int):
    """Both are approximate: 90 % is asked of intervals of 95 %."""
    rng = np.random.default_rng(0)
    draws = [draw(np.full(200, 1 / 200), num_hits, rng) for _ in range(1000)]
    chao1 = sum(found.chao1.low <= 200 <= found.chao1.high for found, _ in draws)
    unseen = sum(
        found.unseen_share.low <= share <= found.unseen_share.high for found, share in draws
    )
    assert clopper_pearson(chao1, 1000, 0.999).high > 0.9
    assert clopper_pearson(unseen, 1000, 0.999).high > 0.9
    values = [found.chao1.value for found, _ in draws if found.chao1.value is not None]
    assert np.mean(values) == pytest.approx(200, rel=0.03)


def test_unequal_leaks_make_chao1_a_lower_bound_and_leave_good_turing_right():
    rng = np.random.default_rng(1)
    shares = rng.gamma(0.5, size=500)
    draws = [draw(shares / shares.sum(), 400, rng) for _ in range(500)]
    assert np.mean([found.chao1.value for found, _ in draws]) < 500
    unseen = sum(
        found.unseen_share.low <= share <= found.unseen_share.high for found, share in draws
    )
    assert clopper_pearson(unseen, 500, 0.999).high > 0.95
    error = np.mean([found.unseen_share.value - share for found, share in draws])
    assert abs(error) < 0.01


def test_sampling_the_optimum_of_200_images_tells_that_there_are_200():
    images = np.random.default_rng(3).integers(0, 256, (200, 1, 4, 4), dtype=np.uint8)
    batches = generate_images(
        ClosedFormOptimum(images), range(320), config=SamplerConfig(num_steps=6)
    )
    generated = np.concatenate([batch.images for batch in batches])
    hits = np.bincount(NeighborIndex(images).nearest(generated, 1).index[:, 0])
    found = estimate_richness(hits[hits > 0].tolist(), num_images=200)
    assert found.num_hits == 320
    assert found.chao1.low <= 200 <= found.chao1.high
    assert found.chao1.value > 150


def test_the_result_is_plain_json():
    found = estimate_richness([1, 3, 2], num_images=9)
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["num_hits"] == 6


@pytest.mark.parametrize(
    ("hits", "options"),
    [([0, 1], {}), ([1] * 11, {}), ([1], {"confidence": 1.0})],
)
def test_impossible_hits_are_refused(hits: list[int], options: dict):
    with pytest.raises(ValueError, match="must be"):
        estimate_richness(hits, num_images=10, **options)
