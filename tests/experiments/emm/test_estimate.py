"""The search and the estimate on known curves: ratios logistic in log |D|."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq, isotonic_regression
from scipy.special import expit
from scipy.stats import binom, t

from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.errors import ConfigError
from memaudit.experiments.emm import estimate
from memaudit.experiments.emm.config import SizeRange
from memaudit.experiments.emm.estimate import (
    EMMEstimate,
    MeasuredSize,
    choose_sizes,
    estimate_emm,
    find_bracket,
    find_crossings,
    fit_falling_curves,
    search_sizes,
)


def point(num_images: int, *counts: int, total: int = 1000) -> MeasuredSize:
    ratios = tuple(clopper_pearson(count, total) for count in counts)
    return MeasuredSize(num_images, ratios, ratios)


class Surrogate:
    """Trainings whose ratio at |D| = N is expit(u − slope·ln(N / half)), judged on a few samples.

    u is normal with standard deviation `tau`, and the same at all sizes for a replicate if it is
    `shared`; at tau = 0 the ratio is 1 / (1 + (N / half)^slope).
    """

    def __init__(
        self,
        *,
        half: float,
        slope: float,
        num_samples: int,
        seed: int,
        replicates: int = 1,
        tau: float = 0,
        shared: bool = True,
    ) -> None:
        self.half, self.slope, self.tau, self.num_samples = half, slope, tau, num_samples
        self.rng = np.random.default_rng(seed)
        self.effects = self.rng.normal(0, tau, replicates)
        self.shared = shared

    def measure(self, sizes: list[int]) -> list[MeasuredSize]:
        return [point(size, *self.draw(size), total=self.num_samples) for size in sizes]

    def draw(self, size: int) -> list[int]:
        if not self.shared:
            self.effects = self.rng.normal(0, self.tau, len(self.effects))
        ratios = expit(self.effects - self.slope * math.log(size / self.half))
        drawn: list[int] = self.rng.binomial(self.num_samples, ratios).tolist()
        return drawn

    def emm(self, epsilon: float) -> float:
        """Where the expected ratio, over all trainings, crosses 1 − ε."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(40)

        def excess(log_size: float) -> float:
            logits = self.tau * nodes - self.slope * (log_size - math.log(self.half))
            return float(weights @ expit(logits) / weights.sum()) - (1 - epsilon)

        middle = math.log(self.half)
        return math.exp(brentq(excess, middle - 6, middle + 6))


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
        assert found.low is None and found.high is None
        hits += found.sampling_low <= truth.emm(0.1) <= found.sampling_high
    # With a true rate of 95 %, fewer hits would occur once in a thousand times.
    assert hits >= binom.ppf(0.001, num_trials, 0.95)


def search_with_replicates(seed: int, replicates: int, **options: Any) -> tuple[EMMEstimate, float]:
    """A whole search at a random place of the curve, and the true EMM."""
    half = math.exp(np.random.default_rng(seed).uniform(math.log(300), math.log(3000)))
    truth = Surrogate(
        half=half, slope=3, num_samples=1000, seed=seed, replicates=replicates, **options
    )
    points = search_sizes(truth.measure, SizeRange(50, 20_000, 10), epsilon=0.1)
    return estimate_emm(points, epsilon=0.1, seed=seed), truth.emm(0.1)


@pytest.mark.slow  # 1,800 searches
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "independent"])
@pytest.mark.parametrize("tau", [0, 0.2, 0.5])
def test_the_interval_of_replicates_covers_the_truth_at_its_nominal_rate(
    tau: float, shared: bool, monkeypatch: pytest.MonkeyPatch
):
    """Simulated with 2,000 searches each: 93 to 97 %."""
    monkeypatch.setattr(estimate, "NUM_DRAWS", 2)
    found = [search_with_replicates(seed, 3, tau=tau, shared=shared) for seed in range(300)]
    covered = [one.low <= emm <= one.high for one, emm in found if one.emm is not None]
    assert len(covered) >= 0.97 * len(found)
    assert sum(covered) >= binom.ppf(0.001, len(covered), 0.93)


def test_replicates_that_differ_give_a_wide_interval_and_one_training_gives_none():
    alike = estimate_emm([point(100, 990, 991, 989), point(200, 500, 501, 499)])
    apart = estimate_emm([point(100, 999, 990, 960), point(200, 700, 500, 300)])
    assert alike.replicates == apart.replicates == 3
    assert math.log(apart.high / apart.low) > 3 * math.log(alike.high / alike.low)
    assert apart.low < apart.sampling_low < apart.emm < apart.sampling_high < apart.high
    one = estimate_emm([point(100, 990), point(200, 500)])
    assert one.low is None and one.high is None
    assert one.sampling_low < one.emm < one.sampling_high


def test_the_interval_is_students_t_on_the_logarithm_of_each_trainings_emm():
    """Straight in ratios, the curves cross 90 % at 100·2^(1/5), 100·2^(1/4) and 100·2^(1/3)."""
    points = [point(100, 1000, 1000, 1000), point(200, 500, 600, 700)]
    logs = math.log(2) / np.array([5, 4, 3])
    center = math.log(2) * 0.1 / 0.4
    reach = t.ppf(0.975, 2) * logs.std(ddof=1) / math.sqrt(3)
    found = estimate_emm(points)
    assert math.log(found.emm / 100) == pytest.approx(center)
    # Straight in logits they cross later, so only the lower end is the one computed here.
    assert math.log(found.low / 100) == pytest.approx(center - reach)


def test_sizes_are_added_until_the_curve_of_every_training_crosses():
    sizes = SizeRange(10, 1000, tolerance=1.2)
    points = [point(100, 1000, 1000), point(110, 960, 200)]
    assert choose_sizes(points, sizes, epsilon=0.1) == [132]
    assert "1 of 2 trainings are still above 90 %" in estimate_emm(points).reason
    crossed = [*points, point(132, 500, 100)]
    assert choose_sizes(crossed, sizes, epsilon=0.1) == []
    assert estimate_emm(crossed).emm is not None
    assert choose_sizes(points, SizeRange(10, 110, tolerance=1.2), epsilon=0.1) == []


def test_sizes_with_different_numbers_of_replicates_are_refused():
    with pytest.raises(ValueError, match=r"equally many replicates, got \[1, 2\]"):
        estimate_emm([point(100, 1000), point(200, 10, 20)])


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
    assert found.emm is None and found.sampling_low is None
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
    assert found.bracket.low < found.sampling_low < found.emm
    assert found.emm < found.sampling_high < found.bracket.high


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
