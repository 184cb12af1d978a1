"""Ranks of numbers, from which the Mann–Whitney statistic is made."""

import numpy as np


def average_ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each number, from 1; equal numbers share the average of their ranks.

    Args:
        values: numbers [M].

    Returns:
        float64 [M], exact.

    Examples:
        >>> average_ranks(np.array([5, 1, 5, 9])).tolist()
        [2.5, 1.0, 2.5, 4.0]
    """
    _, position, ties = np.unique(values, return_inverse=True, return_counts=True)
    rank: np.ndarray = np.cumsum(ties) - (ties - 1) / 2
    return rank[position]
