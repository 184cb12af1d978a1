"""PASS or FAIL: is a model's memorization ratio below a limit p₀, or above it?

Each side is tested at level α = 1 − confidence. If images are sampled one by one, the evidence is
that of two e-processes, which may be inspected after every image (Ville's inequality). If a fixed
set of images is given, it is that of two exact binomial tests. docs/statistics.md has the
derivation.

The same count is taken of a control, images that cannot be copies. A ratio that the limit and this
floor explain together never fails: with c of m control images counted, FAIL needs a ratio above
p₀ + (1 − p₀)·u, u = Beta(1 − α/2; c+1, m−c), shown at level α/2. PASS is about p₀ alone, so that no
control can buy one.

Where further rules count as well, their higher floor must not excuse what whole images show. Then
both counts are tested for FAIL, of all copies and of whole images alone, each with its own floor
and half of α; one of the two is enough. PASS is by the count of all copies.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import betaincinv, betaln

from memaudit.audit.statistics.intervals import Proportion, check_confidence, check_proportion
from memaudit.audit.statistics.log_beta import log_betainc, log_betaincc

Control = Literal["held-out images", "leave-one-out"]
"""Images that cannot be copies: held-out ones, or each training image among the others."""


@dataclass(frozen=True)
class FloorCount:
    """How many images of a control are counted as copies by mistake."""

    control: Control
    count: int
    total: int
    """0 if the control is empty; then nothing is known of the floor, and nothing fails."""

    def upper(self, confidence: float) -> float:
        """The upper end of a one-sided interval for the floor, in (0, 1].

        Examples:
            >>> round(FloorCount("held-out images", 0, 4_000).upper(0.975), 5)
            0.00092
        """
        if self.count >= self.total:
            return 1.0
        return float(betaincinv(self.count + 1, self.total - self.count, confidence))


@dataclass(frozen=True)
class WholeImages:
    """The copies by whole images alone, where further rules count as well."""

    count: int
    """0 … `count` of all copies."""
    floor: FloorCount
    """The same count among images that cannot be copies."""


@dataclass(frozen=True)
class WholeImageTest:
    """The test for FAIL of the copies by whole images alone, where further rules count as well."""

    count: int
    fail_limit: float
    """What the limit and this count's floor explain together, in [p₀, 1]."""
    floor: FloorCount
    evidence_above: float
    """As of all copies; FAIL if it reaches the same `required_above`."""


@dataclass(frozen=True)
class Decision:
    """A verdict on `count` copies among `total` images against a limit."""

    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    """FAIL: the ratio is above what limit and floor explain; PASS: it is below the limit;
    INCONCLUSIVE: neither is certain."""
    is_explained: bool
    """Whether the ratio is certainly above the limit, and the share counted is not above what the
    floor adds to it; if it is, more images may show a FAIL, and nothing is explained."""
    method: Literal["sequential", "exact"]
    """`sequential` is valid after every image while sampling, `exact` for a number of images that
    was fixed in advance."""
    count: int
    total: int
    limit: float
    """p₀, in (0, 1)."""
    fail_limit: float
    """What limit and floor explain together, in [p₀, 1]."""
    floor: FloorCount | None
    """The same count among images that cannot be copies; None where none was taken, and
    `fail_limit` is p₀."""
    confidence: float
    """1 − α: the chance that a model below the limit fails is at most α, and so is the chance that
    one above it passes."""
    evidence_above: float
    """Evidence of a ratio above `fail_limit`: ln E (sequential) or −ln p (exact). FAIL if it
    reaches `required_above`."""
    evidence_below: float
    """Evidence of a ratio below the limit, in the same unit. PASS if it reaches `required`."""
    required_above: float
    """ln(2/α), or ln(1/α) without a floor; ln(4/α) where whole images are tested as well."""
    required: float
    """ln(1/α)."""
    whole_images: WholeImageTest | None = None
    """The second test for FAIL, where further rules count; None where whole images alone do."""

    @property
    def may_fail_by(self) -> tuple[int, float]:
        """Count and limit of the test for FAIL that more images may pass: that of all copies, or
        that of whole images where they alone are more than limit and floor explain."""
        test = self.whole_images
        if test is None or self.count > self.fail_limit * self.total:
            return self.count, self.fail_limit
        if test.count > test.fail_limit * self.total:
            return test.count, test.fail_limit
        return self.count, self.fail_limit

    @property
    def fails_by_whole_images(self) -> bool:
        """Whether whole images alone show the FAIL, and all copies together do not."""
        is_shown = self.evidence_above >= self.required_above
        return self.verdict == "FAIL" and not is_shown


def sequential_decision(
    count: int,
    total: int,
    *,
    limit: float,
    confidence: float = 0.95,
    floor: FloorCount | None = None,
    whole_images: WholeImages | None = None,
) -> Decision:
    """The verdict so far, after `total` images in the order of sampling.

    Asking after every image and stopping at the first verdict is valid: the chance of ever reaching
    a wrong one is at most α. At most one side has evidence above 0 (ln E > 0), so there is never
    more than one verdict.

    Args:
        count: k, memorized images, 0 … total.
        total: n, images sampled, ≥ 0.
        limit: p₀, in (0, 1).
        confidence: 1 − α, in [0.5, 1).
        floor: the same count of a control that was fixed before sampling.
        whole_images: copies by whole images alone, where others count as well.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> for count, total in [(0, 3_000), (0, 4_000), (9, 4_000)]:
        ...     print(sequential_decision(count, total, limit=0.001).verdict)
        INCONCLUSIVE
        PASS
        INCONCLUSIVE
        >>> sequential_decision(5, 20, limit=0.001).verdict
        'FAIL'
        >>> flat = FloorCount("held-out images", 40, 100)
        >>> sequential_decision(5, 20, limit=0.001, floor=flat).verdict
        'INCONCLUSIVE'
    """
    _check_test(limit, confidence)
    if total:
        check_proportion(count, total, confidence)

    def above(k: int, p: float) -> float:
        return float(log_e_values(k, total, limit=p)[0])

    below = float(log_e_values(count, total, limit=limit)[1])
    return _decide("sequential", count, total, limit, confidence, floor, whole_images, above, below)


def log_e_values(
    count: np.ndarray | int, total: np.ndarray | int, *, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """ln E_fail and ln E_pass: evidence that the ratio is above the limit, and that it is below.

    E_fail = ∫_{p>p₀} p^k (1−p)^(n−k) g dp / (p₀^k (1−p₀)^(n−k) ∫_{p>p₀} g dp), E_pass the same over
    p < p₀, with g the density of Beta(½, ½). E_fail is a supermartingale that starts at 1 if the
    true ratio is at most p₀, and so is E_pass if it is at least p₀.

    Args:
        count: k, one integer or integers [M], 0 … total.
        total: n, of the same shape.
        limit: p₀, in (0, 1).

    Returns:
        Two float64 arrays of the same shape; their error is below 1e-6 for n up to 1e7.
    """
    k, misses = np.asarray(count), np.asarray(total) - np.asarray(count)
    a, b = k + 0.5, misses + 0.5
    mixture = betaln(a, b) - betaln(0.5, 0.5)
    at_limit = k * math.log(limit) + misses * math.log1p(-limit)
    above = log_betaincc(a, b, limit) - log_betaincc(0.5, 0.5, limit)
    below = log_betainc(a, b, limit) - log_betainc(0.5, 0.5, limit)
    return mixture + above - at_limit, mixture + below - at_limit


def exact_decision(
    count: int,
    total: int,
    *,
    limit: float,
    confidence: float = 0.95,
    floor: FloorCount | None = None,
    whole_images: WholeImages | None = None,
) -> Decision:
    """The verdict on a set of images whose number was fixed before they were judged.

    FAIL if P(X ≥ k) ≤ α and PASS if P(X ≤ k) ≤ α, with X binomial at the limit (the tests of
    Clopper and Pearson). The two probabilities add up to more than 1, so they cannot both be ≤ α ≤
    ½.

    Args:
        count: k, memorized images, 0 … total.
        total: n, all images, ≥ 1.
        limit: p₀, in (0, 1).
        confidence: 1 − α, in [0.5, 1).
        floor: the same count of a control.
        whole_images: copies by whole images alone, where others count as well.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> [exact_decision(0, total, limit=0.001).verdict for total in (2_994, 2_995)]
        ['INCONCLUSIVE', 'PASS']
        >>> exact_decision(9, 2_995, limit=0.001).verdict
        'FAIL'
    """
    _check_test(limit, confidence)
    check_proportion(count, total, confidence)

    # The binomial tails are incomplete beta functions: P(X ≥ k) = I_p₀(k, n−k+1).
    def above(k: int, p: float) -> float:
        return -float(log_betainc(k, total - k + 1, p)) if k else 0.0

    below = -float(log_betaincc(count + 1, total - count, limit)) if count < total else 0.0
    return _decide("exact", count, total, limit, confidence, floor, whole_images, above, below)


def fixed_sample_size(limit: float, confidence: float = 0.95) -> int:
    """The number of images, none of them memorized, that an exact test needs to PASS: (1−p₀)ⁿ ≤ α.

    Examples:
        >>> fixed_sample_size(0.001)
        2995
    """
    _check_test(limit, confidence)
    return math.ceil(-_required(confidence) / math.log1p(-limit))


def mixture_interval(count: int, total: int, confidence: float = 0.95) -> Proportion:
    """An interval that stays valid however often it is inspected while images are sampled.

    {p: Mₙ(p) < 1/α}, Mₙ(p) = B(½+k, ½+n−k) / (B(½, ½) p^k (1−p)^(n−k)). At the true p, Mₙ is a
    martingale that starts at 1, so with probability 1 − α it never reaches 1/α (Robbins, Ann. Math.
    Stat. 41 (1970) 1397). The interval is wider than that of `clopper_pearson`, which is valid only
    for a number of images fixed in advance.

    Args:
        count: k, memorized images, 0 … total.
        total: n, images sampled so far, ≥ 1.
        confidence: 1 − α, in (0, 1).

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> found = mixture_interval(0, 3_787)
        >>> print(f"at most {found.high:.2%}")
        at most 0.20%
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
    from scipy.optimize import brentq  # slow to import, and only sequential gates need it

    excess = float(betaln(k + 0.5, n - k + 0.5) - betaln(0.5, 0.5)) - _required(confidence)

    def log_excess(p: float) -> float:
        misses = (n - k) * math.log1p(-p) if k < n else 0.0
        return excess - k * math.log(p) - misses

    # Mₙ is at most 1 at k/n; at the lower end, the term of k alone makes it e/α or more.
    return float(brentq(log_excess, math.exp((excess - 1) / k), k / n, xtol=1e-300))


def _decide(
    method: Literal["sequential", "exact"],
    count: int,
    total: int,
    limit: float,
    confidence: float,
    floor: FloorCount | None,
    whole_images: WholeImages | None,
    above: Callable[[int, float], float],
    below: float,
) -> Decision:
    """Decide by the evidence that k copies show more than any p, `above(k, p)`, and by that of a
    ratio below the limit."""
    required = required_above = _required(confidence)
    fail_limit = limit
    alpha = 1 - confidence
    if whole_images is not None:
        assert floor is not None and 0 <= whole_images.count <= count
        alpha /= 2  # two tests, one of which is enough for a FAIL
    if floor is not None:
        required_above = math.log(2 / alpha)
        fail_limit = _beyond(limit, floor, alpha)
    evidence_above = above(count, fail_limit) if fail_limit < 1 else 0.0
    test = None
    if whole_images is not None:
        beyond = _beyond(limit, whole_images.floor, alpha)
        test = WholeImageTest(
            whole_images.count,
            beyond,
            whole_images.floor,
            above(whole_images.count, beyond) if beyond < 1 else 0.0,
        )
    most_above = evidence_above if test is None else max(evidence_above, test.evidence_above)
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"] = "INCONCLUSIVE"
    if most_above >= required_above:
        verdict = "FAIL"
    elif below >= required:
        verdict = "PASS"
    return Decision(
        verdict=verdict,
        is_explained=(
            verdict == "INCONCLUSIVE"
            and above(count, limit) >= required
            and count <= fail_limit * total
            and (test is None or test.count <= test.fail_limit * total)
        ),
        method=method,
        count=count,
        total=total,
        limit=limit,
        fail_limit=fail_limit,
        floor=floor,
        confidence=confidence,
        evidence_above=evidence_above,
        evidence_below=below,
        required_above=required_above,
        required=required,
        whole_images=test,
    )


def _beyond(limit: float, floor: FloorCount, alpha: float) -> float:
    """What limit and floor explain together: p₀ + (1 − p₀)·u, u at level α/2."""
    return limit + (1 - limit) * floor.upper(1 - alpha / 2)


def _required(confidence: float) -> float:
    """ln(1/α)."""
    return -math.log1p(-confidence)


def _check_test(limit: float, confidence: float) -> None:
    if not 0 < limit < 1:
        raise ValueError(f"limit must be between 0 and 1, got {limit}")
    check_confidence(confidence)
    if confidence < 0.5:
        raise ValueError(f"confidence must be at least 0.5 for a test, got {confidence}")
