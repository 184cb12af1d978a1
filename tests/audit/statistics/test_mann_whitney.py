"""Ranks and Mann–Whitney's U against their definitions and against scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from memaudit.audit.statistics.mann_whitney import average_ranks, mann_whitney_u, mann_whitney_z


@given(values=st.lists(st.integers(-5, 5) | st.floats(-5, 5)))
def test_a_rank_counts_the_smaller_numbers_and_half_of_the_equal_ones(values: list[float]):
    expected = [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]
    assert average_ranks(np.array(values)).tolist() == expected


@given(
    a=st.lists(st.integers(-5, 5) | st.floats(-5, 5), min_size=1),
    b=st.lists(st.integers(-5, 5) | st.floats(-5, 5), min_size=1),
)
def test_u_counts_the_pairs_in_which_the_first_is_larger(a: list[float], b: list[float]):
    expected = sum((x > y) + (x == y) / 2 for x in a for y in b)
    assert mann_whitney_u(np.array(a), np.array(b)) == expected
    assert mann_whitney_u(np.array(b), np.array(a)) == len(a) * len(b) - expected


@pytest.mark.parametrize("seed", range(5))
def test_u_agrees_with_scipy(seed: int):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 20, 30 + seed), rng.integers(2, 22, 50)
    assert mann_whitney_u(a, b) == mannwhitneyu(a, b).statistic


@pytest.mark.parametrize("seed", range(5))
def test_z_agrees_with_scipy_ties_included(seed: int):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 20, 30 + seed), rng.integers(2, 22, 50)
    expected = mannwhitneyu(
        a, b, alternative="two-sided", method="asymptotic", use_continuity=False
    )
    z = mann_whitney_z(a, b)
    assert math.erfc(abs(z) / math.sqrt(2)) == pytest.approx(expected.pvalue, rel=1e-9)
    assert np.sign(z) == np.sign(expected.statistic - len(a) * len(b) / 2)


def test_values_that_are_all_equal_say_nothing():
    assert mann_whitney_z(np.full(5, 7), np.full(3, 7)) == 0
    assert mann_whitney_z(np.array([3]), np.array([1])) == pytest.approx(1)


def test_z_counts_from_the_first_sample():
    low, high = np.arange(20), np.arange(10, 40)
    assert mann_whitney_z(high, low) == pytest.approx(-mann_whitney_z(low, high))
    assert mann_whitney_z(high, low) > 3
