"""Exact tests of two counts, against every order of a small pool and against simulation."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy.stats import fisher_exact

from memaudit.audit.statistics.counts import all_on_one_side_p_value, more_often_p_value
from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.audit.statistics.per_class import holm


@pytest.mark.parametrize(("n", "m"), [(1, 1), (4, 3), (3, 5)])
def test_the_largest_are_all_of_one_kind_as_often_as_in_all_orders(n: int, m: int):
    for count in range(n + 1):
        orders = list(combinations(range(n + m), n))  # ranks of the first kind; 0 is the largest
        hits = sum(set(range(count)) <= set(order) for order in orders)
        wanted = float(Fraction(hits, len(orders)))
        assert all_on_one_side_p_value(count, n, m) == pytest.approx(wanted)


def test_five_beyond_all_others_are_needed_among_equally_many():
    assert [all_on_one_side_p_value(k, 128, 128) <= 0.05 for k in (4, 5)] == [False, True]
    exact = Fraction(comb(500, 300), comb(1000, 300))
    assert all_on_one_side_p_value(300, 500, 500) == pytest.approx(float(exact), rel=1e-8)


def test_the_one_sided_test_is_fishers():
    rng = np.random.default_rng(0)
    for _ in range(50):
        n, m = rng.integers(1, 60, 2).tolist()
        a, b = int(rng.integers(n + 1)), int(rng.integers(m + 1))
        wanted = fisher_exact([[a, n - a], [b, m - b]], alternative="greater").pvalue
        assert more_often_p_value((a, n), (b, m)) == pytest.approx(wanted)


@pytest.mark.parametrize("numbers", [(-1, 2, 2), (3, 2, 2), (0, 0, 2), (1, 2, 0)])
def test_impossible_counts_are_refused(numbers: tuple[int, int, int]):
    with pytest.raises(ValueError, match="needed"):
        all_on_one_side_p_value(*numbers)


@pytest.mark.parametrize(
    ("n", "m"),
    [
        pytest.param(128, 128, marks=pytest.mark.slow),
        pytest.param(128, 40, marks=pytest.mark.slow),
        (30, 60),
    ],
)
def test_images_that_return_alike_are_told_apart_in_at_most_alpha_of_all_runs(n: int, m: int):
    """Each image has a largest noise level of six that it returns from; both kinds alike."""
    rng = np.random.default_rng(1)
    runs, beyond, levels = 2000, 0, 0
    for _ in range(runs):
        train, held = (rng.geometric(0.5, size).clip(1, 7) - 1 for size in (n, m))
        count = int((train > held.max()).sum())
        beyond += all_on_one_side_p_value(count, n, m) <= 0.05
        p_values = [
            more_often_p_value((int((train >= k).sum()), n), (int((held >= k).sum()), m))
            for k in range(1, 7)
        ]
        levels += min(holm(p_values)) <= 0.05
    for rejected in (beyond, levels):
        assert clopper_pearson(rejected, runs, 0.999).low <= 0.05
