"""Forecasts against exact counting of paths, against known stops, and against simulated scans."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from memaudit.audit.statistics.forecast import (
    GateTest,
    _boundaries,
    _looks,
    about,
    advice,
    clean_stop,
    forecast_fixed_size,
    forecast_stop,
    gate_power,
    samples_to_decide,
)
from memaudit.audit.statistics.gate import exact_decision, log_e_values, sequential_decision


def exact_chances(
    p: float, gate: GateTest, horizon: int, max_count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Chances that a model copying p has passed, and has failed, after each number of images.

    The chances of the counts of those that continue follow, image by image.
    """
    counts = np.arange(max_count + 1)
    going = np.zeros(max_count + 1)
    going[0] = 1.0
    passed, failed = np.zeros(horizon + 1), np.zeros(horizon + 1)
    low, high = gate.ends
    for n in range(1, horizon + 1):
        hit = p * going
        going *= 1 - p
        going[1:] += hit[:-1]
        failed[n] = hit[-1]
        possible = np.minimum(counts, n)
        passes = log_e_values(possible, n, limit=low)[1] >= gate.required[0]
        fails = log_e_values(possible, n, limit=high)[0] >= gate.required[1]
        passed[n], failed[n] = going[passes].sum(), failed[n] + going[fails].sum()
        going[passes | fails] = 0
    return passed.cumsum(), failed.cumsum()


@pytest.mark.parametrize("limit", [0.001, 0.01, 0.2, 1e-5])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_a_model_that_never_copies_passes_at_the_first_number_that_decides(
    limit: float, confidence: float
):
    stop = clean_stop(limit, confidence)
    for total, verdict in ((stop - 1, "INCONCLUSIVE"), (stop, "PASS")):
        found = sequential_decision(0, total, limit=limit, confidence=confidence)
        assert found.verdict == verdict
    gate = GateTest(limit, confidence)
    assert forecast_stop(0, stop // 2, gate).median == stop
    assert samples_to_decide(0, stop // 2, limit=limit, confidence=confidence) == stop - stop // 2


def test_a_model_that_only_copies_fails_at_the_first_look():
    assert forecast_stop(64, 64, GateTest(0.001)).median == 65
    assert forecast_stop(3, 3, GateTest(0.001), min_samples=64).median == 64


@pytest.mark.parametrize("gate", [GateTest(0.001), GateTest(0.05, 0.9, 0.08, 0.95)])
def test_boundaries_are_where_the_verdict_changes(gate: GateTest):
    passing, failing = _boundaries(gate)
    low, high = gate.ends
    for look, most, least in zip(_looks()[::25], passing[::25], failing[::25], strict=True):
        n = int(look)
        for k in (most, most + 1):
            if 0 <= k <= n:
                assert (log_e_values(k, n, limit=low)[1] >= gate.required[0]) == (k == most)
        for k in (least - 1, least):
            if 0 <= k <= n:
                assert (log_e_values(k, n, limit=high)[0] >= gate.required[1]) == (k == least)


@pytest.mark.parametrize(
    ("p", "gate", "horizon"),
    [
        (0.0003, GateTest(0.01), 1200),
        (0.004, GateTest(0.01), 1500),
        (0.02, GateTest(0.01), 800),
        (0.02, GateTest(0.01, 0.95, 0.012, 0.975), 1200),
        (0.3, GateTest(0.01), 200),
        (0.1, GateTest(0.1), 800),
    ],
)
def test_simulated_chances_are_those_counted_path_by_path(p: float, gate: GateTest, horizon: int):
    max_count = int(p * horizon + 12 * math.sqrt(p * horizon) + 40)
    passed, failed = exact_chances(p, gate, horizon, max_count)
    found = gate_power(p, horizon, gate, min_samples=1)
    # Four standard errors of 4,000 paths, and the looks between two that are simulated.
    assert found == pytest.approx((passed[-1], failed[-1]), abs=0.04)


@pytest.mark.slow
def test_the_median_stop_is_the_one_counted_path_by_path():
    """With much data the ratio is known, and the forecast is that of the ratio alone."""
    for p, limit in ((0.004, 0.01), (0.02, 0.01), (0.12, 0.1)):
        gate = GateTest(limit)
        # The forecast starts where it is told, so the exact one does too: at n images, k = pn.
        total = 200 if limit == 0.01 else 100
        count = max(1, round(p * total))
        rng = np.random.default_rng(1)
        ratios = rng.beta(count, total - count, 200)
        stops = []
        for ratio in ratios:
            stops.append(_first_stop(rng, count, total, ratio, gate, horizon=8_000))
        stops = np.sort(stops)
        forecast = forecast_stop(count, total, gate)
        low, high = np.quantile(stops, (0.36, 0.64))
        assert forecast.median is not None
        assert low * 0.98 <= forecast.median <= high * 1.02


def _first_stop(
    rng: np.random.Generator, count: int, total: int, ratio: float, gate: GateTest, *, horizon: int
) -> float:
    """Where one scan stops that is looked at after every image, or infinity."""
    hits = rng.random(horizon) < ratio
    counts = count + hits.cumsum()
    totals = total + np.arange(1, horizon + 1)
    low, high = gate.ends
    above = log_e_values(counts, totals, limit=high)[0] >= gate.required[1]
    below = log_e_values(counts, totals, limit=low)[1] >= gate.required[0]
    decided = above | below
    return float(totals[decided.argmax()]) if decided.any() else math.inf


def test_a_ratio_between_both_limits_is_never_decided():
    assert samples_to_decide(150, 100_000, limit=0.001, fail_limit=0.002) is None
    assert forecast_stop(1000, 1_000_000, GateTest(0.001)).late is None
    text = advice(150, 100_000, GateTest(0.001, 0.95, 0.002, 0.975), sequential=True)
    assert "between the limit and" in text and "Give more samples" not in text


@pytest.mark.parametrize(("count", "total"), [(0, 100), (2, 900), (12, 900), (30, 900)])
def test_an_exact_test_of_the_forecast_size_decides_half_the_time(count: int, total: int):
    gate = GateTest(0.01)
    size = samples_to_decide(count, total, limit=0.01, sequential=False)
    assert size is not None

    def chance(n: int) -> float:
        verdicts = np.array(
            [exact_decision(k, n, limit=0.01).verdict != "INCONCLUSIVE" for k in range(n + 1)]
        )
        if not count:
            return float(verdicts[0])
        levels = np.random.default_rng(0).beta(count, total - count, 500)
        return float(
            (binom.pmf(np.arange(n + 1)[:, None], n, levels) * verdicts[:, None]).sum(0).mean()
        )

    assert chance(size) >= 0.47
    assert chance(math.floor(size * 0.97)) < 0.56
    assert forecast_fixed_size(count, total, gate).early <= size


def test_advice_says_how_many_more_and_of_what():
    assert advice(0, 3000, GateTest(0.001), sequential=True) == (
        "About 790 more samples (3,800 in all) would probably decide: PASS if none is a copy. "
        "Give more samples."
    )
    assert "as FAIL if the ratio stays" in advice(30, 1000, GateTest(0.02), sequential=True)
    given = advice(0, 500, GateTest(0.001), sequential=False)
    assert given.startswith("About 3,000 other images") and "second look" in given
    close = advice(10_000, 10_000_000, GateTest(0.001), sequential=True)
    assert "so close to the limit" in close and "Give more samples" not in close


def test_numbers_that_are_only_likely_have_two_digits():
    assert [about(n) for n in (0, 7, 64, 105, 3787, 99_600)] == [0, 7, 64, 100, 3800, 100_000]


@pytest.mark.parametrize(
    "arguments",
    [(0.0,), (1.0,), (0.1, 0.3), (0.1, 0.95, 0.05), (0.1, 0.95, 1.0), (0.1, 0.9, 0.2, 1.0)],
)
def test_gates_that_cannot_be_are_refused(arguments: tuple[float, ...]):
    with pytest.raises(ValueError, match="limit|confidence"):
        GateTest(*arguments)
