"""Exact tests of two counts: do training images do something more often than held-out ones?"""

import math

from scipy.special import gammaln


def all_on_one_side_p_value(count: int, some: int, others: int) -> float:
    """The chance that at least the `count` largest of two pooled samples are all of the first one.

    p = C(n, K) / C(n + m, K), if all n + m numbers are exchangeable. Where the numbers tie, those
    of the first sample that lie strictly beyond every number of the second are to be counted: ties
    make them fewer.

    Args:
        count: K, members of the first sample beyond all of the second, 0 … some.
        some: n, size of the first sample, ≥ 1.
        others: m, size of the second sample, ≥ 1.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> round(all_on_one_side_p_value(5, 100, 100), 3)
        0.03
    """
    if some < 1 or others < 1 or not 0 <= count <= some:
        raise ValueError(
            f"0 ≤ count ≤ some and others ≥ 1 are needed, got {count} of {some} and {others}"
        )
    return min(1.0, math.exp(_log_choose(some, count) - _log_choose(some + others, count)))


def more_often_p_value(some: tuple[int, int], others: tuple[int, int]) -> float:
    """One-sided p-value of Fisher's exact test that the first sample has more hits.

    Given all hits, those of the first sample are hypergeometric.

    Args:
        some: hits and size of the first sample.
        others: hits and size of the second sample.

    Examples:
        >>> round(more_often_p_value((3, 3), (0, 3)), 3)
        0.05
    """
    from scipy.stats import hypergeom  # takes seconds to import, and few scans need it

    hits = some[0] + others[0]
    return float(hypergeom.sf(some[0] - 1, some[1] + others[1], hits, some[1]))


def _log_choose(n: int, k: int) -> float:
    return float(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))
