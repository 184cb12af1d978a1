"""The AUC's interval and the test of exceedances, against slow exact versions and simulations."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy.stats import norm

from memaudit.audit.statistics.auc import auc_interval, delong, exceedance_p_value, placements
from memaudit.audit.statistics.intervals import clopper_pearson


def test_placements_count_pairs_and_ties_by_half():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 30), rng.integers(0, 9, 20)
    below, above = placements(a, b)
    wanted = (b[None] < a[:, None]) + 0.5 * (b[None] == a[:, None])  # [30, 20]
    assert below == pytest.approx(wanted.mean(1))
    assert above == pytest.approx(wanted.mean(0))


def test_the_variance_is_that_of_delong_by_its_double_sums():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.7, 1, 40), rng.normal(0, 1, 25)
    order = (b[None] < a[:, None]).astype(float)
    auc = order.mean()
    s10 = ((order.mean(1) - auc) ** 2).sum() / 39
    s01 = ((order.mean(0) - auc) ** 2).sum() / 24
    spread = norm.ppf(0.975) * (s10 / 40 + s01 / 25) ** 0.5 / (auc * (1 - auc))
    odds = auc / (1 - auc)
    found = delong(a, b)
    assert found.value == pytest.approx(auc)
    assert found.low / (1 - found.low) == pytest.approx(odds * np.exp(-spread))
    assert found.high / (1 - found.high) == pytest.approx(odds * np.exp(spread))


@pytest.mark.parametrize("size", [5, 100])
def test_without_a_pair_out_of_order_the_interval_still_has_a_width(size: int):
    a, b = np.arange(size) + 1000, np.arange(50)
    found = delong(a, b)
    # Wilson's interval of k of k successes.
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(1 / (1 + norm.ppf(0.975) ** 2 / min(size, 50)))
    turned = delong(b, a)
    assert (turned.value, turned.low) == (0, 0)
    assert turned.high == pytest.approx(1 - found.low)


@pytest.mark.parametrize(
    ("shift", "num_a", "num_b"),
    [
        (0.0, 30, 30),
        (0.0, 400, 50),
        pytest.param(0.5, 100, 100, marks=pytest.mark.slow),
        pytest.param(1.8, 50, 200, marks=pytest.mark.slow),
        pytest.param(3.0, 100, 100, marks=pytest.mark.slow),
    ],
)
def test_the_interval_covers_the_true_auc(shift: float, num_a: int, num_b: int):
    """Normal scores, AUC = Φ(shift/√2); it is approximate: 93.5 % is asked of 95 %."""
    rng = np.random.default_rng(2)
    truth, runs = norm.cdf(shift / 2**0.5), 3000
    held = 0
    for _ in range(runs):
        found = delong(rng.normal(shift, 1, num_a), rng.normal(0, 1, num_b))
        held += found.low <= truth <= found.high
    assert clopper_pearson(held, runs, 0.999).high > 0.935
    assert held / runs > 0.925


def exact_exceedance(k: int, m: int, F: int, n: int) -> Fraction:
    """By listing every way that m numbers can be spread among m + n ranks."""
    hits = total = 0
    for places in combinations(range(m + n), m):  # rank 0 is the largest
        controls = [rank for rank in range(m + n) if rank not in places]
        total += 1
        hits += sum(place < controls[F] for place in places) >= k
    return Fraction(hits, total)


@pytest.mark.parametrize(("m", "F", "n"), [(1, 0, 1), (3, 0, 4), (4, 1, 5), (5, 2, 4)])
def test_the_chance_of_exceedances_is_that_of_all_orders(m: int, F: int, n: int):
    for k in range(m + 1):
        found = exceedance_p_value(k, m, allowed=F, controls=n)
        assert found == pytest.approx(float(exact_exceedance(k, m, F, n)), rel=1e-12)


def test_the_chance_of_exceedances_keeps_its_digits_far_out():
    """Σ C(j+F, j) C(m−j+n−F−1, m−j) / C(m+n, m) in integers."""
    m, F, n, k = 1000, 10, 1000, 700
    exact = sum(comb(j + F, j) * comb(m - j + n - F - 1, m - j) for j in range(k, m + 1))
    found = exceedance_p_value(k, m, allowed=F, controls=n)
    assert found == pytest.approx(float(Fraction(exact, comb(m + n, m))), rel=1e-8)
    assert exceedance_p_value(0, m, allowed=F, controls=n) == 1


@pytest.mark.parametrize(("m", "n"), [(1000, 1000), (1000, 100), (100, 1000)])
def test_exchangeable_sets_exceed_by_chance_in_at_most_alpha_of_all_runs(m: int, n: int):
    rng = np.random.default_rng(3)
    allowed, runs, rejected = n // 100, 4000, 0
    for _ in range(runs):
        threshold = np.partition(rng.random(n), n - 1 - allowed)[n - 1 - allowed]
        k = int((rng.random(m) > threshold).sum())
        rejected += exceedance_p_value(k, m, allowed=allowed, controls=n) <= 0.05
    assert clopper_pearson(rejected, runs, 0.999).low <= 0.05


@pytest.mark.parametrize(
    "numbers", [(-1, 5, 0, 3), (6, 5, 0, 3), (0, 0, 0, 3), (1, 5, 3, 3), (1, 5, -1, 3)]
)
def test_impossible_counts_are_refused(numbers: tuple[int, int, int, int]):
    k, m, allowed, n = numbers
    with pytest.raises(ValueError, match="needed"):
        exceedance_p_value(k, m, allowed=allowed, controls=n)


def test_single_numbers_have_no_interval():
    with pytest.raises(ValueError, match="2 numbers in each sample"):
        auc_interval(np.array([0.5]), np.array([0.5, 0.5]))
