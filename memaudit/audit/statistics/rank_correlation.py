"""Spearman's rank correlation, with its exact chance estimated by permutation."""

from dataclasses import dataclass

import numpy as np

from memaudit.audit.statistics.mann_whitney import average_ranks

NUM_PERMUTATIONS = 999


@dataclass(frozen=True)
class RankCorrelation:
    """Whether large numbers of one list go with large numbers of another."""

    rho: float
    """Spearman's correlation of the ranks, between −1 and 1; ties share their average rank."""
    p_value: float
    """Chance of a correlation at least this high if the lists have nothing to do with each
    other."""


def rank_correlation(
    a: np.ndarray, b: np.ndarray, *, num_permutations: int = NUM_PERMUTATIONS, seed: int = 0
) -> RankCorrelation | None:
    """Correlate the ranks of two lists, and test whether the correlation is positive.

    p = (1 + #{ρ* ≥ ρ}) / (1 + n) over n random permutations of one of the lists.

    Args:
        a: numbers [K].
        b: numbers [K]; those that occur seldom are permuted, so a list of many zeros is fast.
        num_permutations: n.
        seed: of the permutations.

    Returns:
        None if all numbers of a list are equal.

    Examples:
        >>> found = rank_correlation(np.arange(20), np.arange(20) ** 2)
        >>> round(found.rho, 12), found.p_value
        (1.0, 0.001)
    """
    x, y = average_ranks(a), average_ranks(b)
    x -= x.mean()
    scale = np.sqrt(np.square(x).sum() * np.square(y - y.mean()).sum())
    if not scale:
        return None
    # The most frequent rank is the same wherever it lands: Σ x = 0, so only the others count.
    values, counts = np.unique(y, return_counts=True)
    y -= values[counts.argmax()]
    counted = np.flatnonzero(y)
    score = float(x[counted] @ y[counted])
    rng = np.random.default_rng(seed)
    least = score - 1e-9 * scale  # sums in another order round differently
    hits = sum(
        float(x[rng.choice(len(x), len(counted), replace=False)] @ y[counted]) >= least
        for _ in range(num_permutations)
    )
    return RankCorrelation(float(score / scale), float((1 + hits) / (1 + num_permutations)))
