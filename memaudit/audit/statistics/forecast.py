"""When will a gate decide? A forecast of the number of images, before and while sampling.

The true ratio is taken to be about what was seen: k of n copies stand for Beta(k, n−k) (Haldane's
posterior), whose mean is k/n; no copies stand for a model that makes none. The forecast is the
median stop over that distribution. It steers nobody's verdict, so it may be approximate: sequences
of images are simulated, and looked at in steps of 1.5 %.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.special import betaincc, betaincinv

from memaudit.audit.statistics.gate import Decision, fixed_sample_size, log_e_values
from memaudit.audit.statistics.intervals import check_proportion
from memaudit.audit.statistics.log_beta import log_betainc, log_betaincc

HORIZON = 10_000_000
"""Most images that a forecast looks ahead."""
NUM_PATHS = 400
"""Simulated sequences of images behind a forecast; their median errs by about 2 ranks in 40."""
NUM_POWER_PATHS = 4000
"""Simulated sequences behind a chance, which so errs by less than 1 %."""
GROWTH = 1.015
"""Ratio of two looks that follow each other, beyond the first ones."""

LARGEST_LIMIT = 1 - 1e-12
"""Limits are below 1."""
Evidence = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""ln E or −ln p of counts among totals, int64 [M] each."""


@dataclass(frozen=True)
class GateTest:
    """What a gate tests: PASS is shown at one limit, FAIL perhaps at a higher one."""

    limit: float
    """p₀, in (0, 1): PASS shows a ratio below it."""
    confidence: float = 0.95
    """1 − α of PASS, in [0.5, 1)."""
    fail_limit: float | None = None
    """FAIL shows a ratio above this one, ≥ limit. None: above `limit`."""
    fail_confidence: float | None = None
    """1 − α of FAIL. None: `confidence`."""

    def __post_init__(self) -> None:
        low, high = self.ends
        if not 0 < low <= high < 1:
            raise ValueError(f"limits must be 0 < limit ≤ fail_limit < 1, got {low} and {high}")
        for confidence in (self.confidence, self.fail_confidence or self.confidence):
            if not 0.5 <= confidence < 1:
                raise ValueError(f"confidence must be at least 0.5 and below 1, got {confidence}")

    @classmethod
    def of(cls, decision: Decision) -> "GateTest":
        """What a decision tested, of the count that `Decision.may_fail_by` has."""
        if decision.floor is None:
            return cls(decision.limit, decision.confidence)
        # Nothing is above 1: such a gate never fails.
        fail_limit = min(decision.may_fail_by[1], LARGEST_LIMIT)
        num_parts = 2 if decision.whole_images is None else 4
        fail_confidence = 1 - (1 - decision.confidence) / num_parts
        return cls(decision.limit, decision.confidence, fail_limit, fail_confidence)

    @property
    def ends(self) -> tuple[float, float]:
        """The limits of PASS and of FAIL."""
        return self.limit, self.limit if self.fail_limit is None else self.fail_limit

    @property
    def required(self) -> tuple[float, float]:
        """ln(1/α) of PASS and of FAIL."""
        confidences = (self.confidence, self.fail_confidence or self.confidence)
        return -math.log1p(-confidences[0]), -math.log1p(-confidences[1])


@dataclass(frozen=True)
class Forecast:
    """After how many images, counted from the first, a gate will probably decide."""

    median: int | None
    """Half of the simulated scans have decided by then; None: not within HORIZON images."""
    early: int | None
    """A tenth of them have."""
    late: int | None
    """Nine tenths of them have."""
    pass_chance: float
    """Share of them that PASS within HORIZON images."""
    fail_chance: float
    """Share of them that FAIL within HORIZON images."""

    @property
    def likely_verdict(self) -> Literal["PASS", "FAIL"] | None:
        """The verdict that more than half of them reach, or None."""
        if self.pass_chance > 0.5:
            return "PASS"
        return "FAIL" if self.fail_chance > 0.5 else None


def forecast_stop(count: int, total: int, gate: GateTest, *, min_samples: int = 1) -> Forecast:
    """When a sequential gate will decide that has seen `count` copies among `total` images.

    Args:
        count: k, copies so far, 0 … total.
        total: n, images so far; 0 before sampling, which forecasts a model that never copies.
        gate: what is tested.
        min_samples: images that the gate sees before its first look, ≥ 1.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> forecast_stop(0, 0, GateTest(0.001)).median
        3787
        >>> forecast_stop(64, 64, GateTest(0.001)).likely_verdict
        'FAIL'
    """
    if total:
        check_proportion(count, total, gate.confidence)
    if not count:
        stop = max(clean_stop(gate.limit, gate.confidence), total + 1, min_samples)
        return Forecast(stop, stop, stop, 1.0, 0.0) if stop <= HORIZON else _NEVER
    rng = np.random.default_rng(0)
    ratios = rng.beta(count, total - count, NUM_PATHS) if count < total else np.ones(NUM_PATHS)
    stops, passed = _simulate(count, total, ratios, gate, min_samples=min_samples, rng=rng)
    return _summarize(stops, passed)


def forecast_fixed_size(count: int, total: int, gate: GateTest) -> Forecast:
    """How many other images an exact test needs, where `total` given ones did not decide.

    The tests of `exact_decision` hold for a number of images that was fixed before they were
    judged. Adding images to those that did not decide, and testing again, would be a second look.

    Args:
        count: k, copies among the images given, 0 … total.
        total: n, images given, ≥ 1.
        gate: what is tested.

    Returns:
        `median`: the smallest size at which the chance to decide is a half; `early` and `late`: a
        tenth and nine tenths. The chances are those at HORIZON images.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> forecast_fixed_size(0, 500, GateTest(0.001)).median
        2995
    """
    check_proportion(count, total, gate.confidence)
    if not count:
        size = fixed_sample_size(gate.limit, gate.confidence)
        return Forecast(size, size, size, 1.0, 0.0) if size <= HORIZON else _NEVER
    levels = (np.arange(200) + 0.5) / 200
    ratios = betaincinv(count, total - count, levels) if count < total else np.ones(1)
    sizes = _looks()
    low, high = gate.ends
    passing = _largest_passing(sizes, low, gate.required[0], _exact_below(low))[:, None]
    failing = _smallest_failing(sizes, high, gate.required[1], _exact_above(high))[:, None]
    passes = _at_most(passing, sizes[:, None], ratios).mean(1)
    fails = 1 - _at_most(failing - 1, sizes[:, None], ratios).mean(1)
    chance = passes + fails

    def size_at(least: float) -> int | None:
        enough = chance >= least
        return int(sizes[enough.argmax()]) if enough.any() else None

    return Forecast(size_at(0.5), size_at(0.1), size_at(0.9), float(passes[-1]), float(fails[-1]))


def samples_to_decide(
    count: int,
    total: int,
    *,
    limit: float,
    confidence: float = 0.95,
    fail_limit: float | None = None,
    fail_confidence: float | None = None,
    sequential: bool = True,
) -> int | None:
    """How many images would probably decide a gate that `count` of `total` did not decide.

    Args:
        count: k, copies so far, 0 … total.
        total: n, images so far.
        limit: p₀ of PASS, and these as in `GateTest`.
        confidence: 1 − α of PASS.
        fail_limit: limit of FAIL.
        fail_confidence: 1 − α of FAIL.
        sequential: whether images are sampled one by one, or a set of fixed size is judged.

    Returns:
        How many *more* images a sequential gate needs, or how many *other* ones an exact test
        does; None: more than HORIZON, since the ratio lies at the limit or between both limits.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> samples_to_decide(0, 3_000, limit=0.001)
        787
    """
    gate = GateTest(limit, confidence, fail_limit, fail_confidence)
    if not sequential:
        return forecast_fixed_size(count, total, gate).median
    stop = forecast_stop(count, total, gate).median
    return None if stop is None else stop - total


def gate_power(
    ratio: float, num_samples: int, gate: GateTest, *, min_samples: int = 64
) -> tuple[float, float]:
    """The chances of PASS and of FAIL within `num_samples` images, where `ratio` is the truth.

    Args:
        ratio: p, in [0, 1].
        num_samples: images sampled at most, 1 … HORIZON.
        gate: what is tested.
        min_samples: images that the gate sees before its first look.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> gate_power(0.0, 10_000, GateTest(0.001))
        (1.0, 0.0)
    """
    if not 0 <= ratio <= 1 or not 1 <= num_samples <= HORIZON:
        raise ValueError(f"ratio must be 0 … 1 and num_samples 1 … {HORIZON:,}")
    stops, passed = _simulate(
        0,
        0,
        np.full(NUM_POWER_PATHS, ratio),
        gate,
        min_samples=min_samples,
        rng=np.random.default_rng(0),
        horizon=num_samples,
    )
    in_time = stops <= num_samples
    return float((in_time & passed).mean()), float((in_time & ~passed).mean())


@lru_cache(maxsize=64)
def clean_stop(limit: float, confidence: float = 0.95) -> int:
    """After how many images, none of them a copy, a sequential gate passes.

    The smallest n with E_pass(0, n) ≥ 1/α, by bisection, since E_pass grows with n at k = 0.

    Args:
        limit: p₀, in (0, 1).
        confidence: 1 − α, in [0.5, 1).

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> clean_stop(0.001)
        3787
    """
    required = GateTest(limit, confidence).required[0]
    too_few, enough = 0, 1
    while log_e_values(0, enough, limit=limit)[1] < required:
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if log_e_values(0, middle, limit=limit)[1] < required:
            too_few = middle
        else:
            enough = middle
    return enough


def advice(count: int, total: int, gate: GateTest, *, sequential: bool) -> str:
    """What would probably decide a gate that `total` images did not decide, in a sentence or two.

    Args:
        count: k, copies so far, 0 … total.
        total: n, images so far, ≥ 1.
        gate: what is tested.
        sequential: whether images are sampled one by one, or a set of fixed size is judged.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> advice(0, 3_000, GateTest(0.001), sequential=True).split(":")[0]
        'About 790 more samples (3,800 in all) would probably decide'
    """
    find = forecast_stop if sequential else forecast_fixed_size
    found = find(count, total, gate)
    if found.median is None:
        if gate.ends[0] < gate.ends[1]:
            between = "between the limit and the limit plus the most that the floor may be"
            return (
                f"The ratio seems to lie {between}: not even {HORIZON:,} samples would probably "
                "decide. More held-out images bring the two closer together."
            )
        return f"The ratio is so close to the limit that {HORIZON:,} samples would hardly decide."
    likely = found.likely_verdict
    outcome = "" if likely is None else f", as {likely} if the ratio stays as it is"
    if not count:
        outcome = ": PASS if none is a copy"
    if sequential:
        more = about(found.median - total)
        return (
            f"About {more:,} more samples ({about(found.median):,} in all) would probably decide"
            f"{outcome}. Give more samples."
        )
    return (
        f"About {about(found.median):,} other images would probably decide{outcome}. Generate "
        "them anew and judge them alone: adding to these and testing again would be a second look, "
        "for which the test makes no allowance."
    )


def about(number: int) -> int:
    """A number rounded to two digits, for what is only likely.

    Examples:
        >>> about(3_787), about(64), about(10_856)
        (3800, 64, 11000)
    """
    step: int = 10 ** max(0, len(str(number)) - 2)
    return int(step * round(number / step))


_NEVER = Forecast(None, None, None, 0.0, 0.0)


def _simulate(
    count: int,
    total: int,
    ratios: np.ndarray,
    gate: GateTest,
    *,
    min_samples: int,
    rng: np.random.Generator,
    horizon: int = HORIZON,
) -> tuple[np.ndarray, np.ndarray]:
    """Where scans of these true ratios stop, float64 [M] (infinity: nowhere), and which PASS."""
    all_looks = _looks()
    passing, failing = _boundaries(gate)
    stops = np.full(len(ratios), np.inf)
    passed = np.zeros(len(ratios), dtype=bool)
    running = np.arange(len(ratios))
    counts, before = np.full(len(ratios), count), total
    first = max(total + 1, min_samples)
    for at in range(int(all_looks.searchsorted(first)), len(all_looks)):
        look = int(all_looks[at])
        if look > horizon or not len(running):
            break
        counts[running] += rng.binomial(look - before, ratios[running])
        before = look
        has_passed = counts[running] <= passing[at]
        has_stopped = has_passed | (counts[running] >= failing[at])
        stops[running[has_stopped]] = look
        passed[running[has_passed]] = True
        running = running[~has_stopped]
    return stops, passed


def _summarize(stops: np.ndarray, passed: np.ndarray) -> Forecast:
    decided = np.isfinite(stops)
    ordered = np.sort(stops)

    def quantile(share: float) -> int | None:
        stop = ordered[math.ceil(share * len(ordered)) - 1]
        return int(stop) if math.isfinite(stop) else None

    return Forecast(
        median=quantile(0.5),
        early=quantile(0.1),
        late=quantile(0.9),
        pass_chance=float((decided & passed).mean()),
        fail_chance=float((decided & ~passed).mean()),
    )


@lru_cache(maxsize=1)
def _looks() -> np.ndarray:
    """Numbers of images at which a simulated scan is looked at: every one at first, then in steps.

    int64 [L], ascending from 1 to HORIZON.
    """
    looks = list(range(1, 129))
    while looks[-1] < HORIZON:
        looks.append(min(HORIZON, math.ceil(looks[-1] * GROWTH)))
    return np.array(looks)


@lru_cache(maxsize=16)
def _boundaries(gate: GateTest) -> tuple[np.ndarray, np.ndarray]:
    """At each look, the largest count that passes (−1: none) and the smallest that fails."""
    looks = _looks()
    low, high = gate.ends

    def below(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
        return log_e_values(counts, totals, limit=low)[1]

    def above(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
        return log_e_values(counts, totals, limit=high)[0]

    return (
        _largest_passing(looks, low, gate.required[0], below),
        _smallest_failing(looks, high, gate.required[1], above),
    )


def _largest_passing(
    totals: np.ndarray, limit: float, required: float, evidence: Evidence
) -> np.ndarray:
    """The largest count with enough evidence below the limit, −1 if there is none; int64 [M]."""
    low, high = np.full(len(totals), -1), np.floor(totals * limit).astype(np.int64)
    low = np.maximum(low, np.floor(totals * limit - _reach(totals, limit)).astype(np.int64))
    while (low < high).any():
        middle: np.ndarray = (low + high + 1) // 2
        enough = evidence(np.maximum(middle, 0), totals) >= required
        low, high = np.where(enough, middle, low), np.where(enough, high, middle - 1)
        high = np.maximum(low, high)
    return low


def _smallest_failing(
    totals: np.ndarray, limit: float, required: float, evidence: Evidence
) -> np.ndarray:
    """The smallest count with enough evidence above the limit, n + 1 if there is none."""
    low = np.floor(totals * limit).astype(np.int64)
    reach = np.ceil(totals * limit + _reach(totals, limit)).astype(np.int64)
    high: np.ndarray = np.minimum(totals + 1, reach)
    while (low < high).any():
        middle: np.ndarray = (low + high) // 2
        enough = evidence(np.minimum(middle, totals), totals) >= required
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
        low = np.minimum(low, high)
    return high


def _reach(totals: np.ndarray, limit: float) -> np.ndarray:
    """How far from its mean a count decides for certain: 12 standard deviations and 60."""
    return 12 * np.sqrt(totals * limit * (1 - limit)) + 60


def _exact_above(limit: float) -> Evidence:
    def evidence(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
        some = np.maximum(counts, 1)
        return np.where(counts > 0, -log_betainc(some, totals - some + 1, limit), 0.0)

    return evidence


def _exact_below(limit: float) -> Evidence:
    def evidence(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
        fewer = np.minimum(counts, totals - 1)
        return np.where(counts < totals, -log_betaincc(fewer + 1, totals - fewer, limit), 0.0)

    return evidence


def _at_most(counts: np.ndarray, totals: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """P(X ≤ count) for X binomial; all shapes broadcast."""
    inside = np.clip(counts, 0, totals - 1)
    chance = betaincc(inside + 1, totals - inside, ratios)
    return np.where(counts < 0, 0.0, np.where(counts >= totals, 1.0, chance))
