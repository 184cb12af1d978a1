"""PASS or FAIL: is a model's memorization ratio below a limit p₀, or above it?

Each side is tested at level α = 1 − confidence. Where images are sampled one after another, the
evidence is that of two e-processes, which may be looked at after every image (Ville's inequality);
where a fixed set of images is given, it is that of two exact binomial tests. docs/statistics.md has
the derivation.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaln

from memaudit.audit.statistics.intervals import Proportion, check_proportion
from memaudit.audit.statistics.log_beta import log_betainc, log_betaincc


@dataclass(frozen=True)
class Decision:
    """A verdict on `count` memorized images of `total` against a limit."""

    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    """FAIL: the ratio is above the limit; PASS: below; INCONCLUSIVE: not decided by so many."""
    method: Literal["sequential", "exact"]
    """Valid at every look while images are sampled, or for a number of images fixed before."""
    count: int
    total: int
    limit: float
    """p₀, in (0, 1)."""
    confidence: float
    """1 − α: a model below the limit fails, and one above it passes, with a chance of at most α."""
    evidence_above: float
    """For a ratio above the limit: ln E (sequential) or −ln p (exact). FAIL from `required` on."""
    evidence_below: float
    """For a ratio below the limit, likewise. PASS from `required` on."""
    required: float
    """ln(1/α)."""


def sequential_decision(
    count: int, total: int, *, limit: float, confidence: float = 0.95
) -> Decision:
    """The verdict so far, after `total` images in the order of sampling.

    It may be asked after every image and sampling stopped at the first verdict: the chance of ever
    reaching a wrong one is at most α. At most one side has evidence above 0 (ln E > 0), so there is
    never more than one verdict.

    Args:
        count: k, memorized images, 0 … total.
        total: n, images sampled, ≥ 0.
        limit: p₀, in (0, 1).
        confidence: 1 − α, in [0.5, 1).
    """
    _check_test(limit, confidence)
    if total:
        check_proportion(count, total, confidence)
    above, below = log_e_values(count, total, limit=limit)
    return _decide("sequential", count, total, limit, confidence, float(above), float(below))


def log_e_values(
    count: np.ndarray | int, total: np.ndarray | int, *, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Evidence that the ratio is above the limit, and that it is below: ln E_fail, ln E_pass.

    E_fail = ∫_{p>p₀} p^k (1−p)^(n−k) g dp / (p₀^k (1−p₀)^(n−k) ∫_{p>p₀} g dp), E_pass the same over
    p < p₀, with g the density of Beta(½, ½). E_fail is a supermartingale that starts at 1 wherever
    the ratio is at most p₀, E_pass where it is at least p₀.

    Args:
        count: k, integers [M] or one, 0 … total.
        total: n, of the same shape.
        limit: p₀, in (0, 1).

    Returns:
        float64 of the same shape each; their error is below 1e-6 for n up to 1e7.
    """
    k, misses = np.asarray(count), np.asarray(total) - np.asarray(count)
    a, b = k + 0.5, misses + 0.5
    mixture = betaln(a, b) - betaln(0.5, 0.5)
    at_limit = k * math.log(limit) + misses * math.log1p(-limit)
    above = log_betaincc(a, b, limit) - log_betaincc(0.5, 0.5, limit)
    below = log_betainc(a, b, limit) - log_betainc(0.5, 0.5, limit)
    return mixture + above - at_limit, mixture + below - at_limit


def exact_decision(count: int, total: int, *, limit: float, confidence: float = 0.95) -> Decision:
    """The verdict on a set of images whose number was fixed before they were judged.

    FAIL where P(X ≥ k) ≤ α and PASS where P(X ≤ k) ≤ α, X binomial at the limit: Clopper and
    Pearson's tests. The two probabilities add up to more than 1, so that not both can be ≤ α ≤ ½.

    Args:
        count: k, memorized images, 0 … total.
        total: n, ≥ 1.
        limit: p₀, in (0, 1).
        confidence: 1 − α, in [0.5, 1).
    """
    _check_test(limit, confidence)
    check_proportion(count, total, confidence)
    # The binomial tails are incomplete beta functions: P(X ≥ k) = I_p₀(k, n−k+1).
    above = -log_betainc(count, total - count + 1, limit) if count else 0.0
    below = -log_betaincc(count + 1, total - count, limit) if count < total else 0.0
    return _decide("exact", count, total, limit, confidence, float(above), float(below))


def fixed_sample_size(limit: float, confidence: float = 0.95) -> int:
    """How many images, none of them memorized, an exact test needs for PASS: (1−p₀)ⁿ ≤ α."""
    _check_test(limit, confidence)
    return math.ceil(-_required(confidence) / math.log1p(-limit))


def mixture_interval(count: int, total: int, confidence: float = 0.95) -> Proportion:
    """An interval that holds the true ratio at every look while images are sampled.

    {p: Mₙ(p) < 1/α}, Mₙ(p) = B(½+k, ½+n−k) / (B(½, ½) p^k (1−p)^(n−k)): at the true p a martingale
    that starts at 1, and so never reaches 1/α with probability 1 − α (Robbins, Ann. Math. Stat. 41
    (1970) 1397). It is wider than `clopper_pearson`, which holds for a fixed number of images only.

    Args:
        count: k, memorized images, 0 … total.
        total: n, images sampled so far, ≥ 1.
        confidence: 1 − α, in (0, 1).
    """
    check_proportion(count, total, confidence)
    low = _lower_end(count, total, confidence)
    return Proportion(
        count, total, low, 1 - _lower_end(total - count, total, confidence), confidence
    )


def _lower_end(k: int, n: int, confidence: float) -> float:
    """The p below k/n with Mₙ(p) = 1/α; 0 for k = 0."""
    if k == 0:
        return 0.0
    excess = float(betaln(k + 0.5, n - k + 0.5) - betaln(0.5, 0.5)) - _required(confidence)

    def log_excess(p: float) -> float:
        misses = (n - k) * math.log1p(-p) if k < n else 0.0
        return excess - k * math.log(p) - misses

    # Mₙ is at most 1 at k/n; at the lower end the term of k alone makes it e/α or more.
    return float(brentq(log_excess, math.exp((excess - 1) / k), k / n, xtol=1e-300))


def _decide(
    method: Literal["sequential", "exact"],
    count: int,
    total: int,
    limit: float,
    confidence: float,
    above: float,
    below: float,
) -> Decision:
    required = _required(confidence)
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"] = "INCONCLUSIVE"
    if above >= required:
        verdict = "FAIL"
    elif below >= required:
        verdict = "PASS"
    return Decision(verdict, method, count, total, limit, confidence, above, below, required)


def _required(confidence: float) -> float:
    """ln(1/α)."""
    return -math.log1p(-confidence)


def _check_test(limit: float, confidence: float) -> None:
    if not 0 < limit < 1:
        raise ValueError(f"limit must be between 0 and 1, got {limit}")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence must be from 0.5 up to below 1, got {confidence}")
