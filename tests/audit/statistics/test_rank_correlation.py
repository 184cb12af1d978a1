"""Spearman's correlation against scipy's and against all permutations."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import spearmanr

from memaudit.audit.statistics.rank_correlation import rank_correlation


@pytest.mark.parametrize("largest", [2, 10, 1000])
def test_it_is_scipys(largest: int):
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, largest, (2, 50))
        found = rank_correlation(a, b, num_permutations=1)
        assert found is not None
        assert found.rho == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_the_chance_is_that_of_all_permutations():
    a, b = np.array([1, 4, 2, 6, 5, 7]), np.array([0, 0, 0, 3, 0, 1])
    found = rank_correlation(a, b, num_permutations=20_000)
    assert found is not None
    every = [spearmanr(a, b[list(order)]).statistic for order in permutations(range(6))]
    exact = np.mean(np.array(every) >= found.rho - 1e-12)
    assert found.p_value == pytest.approx(exact, abs=0.01)


def test_chance_alone_is_seldom_significant():
    rng = np.random.default_rng(0)
    p = []
    for seed in range(200):
        leaks = np.zeros(100, dtype=int)
        leaks[rng.choice(100, 5, replace=False)] = rng.integers(1, 9, 5)
        found = rank_correlation(np.arange(100), leaks, num_permutations=199, seed=seed)
        assert found is not None
        p.append(found.p_value)
    assert np.mean(np.array(p) <= 0.05) < 0.09


def test_equal_numbers_have_no_ranks():
    assert rank_correlation(np.arange(5), np.zeros(5)) is None
