"""A p-value for each image, and how many images stand out at a false-discovery rate."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class ConformalP:
    """How extreme each image's score is among scores of images that are known to be ordinary."""

    p_value: np.ndarray
    """float64 [G]: (1 + #{reference scores ≤ the image's}) / (m + 1)."""
    num_references: int
    """m."""

    @cached_property
    def q_value(self) -> np.ndarray:
        """float64 [G]: the smallest false-discovery rate at which each image stands out."""
        return benjamini_hochberg(self.p_value)

    def is_consistent_with(self, scores: np.ndarray) -> bool:
        """Whether references exist that give images with these scores these p-values."""
        rank = self.p_value * (self.num_references + 1)
        in_order = rank[np.argsort(scores, kind="stable")]
        by_score = np.unique(scores, return_inverse=True)[1]
        largest, smallest = np.zeros(by_score.max() + 1), np.full(by_score.max() + 1, np.inf)
        np.maximum.at(largest, by_score, rank)
        np.minimum.at(smallest, by_score, rank)
        return bool(
            np.isclose(rank, rank.round(), rtol=0, atol=1e-6).all()
            and (rank >= 0.5).all()
            and (rank <= self.num_references + 1.5).all()
            and (np.diff(in_order) >= 0).all()
            and (largest == smallest).all()
        )


def conformal_p(scores: np.ndarray, references: np.ndarray) -> ConformalP:
    """The p-values of scores among reference scores, where small scores are extreme.

    p = (1 + #{references ≤ score}) / (m + 1). If the score and the references are exchangeable, P(p
    ≤ α) ≤ α. Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005.

    Args:
        scores: [G].
        references: [m].

    Examples:
        >>> conformal_p(np.array([0.1, 0.5, 0.9]), np.array([0.5, 0.6, 0.7])).p_value.tolist()
        [0.25, 0.5, 1.0]
    """
    at_most = np.searchsorted(np.sort(references), scores, side="right")
    return ConformalP((1 + at_most) / (len(references) + 1), len(references))


def benjamini_hochberg(p_value: np.ndarray) -> np.ndarray:
    """q-values: images with q ≤ α are those that stand out at a false-discovery rate of α.

    q of the i-th smallest of G p-values is the minimum of p·G/j over the j-th smallest, j ≥ i.
    Benjamini and Hochberg, J. R. Stat. Soc. B 57 (1995) 289. Conformal p-values that share their
    references depend on each other in a way that keeps the rate (Bates et al., Ann. Stat. 51 (2023)
    149).

    Args:
        p_value: [G].

    Returns:
        float64 [G], in (0, 1].

    Examples:
        >>> benjamini_hochberg(np.array([0.01, 0.5, 0.03, 0.02])).tolist()
        [0.04, 0.5, 0.04, 0.04]
    """
    order = np.argsort(p_value, kind="stable")
    scaled = p_value[order] * len(p_value) / np.arange(1, len(p_value) + 1)
    q_value = np.empty(len(p_value))
    q_value[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return q_value
