"""The interval that goes with a one-sided verdict: after PASS an upper end, after FAIL a lower one.

PASS at a limit p₀ and an upper end below p₀ are the same statement, so the two never seem to
contradict each other, as a two-sided interval does that keeps α/2 for the other side.
"""

import math
from collections.abc import Callable

from scipy.special import betainccinv, betaincinv

from memaudit.audit.statistics.gate import log_e_values
from memaudit.audit.statistics.intervals import check_proportion

NUM_HALVINGS = 64
"""Steps of a bisection, which leave 1 / 2^64; what is left is added outwards."""


def upper_end(
    count: int, total: int, *, confidence: float = 0.95, sequential: bool = False
) -> float:
    """The smallest limit at which `count` of `total` would PASS, an upper end for the true ratio.

    Of a fixed number of images: Beta(1−α; k+1, n−k), the one-sided Clopper–Pearson end. Of images
    that were looked at one by one: the smallest p₀ > k/n with E_pass(p₀) ≥ 1/α. The end lies below
    the true ratio p with a chance of at most α at *any* number of images, since E_pass(p) then
    reaches 1/α.

    Args:
        count: k, copies, 0 … total.
        total: n, images, ≥ 1.
        confidence: 1 − α, in (0, 1).
        sequential: whether the number of images depended on what was seen.

    Returns:
        The end, in (0, 1].

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> f"{upper_end(0, 3_787, sequential=True):.4%}"
        '0.1000%'
        >>> f"{upper_end(0, 2_995):.4%}"
        '0.1000%'
    """
    check_proportion(count, total, confidence)
    if count == total:
        return 1.0
    if not sequential:
        return float(betainccinv(count + 1, total - count, 1 - confidence))

    def passes(limit: float) -> bool:
        return bool(log_e_values(count, total, limit=limit)[1] >= -math.log1p(-confidence))

    return _bisect(passes, outside=1.0, inside=count / total)


def lower_end(
    count: int, total: int, *, confidence: float = 0.95, sequential: bool = False
) -> float:
    """The largest limit at which `count` of `total` would FAIL, a lower end for the true ratio.

    Beta(α; k, n−k+1), or the largest p₀ < k/n with E_fail(p₀) ≥ 1/α. Arguments as in `upper_end`.

    Returns:
        The end, in [0, 1).

    Examples:
        >>> lower_end(0, 100), f"{lower_end(5, 20, sequential=True):.1%}"
        (0.0, '4.9%')
    """
    check_proportion(count, total, confidence)
    if not count:
        return 0.0
    if not sequential:
        return float(betaincinv(count, total - count + 1, 1 - confidence))

    def fails(limit: float) -> bool:
        return bool(log_e_values(count, total, limit=limit)[0] >= -math.log1p(-confidence))

    return _bisect(fails, outside=0.0, inside=count / total)


def _bisect(decides: Callable[[float], bool], *, outside: float, inside: float) -> float:
    """The limit nearest to `inside`, the ratio seen, that decides; `outside` if none does."""
    for _ in range(NUM_HALVINGS):
        middle = (outside + inside) / 2
        if not 0 < middle < 1:
            break
        if decides(middle):
            outside = middle
        else:
            inside = middle
    return outside
