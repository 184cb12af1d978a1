"""Effective model memorization (EMM): where the ratio as a function of |D| crosses 1 − ε.

EMM_ε = max { N : the expected memorization ratio of a model trained on N images is ≥ 1 − ε } for a
data distribution, a model and a training procedure (Gu et al., arXiv:2310.02664, Definition 1).
This file chooses sizes and estimates EMM, given nothing but measured ratios.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import logit
from scipy.stats import t

from memaudit.audit.statistics.intervals import Estimate, Proportion, check_confidence
from memaudit.experiments.emm.config import EMMConfig, SizeRange
from memaudit.experiments.replicates import Replicates, pool

Floats = npt.NDArray[np.float64]

NUM_DRAWS = 10_000
"""Number of curves drawn for an interval."""
TINY = 1e-12
"""Smallest distance of drawn ratios from 0 and 1, so that their logits are finite."""


@dataclass(frozen=True)
class MeasuredSize:
    """What was measured at one size |D|."""

    num_images: int
    """Number of training images |D|."""
    highest: tuple[Proportion, ...]
    """Memorization ratio of each training, at the snapshot that copies most; see `highest_ratio`.
    Replicates are in the same order at every size."""
    last: tuple[Proportion, ...]
    """Ratio of each training's last snapshot."""

    @cached_property
    def pooled(self) -> Proportion:
        """Mean of `highest`. Its interval covers the randomness of the samples alone."""
        return pool(self.highest)

    @cached_property
    def mean(self) -> Estimate | None:
        """Mean of `highest`, with an interval that covers training too; None for one training."""
        return Replicates(self.highest, 0).mean()


@dataclass(frozen=True)
class Bracket:
    """The measured sizes that EMM of these trainings lies between; None if no size on that side is
    decided."""

    low: int | None
    """Largest size at which the interval of `pooled` is at or above 1 − ε."""
    high: int | None
    """Smallest larger size at which it is below 1 − ε."""


@dataclass(frozen=True)
class EMMEstimate:
    """EMM_ε in images, or the reason why there is no estimate."""

    epsilon: float
    bracket: Bracket
    emm: float | None
    """Where the curve of mean ratios, straight in log |D| between sizes, crosses 1 − ε."""
    replicates: int
    """Number R of trainings at each size."""
    low: float | None
    """Lower end of the interval of emm, which covers the choice of images, training, samples and
    how the curve may bend between sizes; None if R = 1, which shows nothing of the former two."""
    high: float | None
    """Upper end of it."""
    sampling_low: float | None
    """Lower end of what the samples alone leave open about these very trainings. This is not an
    interval of EMM: other trainings of the same setup lie outside far more often than it says."""
    sampling_high: float | None
    """Upper end of it."""
    confidence: float
    """Confidence of both intervals, in (0, 1)."""
    reason: str
    """Why emm is None; empty otherwise."""


def choose_sizes(
    points: Sequence[MeasuredSize], sizes: SizeRange, *, epsilon: float, count: int = 1
) -> list[int]:
    """Choose the sizes to measure next: they divide the bracket's widest gap in log |D|.

    The ends of the range serve as a bracket until sizes inside are decided, and are measured only
    if the bracket has shrunk onto them. A size whose interval contains 1 − ε stays inside the
    bracket, and the gaps beside it shrink. If then the curve of some replicate crosses outside the
    measured sizes, they are extended by steps of the tolerance until all cross or the range ends.

    Args:
        points: measured so far.
        sizes: the sizes to choose among.
        epsilon: EMM's ε, in (0, 1).
        count: sizes that can be measured at the same time; 1 is bisection.

    Returns:
        At most `count` sizes (or both ends of the range), or none if the search is over.
    """
    measured = {point.num_images for point in points}
    found = find_bracket(points, epsilon)
    low = sizes.min_size if found.low is None else found.low
    high = sizes.max_size if found.high is None else found.high
    edges = [low, *sorted(size for size in measured if low < size < high), high]
    gaps = sorted(zip(edges, edges[1:], strict=False), key=lambda gap: gap[0] / gap[1])
    for start, stop in gaps:
        if stop / start > sizes.tolerance and (inner := _divide_gap(start, stop, sizes, count)):
            return inner
    return sorted({low, high} - measured) or _extend(points, sizes, epsilon)


def _extend(points: Sequence[MeasuredSize], sizes: SizeRange, epsilon: float) -> list[int]:
    """Choose the next size outside those measured, if a replicate's curve does not cross inside."""
    points = sorted(points, key=lambda point: point.num_images)
    if len(points[0].highest) == 1:
        return []
    smallest, largest = points[0].num_images, points[-1].num_images
    curves = _fit_replicates(points)
    step, chosen = sizes.multiple_of, []
    if (curves[:, -1] >= 1 - epsilon).any() and largest < sizes.max_size:
        next_size = math.ceil(largest * sizes.tolerance / step) * step
        chosen.append(min(next_size, sizes.max_size))
    if (curves[:, 0] < 1 - epsilon).any() and smallest > sizes.min_size:
        next_size = math.floor(smallest / sizes.tolerance / step) * step
        chosen.append(max(next_size, sizes.min_size))
    return sorted(chosen)


def _divide_gap(start: int, stop: int, sizes: SizeRange, count: int) -> list[int]:
    """Choose up to `count` sizes evenly spaced between start and stop in log |D|."""
    exact = np.geomspace(start, stop, count + 2)[1:-1]
    rounded = np.rint(exact / sizes.multiple_of).astype(int) * sizes.multiple_of
    return sorted({int(size) for size in rounded if start < size < stop})


def search_sizes(
    measure: Callable[[list[int]], list[MeasuredSize]],
    sizes: SizeRange,
    *,
    epsilon: float,
    count: int = 1,
) -> list[MeasuredSize]:
    """Measure sizes until the bracket is narrow.

    Args:
        measure: takes sizes and returns what was measured at each.
        sizes, epsilon, count: see `choose_sizes`.

    Returns:
        All points, by size. The same measurements lead to the same sizes.
    """
    points: list[MeasuredSize] = []
    while chosen := choose_sizes(points, sizes, epsilon=epsilon, count=count):
        points += measure(chosen)
    return sorted(points, key=lambda point: point.num_images)


def find_bracket(points: Sequence[MeasuredSize], epsilon: float) -> Bracket:
    """Find the decided sizes nearest to where the ratio crosses 1 − ε."""
    level = 1 - epsilon
    above = [point.num_images for point in points if point.pooled.low >= level]
    low = max(above, default=None)
    below = [
        point.num_images
        for point in points
        if point.pooled.high < level and point.num_images > (low or 0)
    ]
    return Bracket(low, min(below, default=None))


def estimate_emm(
    points: Sequence[MeasuredSize],
    *,
    epsilon: float = EMMConfig.epsilon,
    confidence: float = 0.95,
    seed: int = 0,
) -> EMMEstimate:
    """Estimate EMM_ε from measured ratios, with an interval.

    The curve is the non-increasing one nearest to the mean ratios (isotonic regression), straight
    in log |D| between sizes; EMM is where it crosses 1 − ε. With R ≥ 2 replicates, each has a curve
    of its own that crosses at EMM_r, and the interval is that of Student's t with R − 1 degrees of
    freedom: log EMM ± t·s/√R, where s is the standard deviation of log EMM_r.

    The sampling interval holds the middle `confidence` of the crossings of randomly drawn curves:
    each ratio comes from its posterior Beta(k + ½, n − k + ½), which is like resampling the
    binomial but also varies ratios of 0 and 1.

    Real curves bend between sizes, most where they come down from 1, so both intervals also span
    those of the same curves drawn straight in logits.

    Args:
        points: one per size, in any order, with equally many replicates each.
        epsilon: EMM's ε, in (0, 1).
        confidence: confidence of the intervals, in (0, 1).
        seed: seed of the drawn curves.

    Returns:
        The estimate; without `emm` if the bracket is open, if a replicate's curve does not cross
        within the measured sizes, or if a larger size has a higher ratio than a smaller one beyond
        their intervals.

    Raises:
        ValueError: epsilon or confidence is not in (0, 1), or sizes differ in replicates.
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")
    check_confidence(confidence)
    points = sorted(points, key=lambda point: point.num_images)
    numbers = {len(point.highest) for point in points}
    if len(numbers) > 1:
        raise ValueError(f"every size needs equally many replicates, got {sorted(numbers)}")
    R = max(numbers, default=0)
    found = find_bracket(points, epsilon)
    reason = _why_no_estimate(points, found, epsilon)
    if reason:
        return EMMEstimate(epsilon, found, None, R, None, None, None, None, confidence, reason)

    log_sizes = np.log([point.num_images for point in points])
    counts = np.array([point.pooled.count for point in points])
    totals = np.array([point.pooled.total for point in points])
    pooled = fit_falling_curves(counts[None] / totals, totals)
    drawn = np.random.default_rng(seed).beta(
        counts + 0.5, totals - counts + 0.5, size=(NUM_DRAWS, len(points))
    )
    resampled = fit_falling_curves(drawn, totals)
    replicates = _fit_replicates(points)

    tail = (1 - confidence) / 2
    ends, sampling_ends = [], []
    for scale in (np.asarray, logit):  # straight in ratios, and straight in logits
        level = float(scale(1 - epsilon))
        center, own, random = (
            find_crossings(log_sizes, scale(curves.clip(TINY, 1 - TINY)), level)
            for curves in (pooled, replicates, resampled)
        )
        sampling_ends.append(np.quantile(random, [tail, 1 - tail]))
        if R > 1:
            reach = t.ppf(1 - tail, R - 1) * own.std(ddof=1) / math.sqrt(R)
            ends.append([center[0] - reach, center[0] + reach])
    emm = math.exp(find_crossings(log_sizes, pooled, 1 - epsilon)[0])
    sampling_low, sampling_high = np.exp([np.min(sampling_ends), np.max(sampling_ends)]).tolist()
    low, high = np.exp([np.min(ends), np.max(ends)]).tolist() if R > 1 else (None, None)
    return EMMEstimate(
        epsilon, found, emm, R, low, high, sampling_low, sampling_high, confidence, ""
    )


def _fit_replicates(points: Sequence[MeasuredSize]) -> Floats:
    """Fit the falling curve of each replicate: float64 [R, P] for P points by size."""
    counts = np.array([[ratio.count for ratio in point.highest] for point in points]).T
    totals = np.array([[ratio.total for ratio in point.highest] for point in points]).T
    return np.concatenate(
        [
            fit_falling_curves(row[None] / total, total)
            for row, total in zip(counts, totals.astype(float), strict=True)
        ]
    )


def _why_no_estimate(points: Sequence[MeasuredSize], found: Bracket, epsilon: float) -> str:
    """Explain why there can be no estimate; empty if there can be one."""
    level = f"{100 * (1 - epsilon):g} %"
    if not points:
        return "No size was measured."
    for i, smaller in enumerate(points):
        for larger in points[i + 1 :]:
            if (smaller.mean or smaller.pooled).high < (larger.mean or larger.pooled).low:
                return (
                    f"The curve does not fall: at {larger.num_images:,} images the ratio is higher "
                    f"than at {smaller.num_images:,}, beyond their intervals. Train longer, or "
                    "several times with different seeds."
                )
    if found.low is None:
        return (
            f"No size is decided to be above {level}, so EMM is below {points[0].num_images:,} "
            "images or near it. Measure smaller sizes, generate more samples, or train longer (a "
            "model that is trained enough on few images copies nearly everything)."
        )
    if found.high is None:
        return (
            f"No size above {found.low:,} is decided to be below {level}, so EMM is "
            f"{found.low:,} images or more. Measure larger sizes, or generate more samples."
        )
    curves = _fit_replicates(points)
    for side, is_outside, edge in (
        ("above", curves[:, -1] >= 1 - epsilon, points[-1]),
        ("below", curves[:, 0] < 1 - epsilon, points[0]),
    ):
        if len(curves) > 1 and is_outside.any():
            return (
                f"{is_outside.sum()} of {len(curves)} trainings are still {side} {level} at "
                f"{edge.num_images:,} images, so their own EMM is not within the measured sizes. "
                "Widen the range of sizes."
            )
    return ""


def fit_falling_curves(ratios: Floats, weights: Floats) -> Floats:
    """Fit the nearest curves that never rise, by weighted least squares.

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


def find_crossings(log_sizes: Floats, curves: Floats, level: float) -> Floats:
    """Find where falling curves, straight between points, cross a level.

    Args:
        log_sizes: float [P], increasing.
        curves: float [R, P], each never rising.
        level: the level to cross, on the scale of the curves.

    Returns:
        float [R] on the scale of log_sizes; a curve entirely on one side crosses at that end.
    """
    P = len(log_sizes)
    num_above = (curves >= level).sum(1)  # [R]
    start = np.clip(num_above - 1, 0, P - 2)
    rows = np.arange(len(curves))
    y0, y1 = curves[rows, start], curves[rows, start + 1]
    share = np.divide(y0 - level, y0 - y1, out=np.zeros(len(curves)), where=y0 > y1)
    inside = log_sizes[start] + share * (log_sizes[start + 1] - log_sizes[start])
    return np.select([num_above == 0, num_above == P], [log_sizes[0], log_sizes[-1]], inside)
