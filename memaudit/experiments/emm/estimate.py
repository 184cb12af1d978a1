"""Effective model memorization: where the curve ratio-against-|D| crosses 1 − ε.

EMM_ε = max { N : the expected memorization ratio of a model trained on N images is ≥ 1 − ε } for a
data distribution, a model and a training procedure (Gu et al., arXiv:2310.02664, Definition 1).
Here are the choice of sizes and the estimate, as functions of measured ratios alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from memaudit.audit.statistics.intervals import Proportion, check_confidence
from memaudit.errors import ConfigError

NUM_DRAWS = 10_000
"""Curves drawn for an interval."""
TINY = 1e-12
"""Drawn ratios stay so far from 0 and 1, where a logit is finite."""


@dataclass(frozen=True)
class SizePoint:
    """What was measured at one size |D|."""

    num_images: int
    """|D|."""
    highest: Proportion
    """Highest memorization ratio among the snapshots of a run, as the paper reports it."""
    last: Proportion
    """Ratio of the last snapshot."""


@dataclass(frozen=True)
class SizeRange:
    """The sizes to choose among."""

    min_size: int
    max_size: int
    multiple_of: int = 1
    """Only multiples of it: the number of classes, where each has an equal share."""
    tolerance: float = 1.2
    """Neighboring sizes of the bracket are at most this factor apart at the end."""

    def __post_init__(self) -> None:
        if self.multiple_of < 1:
            raise ConfigError(f"multiple_of is {self.multiple_of}; at least 1 is needed.")
        if not 2 <= self.min_size < self.max_size:
            raise ConfigError(
                f"Sizes from {self.min_size:,} to {self.max_size:,} are asked for; the smallest "
                "must be at least 2 and less than the largest."
            )
        if self.min_size % self.multiple_of or self.max_size % self.multiple_of:
            raise ConfigError(
                f"Sizes from {self.min_size:,} to {self.max_size:,} are asked for; equal shares of "
                f"{self.multiple_of} classes need multiples of {self.multiple_of}."
            )
        if not 1 < self.tolerance < math.inf:
            raise ConfigError(f"The tolerance is {self.tolerance}; a factor above 1 is needed.")


@dataclass(frozen=True)
class Bracket:
    """Measured sizes that EMM is between; None where no size on that side is decided."""

    low: int | None
    """Largest size whose interval is at or above 1 − ε."""
    high: int | None
    """Smallest larger size whose interval is below 1 − ε."""


@dataclass(frozen=True)
class EMMEstimate:
    """EMM_ε in images, or the reason why there is none."""

    epsilon: float
    bracket: Bracket
    emm: float | None
    """Where the measured curve, straight in log |D| between sizes, crosses 1 − ε."""
    low: float | None
    """Interval of emm: the chance of the samples, and the bend that the curve may have between
    sizes. It does not hold the chance of training, which one run a size cannot show."""
    high: float | None
    confidence: float
    reason: str
    """Why emm is None; empty otherwise."""


def next_sizes(
    points: Sequence[SizePoint], sizes: SizeRange, *, epsilon: float, count: int = 1
) -> list[int]:
    """Sizes to measure next: they part the widest gap of the bracket, on the scale of log |D|.

    The ends of the range are taken for a bracket until sizes inside are decided, and are measured
    only where the bracket has shrunk onto them. A size whose interval holds 1 − ε stays inside the
    bracket, and the gaps beside it shrink.

    Args:
        points: measured so far.
        sizes: what to choose among.
        epsilon: EMM's ε.
        count: sizes that can be measured at the same time; 1 is bisection.

    Returns:
        At most `count` sizes (ends of the range: both), or none where the search is over.
    """
    measured = {point.num_images for point in points}
    found = bracket(points, epsilon)
    low = sizes.min_size if found.low is None else found.low
    high = sizes.max_size if found.high is None else found.high
    edges = [low, *sorted(size for size in measured if low < size < high), high]
    gaps = sorted(zip(edges, edges[1:], strict=False), key=lambda gap: gap[0] / gap[1])
    for start, stop in gaps:
        if stop / start > sizes.tolerance and (parts := _parts(start, stop, sizes, count)):
            return parts
    return sorted({low, high} - measured)


def _parts(start: int, stop: int, sizes: SizeRange, count: int) -> list[int]:
    """`count` sizes evenly between start and stop in log |D|, or as many as there are."""
    exact = np.geomspace(start, stop, count + 2)[1:-1]
    rounded = np.rint(exact / sizes.multiple_of).astype(int) * sizes.multiple_of
    return sorted({int(size) for size in rounded if start < size < stop})


def search_sizes(
    measure: Callable[[list[int]], list[SizePoint]],
    sizes: SizeRange,
    *,
    epsilon: float,
    count: int = 1,
) -> list[SizePoint]:
    """Measure sizes until the bracket is narrow.

    Args:
        measure: sizes → what was measured at each.
        sizes, epsilon, count: see `next_sizes`.

    Returns:
        All points, by size. The same measurements lead to the same sizes.
    """
    points: list[SizePoint] = []
    while chosen := next_sizes(points, sizes, epsilon=epsilon, count=count):
        points += measure(chosen)
    return sorted(points, key=lambda point: point.num_images)


def bracket(points: Sequence[SizePoint], epsilon: float) -> Bracket:
    """The decided sizes nearest to the crossing of 1 − ε."""
    level = 1 - epsilon
    above = [point.num_images for point in points if point.highest.low >= level]
    low = max(above, default=None)
    below = [
        point.num_images
        for point in points
        if point.highest.high < level and point.num_images > (low or 0)
    ]
    return Bracket(low, min(below, default=None))


def estimate_emm(
    points: Sequence[SizePoint], *, epsilon: float = 0.1, confidence: float = 0.95, seed: int = 0
) -> EMMEstimate:
    """EMM_ε of measured ratios, with an interval.

    The curve is the falling one nearest to the ratios (isotonic regression), straight in log |D|
    between sizes; EMM is where it crosses 1 − ε. The interval holds the middle `confidence` of the
    crossings of curves drawn anew: each ratio from its posterior Beta(k + ½, n − k + ½), which is
    resampling the binomial but also moves ratios of 0 and 1. Curves bend between sizes, most where
    they come down from 1: the interval spans that of the same curves straight in logits.

    Args:
        points: one a size, in any order.
        epsilon: ε, in (0, 1).
        confidence: of the interval, in (0, 1).
        seed: of the drawn curves.

    Returns:
        Without `emm` where the bracket is open, or where a larger size has a higher ratio than a
        smaller one beyond their intervals.
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")
    check_confidence(confidence)
    points = sorted(points, key=lambda point: point.num_images)
    found = bracket(points, epsilon)
    reason = _no_estimate(points, found, epsilon)
    if reason:
        return EMMEstimate(epsilon, found, None, None, None, confidence, reason)

    counts = np.array([point.highest.count for point in points])
    totals = np.array([point.highest.total for point in points])
    rng = np.random.default_rng(seed)
    drawn = rng.beta(counts + 0.5, totals - counts + 0.5, size=(NUM_DRAWS, len(points)))

    log_sizes = np.log([point.num_images for point in points])
    observed = crossings(log_sizes, falling(counts[None] / totals, totals), 1 - epsilon)
    resampled = falling(drawn, totals).clip(TINY, 1 - TINY)
    tail = (1 - confidence) / 2
    ends = [
        np.quantile(crossings(log_sizes, curves, level), [tail, 1 - tail])
        for curves, level in (
            (resampled, 1 - epsilon),
            (logit(resampled), float(logit(1 - epsilon))),
        )
    ]
    emm, low, high = np.exp([observed[0], np.min(ends), np.max(ends)]).tolist()
    return EMMEstimate(epsilon, found, emm, low, high, confidence, "")


def _no_estimate(points: Sequence[SizePoint], found: Bracket, epsilon: float) -> str:
    """Why there can be no estimate, or nothing."""
    level = f"{100 * (1 - epsilon):g} %"
    if not points:
        return "No size was measured."
    for i, smaller in enumerate(points):
        for larger in points[i + 1 :]:
            if smaller.highest.high < larger.highest.low:
                return (
                    f"The curve does not fall: at {larger.num_images:,} images the ratio is higher "
                    f"than at {smaller.num_images:,}, beyond their intervals. Train longer, or "
                    "several times with different seeds."
                )
    if found.low is None:
        return (
            f"No size is decided to be above {level}, so EMM is below {points[0].num_images:,} "
            "images or near it. Measure smaller sizes, generate more samples, or train longer (a "
            "model that is trained enough copies nearly everything at few images)."
        )
    if found.high is None:
        return (
            f"No size above {found.low:,} is decided to be below {level}, so EMM is "
            f"{found.low:,} images or more. Measure larger sizes, or generate more samples."
        )
    return ""


def falling(ratios: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The nearest curves that never rise, by weighted least squares.

    g_i = min_{a ≤ i} max_{b ≥ i} mean(y_a … y_b) (Robertson, Wright and Dykstra 1988, §1.4).

    Args:
        ratios: y, float [R, P]: R curves over P points.
        weights: float [P].

    Returns:
        float [R, P].
    """
    R, P = ratios.shape
    sums = np.concatenate([np.zeros([R, 1]), (ratios * weights).cumsum(1)], axis=1)
    total = np.concatenate([[0.0], weights.cumsum()])
    fitted = np.empty([R, P])
    for i in range(P):
        means = (sums[:, None, i + 1 :] - sums[:, : i + 1, None]) / (
            total[None, i + 1 :] - total[: i + 1, None]
        )  # [R, a, b]
        fitted[:, i] = means.max(2).min(1)
    return fitted


def crossings(log_sizes: np.ndarray, curves: np.ndarray, level: float) -> np.ndarray:
    """Where falling curves, straight between points, cross `level`.

    Args:
        log_sizes: float [P], rising.
        curves: float [R, P], each never rising.
        level: on the scale of the curves.

    Returns:
        float [R] on the scale of log_sizes; a curve wholly on one side crosses at that end.
    """
    P = len(log_sizes)
    num_above = (curves >= level).sum(1)  # [R]
    start = np.clip(num_above - 1, 0, P - 2)
    rows = np.arange(len(curves))
    y0, y1 = curves[rows, start], curves[rows, start + 1]
    share = np.divide(y0 - level, y0 - y1, out=np.zeros(len(curves)), where=y0 > y1)
    inside = log_sizes[start] + share * (log_sizes[start + 1] - log_sizes[start])
    return np.select([num_above == 0, num_above == P], [log_sizes[0], log_sizes[-1]], inside)
