"""Which classes of a conditional model are copied from, among many classes looked at."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import fisher_exact

from memaudit.audit.statistics.gate import exact_decision
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson


@dataclass(frozen=True)
class ClassRatio:
    """The memorization ratio among the images generated for one class."""

    class_index: int
    proportion: Proportion
    """With an interval for this class alone."""
    p_value: float
    """Of this class alone: that it exceeds the limit, or differs from all others."""
    p_adjusted: float
    """The same with Holm's correction for the number of classes."""
    stands_out: bool
    """p_adjusted ≤ 1 − confidence."""


def per_class(
    memorized: np.ndarray,
    class_index: np.ndarray,
    *,
    confidence: float = 0.95,
    limit: float | None = None,
) -> tuple[ClassRatio, ...]:
    """The memorization ratio of every class that images were generated for.

    Against a limit each class is held to it by the exact one-sided binomial test; without one it is
    compared with all other classes by Fisher's exact test (two-sided). The chance that any of the
    classes stands out without reason is at most 1 − confidence (Holm, Scand. J. Stat. 6 (1979) 65).

    Args:
        memorized: bool [M], of the generated images.
        class_index: int64 [M], the class each was generated for.
        confidence: of the intervals and of the tests together, in [0.5, 1).
        limit: the gate's limit, in (0, 1), or None.

    Returns:
        In ascending order of the class.
    """
    if memorized.shape != class_index.shape or memorized.ndim != 1:
        raise ValueError(
            f"memorized {list(memorized.shape)} and class_index {list(class_index.shape)} must "
            "both be [M]"
        )
    classes, position = np.unique(class_index, return_inverse=True)
    totals = np.bincount(position, minlength=len(classes))
    counts = np.bincount(position[memorized], minlength=len(classes))
    all_copies, all_images = int(counts.sum()), int(totals.sum())

    p_values = []
    for count, total in zip(counts.tolist(), totals.tolist(), strict=True):
        if limit is not None:
            decision = exact_decision(count, total, limit=limit, confidence=confidence)
            p_values.append(math.exp(-decision.evidence_above))
        else:
            others = [all_copies - count, all_images - total - all_copies + count]
            p_values.append(float(fisher_exact([[count, total - count], others]).pvalue))
    adjusted = holm(p_values)
    return tuple(
        ClassRatio(
            class_index=int(classes[i]),
            proportion=clopper_pearson(int(counts[i]), int(totals[i]), confidence),
            p_value=p_values[i],
            p_adjusted=adjusted[i],
            stands_out=adjusted[i] <= 1 - confidence,
        )
        for i in range(len(classes))
    )


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjusted p-values: in ascending order, p₍ᵢ₎·(m − i + 1), never falling, at most 1."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = largest
    return adjusted
