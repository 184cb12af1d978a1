"""The search and the estimate on known curves: ratios logistic in log |D|."""

import math

import numpy as np
import pytest
from scipy.optimize import isotonic_regression
from scipy.stats import binom

from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.errors import ConfigError
from memaudit.experiments.emm import estimate
from memaudit.experiments.emm.config import SizeRange
from memaudit.experiments.emm.estimate import (
    MeasuredSize,
    choose_sizes,
    estimate_emm,
    find_bracket,
    find_crossings,
    fit_falling_curves,
    search_sizes,
)


def point(num_images: int, count: int, total: int = 1000) -> MeasuredSize:
    ratio = clopper_pearson(count, total)
    return MeasuredSize(num_images, ratio, ratio)


class Surrogate:
    """Models whose ratio at |D| = N is 1 / (1 + (N / half)^slope), judged on a few samples."""

    def __init__(self, *, half: float, slope: float, num_samples: int, seed: int) -> None:
        self.half, self.slope, self.num_samples = half, slope, num_samples
        self.rng = np.random.default_rng(seed)

    def measure(self, sizes: list[int]) -> list[MeasuredSize]:
        ratios = [1 / (1 + (size / self.half) ** self.slope) for size in sizes]
        return [
            point(size, int(self.rng.binomial(self.num_samples, ratio)), self.num_samples)
            for size, ratio in zip(sizes, ratios, strict=True)
        ]

    def emm(self, epsilon: float) -> float:
        return self.half * (epsilon / (1 - epsilon)) ** (1 / self.slope)


@pytest.mark.parametrize("num_samples", [500, 10_000])
@pytest.mark.parametrize("tolerance", [1.2, 1.5])
def test_the_interval_of_a_whole_search_covers_the_truth_at_its_nominal_rate(
    num_samples: int, tolerance: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(estimate, "NUM_DRAWS", 2000)  # a fifth, for speed
    num_trials, hits = 80, 0
    for seed in range(num_trials):
        half = math.exp(np.random.default_rng(seed).uniform(math.log(300), math.log(3000)))
        truth = Surrogate(half=half, slope=3, num_samples=num_samples, seed=seed)
        points = search_sizes(
            truth.measure, SizeRange(50, 20_000, 10, tolerance), epsilon=0.1, count=1
        )
        found = estimate_emm(points, epsilon=0.1, seed=seed)
        hits += found.low <= truth.emm(0.1) <= found.high
    # With a true rate of 95 %, fewer hits would occur once in a thousand times.
    assert hits >= binom.ppf(0.001, num_trials, 0.95)


def test_bisection_ends_between_neighboring_sizes_around_the_crossing():
    truth = Surrogate(half=2000, slope=8, num_samples=1_000_000, seed=0)
    points = search_sizes(truth.measure, SizeRange(50, 20_000, tolerance=1.1), epsilon=0.1)
    found = find_bracket(points, 0.1)
    assert found.low <= truth.emm(0.1) < found.high <= 1.1 * found.low
    assert len(points) <= math.log2(math.log(400) / math.log(1.1)) + 1


def test_sizes_chosen_at_the_same_time_divide_the_bracket_evenly():
    sizes = SizeRange(10, 100_000, tolerance=1.2)
    assert choose_sizes([], sizes, epsilon=0.1, count=3) == [100, 1000, 10_000]
    points = [point(100, 1000), point(1000, 500), point(10_000, 0)]
    assert choose_sizes(points, sizes, epsilon=0.1, count=1) == [316]


def test_sizes_are_multiples_of_the_number_of_classes():
    truth = Surrogate(half=137, slope=4, num_samples=1000, seed=0)
    points = search_sizes(truth.measure, SizeRange(20, 640, 10), epsilon=0.1)
    assert all(p.num_images % 10 == 0 for p in points)


@pytest.mark.parametrize(("half", "reason"), [(1, "EMM is below 50"), (1e9, "is 2,000 images or")])
def test_a_crossing_outside_the_range_gives_no_estimate(half: float, reason: str):
    truth = Surrogate(half=half, slope=4, num_samples=1000, seed=0)
    points = search_sizes(truth.measure, SizeRange(50, 2000), epsilon=0.1)
    found = estimate_emm(points)
    assert found.emm is None and found.low is None
    assert reason in found.reason
    assert {50, 2000} & {p.num_images for p in points}, "the end of the range was measured"


def test_a_size_that_cannot_be_decided_stays_inside_the_bracket():
    points = [point(100, 1000), point(200, 900), point(400, 0)]
    found = find_bracket(points, 0.1)
    assert (found.low, found.high) == (100, 400)
    assert choose_sizes(points, SizeRange(100, 400, tolerance=3), epsilon=0.1) == []
    assert estimate_emm(points).emm == pytest.approx(200)


def test_a_curve_that_rises_beyond_noise_has_no_estimate():
    points = [point(100, 950), point(200, 300), point(400, 950), point(800, 0)]
    found = estimate_emm(points)
    assert found.emm is None
    assert "at 400 images the ratio is higher than at 200" in found.reason


def test_a_curve_that_rises_within_noise_has_one():
    points = [point(100, 990), point(200, 960), point(210, 962), point(400, 100)]
    assert 210 < estimate_emm(points).emm < 400


def test_the_estimate_is_log_linear_between_two_sizes():
    found = estimate_emm([point(1000, 1000), point(2000, 500)])
    assert found.emm == pytest.approx(1000 * 2 ** (0.1 / 0.5))
    assert found.bracket.low < found.low < found.emm < found.high < found.bracket.high


def test_no_points_give_no_estimate():
    assert estimate_emm([]).reason == "No size was measured."


def test_falling_curves_are_the_isotonic_regression():
    rng = np.random.default_rng(0)
    curves, weights = rng.random([50, 7]), rng.integers(1, 9, 7).astype(float)
    exact = [isotonic_regression(c, weights=weights, increasing=False).x for c in curves]
    np.testing.assert_allclose(fit_falling_curves(curves, weights), exact, atol=1e-12)


def test_curves_on_one_side_of_the_level_cross_at_an_end():
    sizes = np.log([10.0, 20.0, 40.0])
    curves = np.array([[0.5, 0.4, 0.3], [1.0, 1.0, 0.95], [0.9, 0.9, 0.0]])
    assert np.exp(find_crossings(sizes, curves, 0.9)) == pytest.approx([10, 40, 20])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 50), "min_size is 100 and max_size is 50; the first must be less"),
        ((1, 50), "min_size is 1; at least 2"),
        ((15, 100, 10), "equal shares of 10 classes need multiples of 10"),
        ((10, 100, 1, 1.0), "tolerance is 1.0; more than 1"),
    ],
)
def test_a_range_without_sizes_is_refused(arguments: tuple[float, ...], message: str):
    with pytest.raises(ConfigError, match=message):
        SizeRange(*arguments)
