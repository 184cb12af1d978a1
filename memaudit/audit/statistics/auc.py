"""The AUC with its interval, and the exact test of a true-positive rate under exchangeability."""

import math

import numpy as np
from scipy.special import betaln, gammaln, logsumexp, ndtri

from memaudit.audit.statistics.intervals import Estimate, check_confidence
from memaudit.audit.statistics.mann_whitney import average_ranks


def delong(a: np.ndarray, b: np.ndarray, confidence: float = 0.95) -> Estimate:
    """The chance that a number of `a` exceeds one of `b` (ties ½), with DeLong's interval.

    The variance is var(V_a)/m + var(V_b)/n, where V_a is the share of `b` below each number of `a`,
    and V_b the share of `a` above each number of `b`. DeLong, DeLong and Clarke-Pearson, Biometrics
    44 (1988) 837. The interval is symmetric in the logarithm of the odds, and so stays in [0, 1].

    Args:
        a: numbers [m], m ≥ 2.
        b: numbers [n], n ≥ 2.
        confidence: in (0, 1).

    Raises:
        ValueError: a sample has fewer than 2 numbers, or the confidence is out of its range.

    Examples:
        >>> print(delong(np.array([3, 5, 7, 9]), np.array([1, 2, 4, 6])).value)
        0.8125
    """
    return auc_interval(*placements(a, b), confidence)


def placements(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of `b` below each number of `a`, and the share of `a` above each number of `b`.

    Args:
        a: numbers [m], m ≥ 1.
        b: numbers [n], n ≥ 1.

    Returns:
        float64 [m] and [n], ties counting ½. The mean of each is the AUC.
    """
    m, n = len(a), len(b)
    ranks = average_ranks(np.concatenate([a, b]))
    below = (ranks[:m] - average_ranks(a)) / n
    above = 1 - (ranks[m:] - average_ranks(b)) / m
    return below, above


def auc_interval(
    below: np.ndarray, above: np.ndarray, confidence: float = 0.95, *, inflation: float = 1.0
) -> Estimate:
    """The interval of an AUC from its placements.

    Without a single pair out of order, or in order, DeLong's variance is 0. There the largest
    variance that an AUC θ can have takes its place, θ(1 − θ)/min(m, n) (van Dantzig, 1951), in
    Wilson's form.

    Args:
        below: placements of the first sample, float64 [m], m ≥ 2.
        above: placements of the second sample, float64 [n], n ≥ 2.
        confidence: in (0, 1).
        inflation: factor of the variance, above 1 if the scores depend on each other.

    Raises:
        ValueError: a sample has fewer than 2 numbers, or the confidence is out of its range.
    """
    check_confidence(confidence)
    if min(len(below), len(above)) < 2:
        raise ValueError(
            f"an interval needs 2 numbers in each sample, got {len(below)} and {len(above)}"
        )
    auc = float(below.mean())
    z = -float(ndtri((1 - confidence) / 2))
    variance = inflation * float(below.var(ddof=1) / len(below) + above.var(ddof=1) / len(above))
    if not 0 < auc < 1:
        end = 1 / (1 + inflation * z**2 / min(len(below), len(above)))
        return Estimate(auc, end, 1.0) if auc else Estimate(auc, 0.0, 1 - end)
    odds, spread = math.log(auc / (1 - auc)), z * math.sqrt(variance) / (auc * (1 - auc))
    return Estimate(auc, _expit(odds - spread), _expit(odds + spread))


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def exceedance_p_value(count: int, total: int, *, allowed: int, controls: int) -> float:
    """P(K ≥ k): how likely at least as many numbers exceed a threshold set on controls.

    The threshold is the (F+1)-th largest of n controls. If all m + n numbers are exchangeable, the
    number of the other m above it is K ~ BetaBinomial(m; F + 1, n − F). Ties make K smaller.

    Args:
        count: k, numbers above the threshold, 0 … total.
        total: m, numbers compared with it, ≥ 1.
        allowed: F, controls that may lie above it, 0 … controls − 1.
        controls: n, ≥ 1.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> exceedance_p_value(1, 1, allowed=0, controls=1)
        0.5
    """
    if total < 1 or not 0 <= count <= total or not 0 <= allowed < controls:
        raise ValueError(
            "0 ≤ count ≤ total, total ≥ 1 and 0 ≤ allowed < controls are needed, got "
            f"{count} of {total} and {allowed} of {controls}"
        )
    if count == 0:
        return 1.0
    k = np.arange(count, total + 1)
    log_choices = gammaln(total + 1) - gammaln(k + 1) - gammaln(total - k + 1)
    a, b = allowed + 1, controls - allowed
    return min(1.0, math.exp(logsumexp(log_choices + betaln(k + a, total - k + b) - betaln(a, b))))
