"""The gate against its definitions by quadrature, and its promises by simulation and by counting.

Peeking is exact where it can be: the chance that a run has stopped after n images follows from the
chances of its counts after n − 1.
"""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, binomtest

from memaudit.audit.statistics.gate import (
    exact_decision,
    fixed_sample_size,
    log_e_values,
    mixture_interval,
    sequential_decision,
)
from memaudit.audit.statistics.intervals import clopper_pearson

REQUIRED = math.log(20)


def stopping(p: float, limit: float, horizon: int, max_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Chances that a model copying p has failed, and has passed, after n = 1 … horizon images.

    Counts beyond max_count are taken to have failed already, which the caller chooses it for.
    """
    counts = np.arange(max_count + 1)
    going = np.zeros(max_count + 1)
    going[0] = 1.0
    failed, passed = np.zeros(horizon), np.zeros(horizon)
    for n in range(1, horizon + 1):
        hit = p * going
        going *= 1 - p
        going[1:] += hit[:-1]
        failed[n - 1] = hit[-1]
        above, below = log_e_values(np.minimum(counts, n), n, limit=limit)
        failed[n - 1] += going[above >= REQUIRED].sum()
        passed[n - 1] = going[below >= REQUIRED].sum()
        going[(above >= REQUIRED) | (below >= REQUIRED)] = 0
    return failed.cumsum(), passed.cumsum()


def num_crossings(p: float, limit: float, *, horizon: int, max_count: int) -> tuple[int, int]:
    """How many of 10,000 runs see E_fail, and how many see E_pass, reach 20 at any look."""
    counts = np.arange(max_count + 1)
    crossed = np.stack(
        [
            np.stack(log_e_values(np.minimum(counts, n), n, limit=limit)) >= REQUIRED
            for n in range(1, horizon + 1)
        ]
    )  # [horizon, 2, counts]
    rng = np.random.default_rng(0)
    found = np.zeros(2, dtype=int)
    for _ in range(20):
        hits = rng.random((500, horizon), dtype=np.float32) < p
        at = hits.cumsum(1, dtype=np.int32).clip(max=max_count)
        for side in (0, 1):
            found[side] += crossed[np.arange(horizon), side, at].any(1).sum()
    return int(found[0]), int(found[1])


@pytest.mark.parametrize(
    ("k", "n", "limit"), [(0, 5, 0.1), (3, 12, 0.1), (7, 9, 0.3), (1, 60, 0.2), (40, 100, 0.5)]
)
def test_e_values_are_the_ratios_of_integrals(k: int, n: int, limit: float):
    def integral(low: float, high: float, k: int, n: int) -> float:
        # p = sin²(t) turns Beta(½, ½) into the uniform density.
        angles = (math.asin(math.sqrt(low)), math.asin(math.sqrt(high)))
        return quad(lambda t: math.sin(t) ** (2 * k) * math.cos(t) ** (2 * (n - k)), *angles)[0]

    at_limit = limit**k * (1 - limit) ** (n - k)
    above = integral(limit, 1, k, n) / (at_limit * integral(limit, 1, 0, 0))
    below = integral(0, limit, k, n) / (at_limit * integral(0, limit, 0, 0))
    decision = sequential_decision(k, n, limit=limit)
    assert decision.evidence_above == pytest.approx(math.log(above), abs=1e-7)
    assert decision.evidence_below == pytest.approx(math.log(below), abs=1e-7)


def test_both_e_processes_are_martingales_at_the_limit():
    """E[E(k', n+1) | k] = E(k, n) where a copy has the chance p₀; large n and small p₀ included."""
    for n, limit in [(10, 0.3), (1000, 0.001), (10_000_000, 1e-6), (10_000_000, 0.3)]:
        for k in {0, 1, round(n * limit), round(n * limit * 1.01) + 3}:
            for now, hit, miss in zip(
                log_e_values(k, n, limit=limit),
                log_e_values(k + 1, n + 1, limit=limit),
                log_e_values(k, n + 1, limit=limit),
                strict=True,
            ):
                expected = np.logaddexp(math.log(limit) + hit, math.log1p(-limit) + miss)
                assert float(expected) == pytest.approx(float(now), abs=1e-6)


def test_one_image_alone_is_worth_its_mean_under_the_prior():
    """E_fail(1, 1) = E[p | p > p₀] / p₀, with ∫ p g = (asin √p − √(p(1−p))) / π."""
    limit = 0.001
    angle = math.asin(math.sqrt(limit))
    mean = (math.pi / 2 - angle + math.sqrt(limit * (1 - limit))) / (math.pi - 2 * angle)
    found = sequential_decision(1, 1, limit=limit)
    assert found.evidence_above == pytest.approx(math.log(mean / limit), rel=1e-12)
    assert found.verdict == "FAIL"


def test_nothing_is_known_before_the_first_image():
    start = sequential_decision(0, 0, limit=0.001)
    assert start.verdict == "INCONCLUSIVE"
    assert start.evidence_above == pytest.approx(0, abs=1e-12)
    assert start.evidence_below == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("limit", [0.001, 0.05, 0.5, 0.97])
def test_never_do_both_sides_have_evidence(limit: float):
    """The likelihood has one top, so on one side of p₀ it is nowhere above its value at p₀."""
    n = np.arange(1, 400)[:, None]
    k = np.minimum(np.arange(400), n)
    above, below = log_e_values(k, np.broadcast_to(n, k.shape), limit=limit)
    assert (np.minimum(above, below) < 1e-9).all()
    for total in (1, 7, 50):
        for count in range(total + 1):
            found = exact_decision(count, total, limit=limit, confidence=0.5)
            assert min(found.evidence_above, found.evidence_below) < found.required


def test_a_clean_model_passes_a_limit_of_a_thousandth_after_3787_images():
    assert sequential_decision(0, 3786, limit=0.001).verdict == "INCONCLUSIVE"
    assert sequential_decision(0, 3787, limit=0.001).verdict == "PASS"


@pytest.mark.parametrize(
    ("p", "median", "horizon", "max_count"),
    [(0.1, 11, 40, 20), (0.01, 342, 800, 30), (0.005, 1415, 2500, 40)],
)
def test_half_of_all_copying_models_fail_a_limit_of_a_thousandth_within_so_many_images(
    p: float, median: int, horizon: int, max_count: int
):
    """Exact medians; simulation had given 12, 350 and 1,400."""
    failed, passed = stopping(p, 0.001, horizon, max_count)
    assert int(np.searchsorted(failed, 0.5)) + 1 == median
    assert passed[-1] < 1e-4


@pytest.mark.parametrize(
    ("limit", "horizon", "max_count"), [(0.3, 300, 200), (0.05, 1000, 120), (0.001, 8000, 40)]
)
def test_a_model_at_the_limit_gets_either_verdict_with_a_chance_of_at_most_alpha(
    limit: float, horizon: int, max_count: int
):
    """Exact chances, with a look after every image. They do use up a part of α."""
    failed, passed = stopping(limit, limit, horizon, max_count)
    assert 0.005 < failed[-1] < 0.05
    assert 0.02 < passed[-1] < 0.05


@pytest.mark.parametrize(
    ("limit", "horizon", "max_count"),
    [(0.05, 500, 150), pytest.param(0.001, 10_000, 60, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("factor", [0.2, 0.8, 1, 1.2, 4])
def test_ten_thousand_peeking_runs_err_no_more_often_than_they_may(
    limit: float, horizon: int, max_count: int, factor: float
):
    """At the limit and beyond it, both sides: FAIL is wrong up to it, PASS from it on."""
    failed, passed = num_crossings(factor * limit, limit, horizon=horizon, max_count=max_count)
    for wrong in ([failed] if factor <= 1 else []) + ([passed] if factor >= 1 else []):
        assert clopper_pearson(wrong, 10_000, 0.999).low < 0.05
    if factor == 1:
        assert failed > 50 and passed > 50  # the bound is met by something


@pytest.mark.parametrize("p", [0.001, 0.02, 0.3, 0.5])
def test_the_mixture_sequence_leaves_out_the_truth_in_at_most_alpha_of_ten_thousand_runs(p: float):
    horizon = 500
    counts = (np.random.default_rng(1).random((10_000, horizon)) < p).cumsum(1)
    outside = np.zeros(10_000, dtype=bool)
    for n in range(1, horizon + 1):
        at_n = counts[:, n - 1]
        ends = {int(k): mixture_interval(int(k), n) for k in np.unique(at_n)}
        wrong = [k for k, interval in ends.items() if not interval.low <= p <= interval.high]
        outside |= np.isin(at_n, wrong)
    assert clopper_pearson(int(outside.sum()), 10_000, 0.999).low < 0.05


@pytest.mark.parametrize(
    ("k", "n"), [(0, 1), (0, 10_000), (1, 1), (3, 50), (1, 10_000_000), (5_000, 10_000), (99, 100)]
)
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_ends_of_the_mixture_interval_solve_their_equation(k: int, n: int, confidence: float):
    found = mixture_interval(k, n, confidence)
    log_b = math.lgamma(k + 0.5) + math.lgamma(n - k + 0.5) - math.lgamma(n + 1) - math.log(math.pi)
    for p, excluded in ((found.low, k == 0), (found.high, k == n)):
        if excluded:
            assert p == (0.0 if k == 0 else 1.0)
            continue
        log_m = log_b - (k * math.log(p) if k else 0) - ((n - k) * math.log1p(-p) if n > k else 0)
        assert log_m == pytest.approx(-math.log1p(-confidence), abs=1e-6)
    fixed = clopper_pearson(k, n, confidence)
    assert found.low <= k / n <= found.high
    if confidence >= 0.95 and n > 1:  # of a single image both are the same
        assert found.low <= fixed.low and fixed.high <= found.high


def test_the_exact_test_gives_the_p_values_of_the_binomial_test():
    for k, n, limit in [(0, 100, 0.01), (5, 100, 0.01), (3, 3000, 0.002), (50, 50, 0.4)]:
        found = exact_decision(k, n, limit=limit)
        greater = binomtest(k, n, limit, "greater").pvalue
        less = binomtest(k, n, limit, "less").pvalue
        assert math.exp(-found.evidence_above) == pytest.approx(greater, rel=1e-9)
        assert math.exp(-found.evidence_below) == pytest.approx(less, rel=1e-9)
        assert (found.verdict == "FAIL") == (greater <= 1 - 0.95)
        assert (found.verdict == "PASS") == (less <= 1 - 0.95)


@pytest.mark.parametrize("limit", [0.002, 0.05, 0.5])
def test_the_exact_test_errs_with_a_chance_of_at_most_alpha(limit: float):
    for total in (1, 20, 300):
        verdicts = [exact_decision(k, total, limit=limit).verdict for k in range(total + 1)]
        chances = binom.pmf(np.arange(total + 1), total, limit)
        for wrong in ("PASS", "FAIL"):
            assert chances[[verdict == wrong for verdict in verdicts]].sum() <= 0.05 + 1e-12


@pytest.mark.parametrize(
    ("limit", "confidence", "size"), [(0.001, 0.95, 2995), (0.5, 0.75, 2), (0.1, 0.99, 44)]
)
def test_the_fixed_size_is_the_smallest_at_which_no_copy_passes(
    limit: float, confidence: float, size: int
):
    assert fixed_sample_size(limit, confidence) == size
    assert exact_decision(0, size, limit=limit, confidence=confidence).verdict == "PASS"
    smaller = exact_decision(0, size - 1, limit=limit, confidence=confidence)
    assert smaller.verdict == "INCONCLUSIVE"


def test_a_decision_is_plain_json_even_beyond_the_range_of_floats():
    found = sequential_decision(10_000_000, 10_000_000, limit=0.001)
    assert found.evidence_above > 1e7
    for decision in (found, exact_decision(10_000_000, 10_000_000, limit=0.001)):
        assert json.loads(json.dumps(asdict(decision), allow_nan=False))["verdict"] == "FAIL"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sequential_decision(0, 5, limit=0.0), "limit must be between 0 and 1"),
        (lambda: exact_decision(0, 5, limit=1.0), "limit must be between 0 and 1"),
        (lambda: sequential_decision(0, 5, limit=0.1, confidence=0.4), "must be at least 0.5"),
        (lambda: sequential_decision(6, 5, limit=0.1), "got 6 of 5"),
        (lambda: exact_decision(0, 0, limit=0.1), "got 0 of 0"),
        (lambda: mixture_interval(0, 0), "got 0 of 0"),
        (lambda: fixed_sample_size(0.001, 1.0), "confidence must be"),
    ],
)
def test_what_cannot_be_tested_is_refused(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
