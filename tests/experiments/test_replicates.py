"""Intervals and comparisons of trainings, on trainings whose spread is known."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import binom, t

from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.experiments.replicates import Replicates, assumed_spread, describe_ratios, pool


def make(*counts: int, total: int = 1000, tau: float = 0.0) -> Replicates:
    return Replicates(tuple(clopper_pearson(count, total) for count in counts), tau)


def draw(rng: np.random.Generator, number: int, ratio: float, tau: float) -> Replicates:
    """Trainings of a setup whose median ratio is `ratio`."""
    ratios = expit(logit(ratio) + rng.normal(0, tau, number))
    return make(*rng.binomial(1000, ratios).tolist(), tau=tau)


def test_the_mean_has_students_interval_on_logits():
    found = make(500, 600, 700)
    logits = logit(np.array([500.5, 600.5, 700.5]) / 1001)
    reach = t.ppf(0.975, 2) * logits.std(ddof=1) / np.sqrt(3)
    mean = found.mean()
    assert mean is not None and mean.value == 0.6
    assert logit([mean.low, mean.high]) == pytest.approx(found.center + np.array([-reach, reach]))
    assert found.spread**2 == pytest.approx(logits.var(ddof=1) - found.sampling_variance)


def test_one_training_has_no_interval_of_the_setup():
    one = make(600, tau=0.5)
    assert one.mean() is None and one.spread == pytest.approx(0.5)
    assert describe_ratios(one.ratios) == "60.0 % (this training 56.9 to 63.1)"
    assert describe_ratios(make(600, 600, 600).ratios) == "60.0 % (58.2 to 61.7)"
    another = one.another()
    assert another.low < 0.40 and another.high > 0.77
    assert (another.low, another.high) == pytest.approx(
        expit(one.center + np.array([-1.96, 1.96]) * np.sqrt(2 * 0.25 + one.sampling_variance)),
        abs=1e-4,
    )


@pytest.mark.parametrize("counts", [(0, 0, 0), (1000, 1000, 1000), (0, 1000)])
def test_ratios_of_nothing_and_all_lie_in_their_intervals(counts: tuple[int, ...]):
    found = make(*counts)
    for one in (found.mean(), found.another()):
        assert one is not None and 0 <= one.low <= one.value <= one.high <= 1
        assert one.low < one.high


def test_pooled_samples_are_those_of_all_trainings():
    assert pool(make(1, 2, 3).ratios) == clopper_pearson(6, 3000)


def test_the_assumed_spread_is_that_of_the_nearest_resolution_measured():
    assert [assumed_spread(r) for r in (4, 8, 11, 12, 16, 32)] == [0.56] * 3 + [0.23] * 3


@pytest.mark.parametrize("tau", [0, 0.2, 0.5])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_the_interval_of_three_trainings_covers_the_expected_ratio(tau: float, ratio: float):
    """Simulated with 4,000 sets of trainings: 94 to 98 %."""
    rng, trials = np.random.default_rng(0), 500
    expected = float(expit(logit(ratio) + rng.normal(0, tau, 200_000)).mean())
    found = [draw(rng, 3, ratio, tau).mean() for _ in range(trials)]
    covered = sum(one.low <= expected <= one.high for one in found if one is not None)
    assert covered >= binom.ppf(0.001, trials, 0.93)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("tau", [0, 0.2, 0.5])
def test_trainings_of_one_setup_are_rarely_told_apart(number: int, tau: float):
    """Intervals of the samples alone would part 9 of 10 pairs at tau = 0.5."""
    rng, trials = np.random.default_rng(1), 500
    parted = sum(
        draw(rng, number, 0.6, tau).differs_from(draw(rng, number, 0.6, tau)) != 0
        for _ in range(trials)
    )
    assert parted <= binom.ppf(0.999, trials, 0.06)


def test_setups_that_differ_are_told_apart_in_their_direction():
    assert make(100, 120, 110).differs_from(make(800, 790, 810)) == 1
    assert make(800, tau=0.2).differs_from(make(100, tau=0.2)) == -1
    assert make(200, tau=0.56).differs_from(make(500, tau=0.56)) == 0
