"""Excess over held-out images, by simulation."""

from functools import cache

import numpy as np
import pytest

from memaudit.audit.statistics.excess import Excess, excess_over_holdout
from memaudit.audit.statistics.intervals import clopper_pearson


def excess(k1: int, n1: int, k2: int, n2: int, confidence: float = 0.95) -> Excess | None:
    return excess_over_holdout(
        clopper_pearson(k1, n1, confidence), clopper_pearson(k2, n2, confidence)
    )


def test_the_excess_is_the_share_of_copies_behind_both_ratios():
    """With a floor of 10 %, 40 % copies show as 0.4 + 0.6·0.1 = 46 %."""
    found = excess(460, 1000, 100, 1000)
    assert found.value == pytest.approx(0.4)
    assert found.low < 0.4 < found.high


def test_a_large_control_without_any_flagged_leaves_the_ratio_alone():
    found, ratio = excess(30, 1000, 0, 10_000_000), clopper_pearson(30, 1000)
    assert found.value == pytest.approx(ratio.ratio)
    assert found.low == pytest.approx(ratio.low, abs=1e-5)
    assert found.high == pytest.approx(ratio.high, abs=1e-5)


def test_the_interval_is_wider_than_that_of_the_ratio_and_of_the_control():
    found, ratio, control = excess(30, 1000, 5, 500), clopper_pearson(30, 1000), (5, 500)
    assert found.high - found.low > ratio.high - ratio.low
    floor = clopper_pearson(*control)
    assert found.high - found.low > floor.high - floor.low


@pytest.mark.parametrize(
    ("n1", "r", "n2", "r_c"),
    [
        (1000, 0.0, 500, 0.0),
        (1000, 0.01, 500, 0.003),
        (10_000, 0.001, 2000, 0.001),
        (1000, 0.3, 200, 0.01),
        (300, 0.95, 100, 0.2),
        (100, 0.5, 50, 0.9),
        (50, 1.0, 20, 0.5),
        (10, 0.3, 3, 0.3),
    ],
)
def test_the_interval_holds_the_truth_at_least_as_often_as_it_says(n1, r, n2, r_c):
    rng = np.random.default_rng(0)
    truth = (r - r_c) / (1 - r_c)
    holds = cache(
        lambda k1, k2: (found := excess(k1, n1, k2, n2)) is None or found.low <= truth <= found.high
    )
    draws = zip(
        rng.binomial(n1, r, 3000).tolist(), rng.binomial(n2, r_c, 3000).tolist(), strict=True
    )
    assert sum(holds(k1, k2) for k1, k2 in draws) / 3000 >= 0.95


def test_the_ends_are_in_order_in_every_corner():
    for k1, n1 in [(0, 5), (5, 5), (2, 5), (0, 9999), (9999, 9999)]:
        for k2, n2 in [(0, 4), (3, 4), (1, 4), (0, 9999), (9998, 9999)]:
            found = excess(k1, n1, k2, n2)
            assert found.low <= found.value + 1e-12
            assert found.value <= found.high + 1e-12
            assert found.high <= 1


def test_a_rule_that_flags_every_held_out_image_sets_no_copy_apart():
    assert excess(3, 5, 4, 4) is None


def test_two_confidences_are_refused():
    with pytest.raises(ValueError, match=r"one confidence, got 0.95, 0.9"):
        excess_over_holdout(clopper_pearson(1, 5, 0.95), clopper_pearson(1, 5, 0.9))
