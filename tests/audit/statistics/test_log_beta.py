"""Logarithms of binomial tails against sums of their terms."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import binom

from memaudit.audit.statistics.log_beta import log_betainc, log_betaincc


@pytest.mark.parametrize(
    ("k", "n", "p"),
    [
        (3, 10, 0.2),
        (40, 1000, 0.01),
        (500, 1000, 0.001),  # 1e-1201
        (1000, 1000, 1e-6),
        (2, 5_000_000, 0.001),  # 1e-2165 below
        (400_000, 1_000_000, 0.3),
        (30_000, 1_000_000, 0.3),
    ],
)
def test_tails_are_sums_of_binomial_terms(k: int, n: int, p: float):
    """P(X ≥ k) = I_p(k, n−k+1) and P(X ≤ k) = 1 − I_p(k+1, n−k)."""
    far = 20_000  # terms from k outwards: in the tails the rest is nothing
    upper = logsumexp(binom.logpmf(np.arange(k, min(n, k + far) + 1), n, p))
    lower = logsumexp(binom.logpmf(np.arange(max(0, k - far), k + 1), n, p))
    if k > n * p:
        assert log_betainc(k, n - k + 1, p) == pytest.approx(upper, rel=1e-9, abs=1e-9)
    if k < n * p:
        assert log_betaincc(k + 1, n - k, p) == pytest.approx(lower, rel=1e-9, abs=1e-9)


def test_the_continued_fraction_takes_over_without_a_step():
    """ln I falls smoothly in a where the function itself runs out of floats."""
    a = np.arange(100.0, 130.0, 0.25)
    logs = log_betainc(a, np.full_like(a, 7.5), 0.0015)
    assert logs[0] > np.log(1e-290) > logs[-1]
    assert np.abs(np.diff(logs, 2)).max() < 1e-3


def test_the_two_tails_are_each_other_mirrored():
    assert log_betainc(2.5, 9000.5, 0.125) == log_betaincc(9000.5, 2.5, 0.875)
    assert float(log_betainc(9000.5, 2.5, 0.125)) == float(log_betaincc(2.5, 9000.5, 0.875))
