"""Which classes of a conditional model are copied from, when many classes are tested at once."""

import math
from dataclasses import dataclass

import numpy as np

from memaudit.audit.statistics.gate import exact_decision
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson


@dataclass(frozen=True)
class ClassRatio:
    """The memorization ratio among the images generated for one class."""

    class_index: int
    proportion: Proportion
    """Copies among the images of this class, with an interval for this class alone."""
    p_value: float
    """For this class alone: of a ratio at most the limit, or the same as in all other classes."""
    p_adjusted: float
    """The p-value with Holm's correction for the number of classes."""
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

    With a limit, each class is tested against it by the exact one-sided binomial test. Without one,
    each class is compared with all others by Fisher's exact test (two-sided). The chance that any
    class stands out without reason is at most 1 − confidence (Holm, Scand. J. Stat. 6 (1979) 65).

    Args:
        memorized: bool [M], whether each generated image is a copy.
        class_index: int64 [M], the class that each image was generated for.
        confidence: confidence level of each interval, and of all tests together, in [0.5, 1).
        limit: the gate's limit, in (0, 1), or None.

    Returns:
        One per class, in ascending order of the class.

    Raises:
        ValueError: the shapes differ, or an argument is out of its range.
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
            others = (all_copies - count, all_images - total - all_copies + count)
            p_values.append(_fisher_p_value((count, total - count), others))
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


def _fisher_p_value(some: tuple[int, int], others: tuple[int, int]) -> float:
    """Two-sided p-value of Fisher's exact test; each pair is (copies, other images)."""
    from scipy.stats import fisher_exact  # takes seconds to import, and few scans need it

    return float(fisher_exact([some, others]).pvalue)


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjusted p-values: in ascending order, p₍ᵢ₎·(m − i + 1), never falling, at most 1.

    Examples:
        >>> holm([0.5, 0.125])
        [0.5, 0.25]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = largest
    return adjusted
