"""Clopper–Pearson against known values, its definition, and its promise of coverage."""

import numpy as np
import pytest
from scipy.stats import beta, binom

from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.wording import percent


@pytest.mark.parametrize(
    ("count", "total", "confidence", "low", "high"),
    [
        # 1 - (α/2)^(1/n) and (α/2)^(1/n): closed forms at the ends.
        (0, 10_000, 0.95, 0.0, 1 - 0.025 ** (1 / 10_000)),
        (10, 10, 0.95, 0.025 ** (1 / 10), 1.0),
        (0, 1, 0.95, 0.0, 0.975),
        # The textbook case, as R's binom.test(5, 10) prints it.
        (5, 10, 0.95, 0.187086, 0.812914),
    ],
)
def test_clopper_pearson_agrees_with_known_values(count, total, confidence, low, high):
    proportion = clopper_pearson(count, total, confidence)
    assert proportion.low == pytest.approx(low, rel=2e-4)
    assert proportion.high == pytest.approx(high, rel=2e-4)
    assert proportion.ratio == count / total
    assert proportion.confidence == confidence


def test_clopper_pearson_ends_solve_the_binomial_tails():
    """P(X ≥ k | low) = P(X ≤ k | high) = α/2: the definition, without beta quantiles."""
    for count, total in [(1, 7), (3, 50), (312, 10_000), (9_999, 10_000)]:
        proportion = clopper_pearson(count, total)
        assert binom.sf(count - 1, total, proportion.low) == pytest.approx(0.025, rel=1e-9)
        assert binom.cdf(count, total, proportion.high) == pytest.approx(0.025, rel=1e-9)


@pytest.mark.parametrize("total", [1, 2, 5, 20, 100])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_clopper_pearson_covers_at_least_as_often_as_it_says(total, confidence):
    """Coverage at p: the sum of the binomial weights of the counts whose interval holds p."""
    intervals = [clopper_pearson(count, total, confidence) for count in range(total + 1)]
    low = np.array([interval.low for interval in intervals])
    high = np.array([interval.high for interval in intervals])
    # Coverage drops just beyond an end of an interval, so those points are the worst ones.
    grid = np.concatenate(
        [np.linspace(0, 1, 501), low + 1e-9, high - 1e-9, low - 1e-9, high + 1e-9]
    )
    for p in grid[(grid >= 0) & (grid <= 1)]:
        inside = (low <= p) & (p <= high)
        assert binom.pmf(np.arange(total + 1), total, p)[inside].sum() >= confidence - 1e-9


@pytest.mark.parametrize(
    ("count", "total", "confidence"), [(0, 0, 0.95), (-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0)]
)
def test_clopper_pearson_refuses_what_is_no_proportion(count, total, confidence):
    with pytest.raises(ValueError, match="must be"):
        clopper_pearson(count, total, confidence)


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0"), (1, "100"), (0.5, "50.0"), (0.00037, "0.037"), (0.9996, "99.960")]
)
def test_percentages_tell_a_share_from_0_and_100(share: float, text: str):
    assert percent(share) == text


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_clopper_pearson_is_made_of_scipys_beta_quantiles(confidence: float):
    """Bit for bit: scipy.stats, which takes seconds to import, calls the same functions."""
    rng = np.random.default_rng(0)
    totals = np.concatenate([np.arange(1, 40), rng.integers(1, 10**7, 100)])
    tail = (1 - confidence) / 2
    for total in totals.tolist():
        count = int(rng.integers(0, total + 1))
        found = clopper_pearson(count, total, confidence)
        low = beta.ppf(tail, count, total - count + 1) if count else 0
        high = beta.isf(tail, count + 1, total - count) if count < total else 1
        assert (found.low, found.high) == (low, high)
