"""PASS or FAIL class by class: is the worst class of a conditional model within a limit?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from memaudit.audit.statistics.gate import Decision, FloorCount, exact_decision, sequential_decision


@dataclass(frozen=True)
class WorstClass:
    """The verdict on all classes at once, and the classes that decide it."""

    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    """FAIL: some class is above the limit; PASS: every class is below it."""
    failing: tuple[int, ...]
    """Classes shown to be above the limit, with Holm's correction for the number of classes."""
    undecided: tuple[int, ...]
    """Classes not shown to be below the limit, the failing ones among them; those without a single
    image included."""
    worst: int | None
    """The class with the most evidence of a ratio above the limit, or None without images."""
    num_classes: int
    """K, the classes that had to be decided."""
    evidence_above: float
    """Evidence that the worst class is above the limit, ln E or −ln p. FAIL where it reaches
    `required_above`."""
    required_above: float
    """ln(K/α)."""
    evidence_below: float
    """Evidence that a class is below the limit, for the class with the least of it. PASS where it
    reaches `required_below`."""
    required_below: float
    """ln(1/α)."""


def judge_classes(
    copies: np.ndarray,
    class_index: np.ndarray,
    *,
    limit: float,
    confidence: float = 0.95,
    sequential: bool,
    floor: FloorCount | None = None,
) -> WorstClass:
    """`judge_worst_class` of the classes that images were generated for.

    Args:
        copies: whether each image is a copy, bool [M], M ≥ 1.
        class_index: the class of each image, int64 [M].
        limit, confidence, sequential, floor: as in `judge_worst_class`.
    """
    classes, position = np.unique(class_index, return_inverse=True)
    totals, hits = np.bincount(position), np.bincount(position[copies], minlength=len(classes))
    return judge_worst_class(
        dict(zip(classes.tolist(), zip(hits.tolist(), totals.tolist(), strict=True), strict=True)),
        limit=limit,
        confidence=confidence,
        sequential=sequential,
        floor=floor,
    )


def judge_worst_class(
    counts: Mapping[int, tuple[int, int]],
    *,
    limit: float,
    confidence: float = 0.95,
    sequential: bool,
    floor: FloorCount | None = None,
) -> WorstClass:
    """Judge every class by itself, at an error of α = 1 − confidence for all of them together.

    FAIL where a class has E ≥ K/α or p ≤ α/K, the first step of Holm's procedure: a model of which
    no class is above the limit fails with a chance of at most α. PASS where every class has
    evidence of 1/α below the limit: if any class is above it, that class alone passes with a chance
    of at most α (intersection and union, Berger, Technometrics 24 (1982) 295). Both hold at every
    look of a sequential gate, since each class has an e-process of its own: images of other classes
    leave it as it is.

    Args:
        counts: copies and images of every class that is to be decided, by class.
        limit: p₀, in (0, 1).
        confidence: 1 − α, in [0.5, 1).
        sequential: whether images were sampled until the verdict was certain, or their number was
            fixed before.
        floor: the same count of a control, of all classes together. With it, FAIL needs a ratio
            above what limit and floor explain, at a level of α/2.

    Raises:
        ValueError: an argument is out of its range, or there are no classes.

    Examples:
        >>> found = judge_worst_class({0: (0, 400), 1: (9, 400)}, limit=0.01, sequential=True)
        >>> found.verdict, found.failing, found.worst
        ('INCONCLUSIVE', (), 1)
        >>> judge_worst_class({0: (0, 400), 1: (40, 400)}, limit=0.01, sequential=True).verdict
        'FAIL'
    """
    if not counts:
        raise ValueError("there are no classes to judge")
    required_below = -math.log1p(-confidence)
    required_above = required_below if floor is None else math.log(2 / (1 - confidence))
    decisions: dict[int, Decision | None] = {}
    for c, (count, total) in counts.items():
        decide = sequential_decision if sequential else exact_decision
        decisions[c] = (
            decide(count, total, limit=limit, confidence=confidence, floor=floor) if total else None
        )
    above = {c: 0.0 if each is None else each.evidence_above for c, each in decisions.items()}
    below = {c: 0.0 if each is None else each.evidence_below for c, each in decisions.items()}
    order = sorted(above, key=lambda c: (-above[c], c))
    failing: list[int] = []
    for rank, c in enumerate(order):  # Holm: stop at the first that does not reach its level
        if above[c] < required_above + math.log(len(order) - rank):
            break
        failing.append(c)
    undecided = tuple(sorted(c for c in below if below[c] < required_below))
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"] = "INCONCLUSIVE"
    if failing:
        verdict = "FAIL"
    elif not undecided:
        verdict = "PASS"
    has_images = any(total for _, total in counts.values())
    return WorstClass(
        verdict=verdict,
        failing=tuple(sorted(failing)),
        undecided=undecided,
        worst=order[0] if has_images else None,
        num_classes=len(order),
        evidence_above=above[order[0]],
        required_above=required_above + math.log(len(order)),
        evidence_below=min(below.values()),
        required_below=required_below,
    )
