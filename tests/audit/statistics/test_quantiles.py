"""Intervals of quantiles, against sums of binomial chances and simulated samples."""

import math

import numpy as np
import pytest

from memaudit.audit.statistics.quantiles import sample_quantile


def chance(m: int, share: float, k: int) -> float:
    """P(B ≤ k) of B ~ Binomial(m, share)."""
    return sum(math.comb(m, i) * share**i * (1 - share) ** (m - i) for i in range(k + 1))


@pytest.mark.parametrize("m", [1, 5, 100, 299])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_the_ends_are_the_order_statistics_of_the_definition(m: int, share: float):
    found = sample_quantile(np.arange(1, m + 1), share, largest=10_000)
    lower = max((k for k in range(1, m + 1) if chance(m, share, k - 1) <= 0.025), default=-10_000)
    upper = min(
        (k for k in range(1, m + 1) if 1 - chance(m, share, k - 1) <= 0.025), default=10_000
    )
    assert (found.low, found.high) == (lower, upper)
    assert found.value == min(k for k in range(1, m + 1) if k / m >= share - 1e-12)


def test_the_interval_holds_the_quantile_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = -math.log(0.01)  # of the exponential distribution
    found = [sample_quantile(rng.exponential(size=500), 0.99) for _ in range(2000)]
    assert np.mean([each.low <= truth <= each.high for each in found]) >= 0.95
    assert np.mean([each.high < math.inf for each in found]) > 0.9


def test_what_has_no_quantile_is_refused():
    for values, share in (([], 0.5), ([1], 0), ([1], 1)):
        with pytest.raises(ValueError, match="has no quantile"):
            sample_quantile(np.array(values), share)
