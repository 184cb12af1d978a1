"""Effective model memorization (EMM): where the ratio as a function of |D| crosses 1 − ε.

EMM_ε = max { N : the expected memorization ratio of a model trained on N images is ≥ 1 − ε } for a
data distribution, a model and a training procedure (Gu et al., arXiv:2310.02664, Definition 1).
This file chooses sizes and estimates EMM, given nothing but measured ratios.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logit

from memaudit.audit.statistics.intervals import Proportion, check_confidence
from memaudit.experiments.emm.config import EMMConfig, SizeRange

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
    highest: Proportion
    """Highest memorization ratio among the snapshots of a run, as the paper reports it."""
    last: Proportion
    """Ratio of the last snapshot."""


@dataclass(frozen=True)
class Bracket:
    """The measured sizes that EMM lies between; None if no size on that side is decided."""

    low: int | None
    """Largest size whose interval is at or above 1 − ε."""
    high: int | None
    """Smallest larger size whose interval is below 1 − ε."""


@dataclass(frozen=True)
class EMMEstimate:
    """EMM_ε in images, or the reason why there is no estimate."""

    epsilon: float
    bracket: Bracket
    emm: float | None
    """Where the measured curve, straight in log |D| between sizes, crosses 1 − ε."""
    low: float | None
    """Lower end of the interval of emm. The interval covers the randomness of the samples and how
    the curve may bend between sizes, but not the randomness of training, which one run per size
    cannot show."""
    high: float | None
    """Upper end of it."""
    confidence: float
    """Confidence of the interval, in (0, 1)."""
    reason: str
    """Why emm is None; empty otherwise."""


def choose_sizes(
    points: Sequence[MeasuredSize], sizes: SizeRange, *, epsilon: float, count: int = 1
) -> list[int]:
    """Choose the sizes to measure next: they divide the bracket's widest gap in log |D|.

    The ends of the range serve as a bracket until sizes inside are decided, and are measured only
    if the bracket has shrunk onto them. A size whose interval contains 1 − ε stays inside the
    bracket, and the gaps beside it shrink.

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
    return sorted({low, high} - measured)


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
    above = [point.num_images for point in points if point.highest.low >= level]
    low = max(above, default=None)
    below = [
        point.num_images
        for point in points
        if point.highest.high < level and point.num_images > (low or 0)
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

    The curve is the non-increasing one nearest to the ratios (isotonic regression), straight in
    log |D| between sizes; EMM is where it crosses 1 − ε. The interval contains the middle
    `confidence` of the crossings of randomly drawn curves: each ratio comes from its posterior
    Beta(k + ½, n − k + ½), which is like resampling the binomial but also varies ratios of 0 and 1.
    Real curves bend between sizes, most where they come down from 1, so the interval also spans
    that of the same curves drawn straight in logits.

    Args:
        points: one per size, in any order.
        epsilon: EMM's ε, in (0, 1).
        confidence: confidence of the interval, in (0, 1).
        seed: seed of the drawn curves.

    Returns:
        The estimate; without `emm` if the bracket is open, or if a larger size has a higher ratio
        than a smaller one beyond their intervals.

    Raises:
        ValueError: epsilon or confidence is not in (0, 1).
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")
    check_confidence(confidence)
    points = sorted(points, key=lambda point: point.num_images)
    found = find_bracket(points, epsilon)
    reason = _why_no_estimate(points, found, epsilon)
    if reason:
        return EMMEstimate(epsilon, found, None, None, None, confidence, reason)

    counts = np.array([point.highest.count for point in points])
    totals = np.array([point.highest.total for point in points])
    rng = np.random.default_rng(seed)
    drawn = rng.beta(counts + 0.5, totals - counts + 0.5, size=(NUM_DRAWS, len(points)))

    log_sizes = np.log([point.num_images for point in points])
    fitted = fit_falling_curves(counts[None] / totals, totals)
    observed = find_crossings(log_sizes, fitted, 1 - epsilon)
    resampled = fit_falling_curves(drawn, totals).clip(TINY, 1 - TINY)
    tail = (1 - confidence) / 2
    ends = [
        np.quantile(find_crossings(log_sizes, curves, level), [tail, 1 - tail])
        for curves, level in (
            (resampled, 1 - epsilon),
            (logit(resampled), float(logit(1 - epsilon))),
        )
    ]
    emm, low, high = np.exp([observed[0], np.min(ends), np.max(ends)]).tolist()
    return EMMEstimate(epsilon, found, emm, low, high, confidence, "")


def _why_no_estimate(points: Sequence[MeasuredSize], found: Bracket, epsilon: float) -> str:
    """Explain why there can be no estimate; empty if there can be one."""
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
            "model that is trained enough on few images copies nearly everything)."
        )
    if found.high is None:
        return (
            f"No size above {found.low:,} is decided to be below {level}, so EMM is "
            f"{found.low:,} images or more. Measure larger sizes, or generate more samples."
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
