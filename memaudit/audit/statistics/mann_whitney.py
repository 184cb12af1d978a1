"""Mann and Whitney's U: how often do the numbers of one sample exceed those of another?"""

import math

import numpy as np


def mann_whitney_u(a: np.ndarray, b: np.ndarray) -> float:
    """Number of pairs in which the number of `a` is larger; pairs that tie count ½.

    Args:
        a: numbers [m], m ≥ 1.
        b: numbers [n], n ≥ 1.

    Returns:
        U in [0, m·n]. U / (m·n) is the AUC.
    """
    m = len(a)
    return float(average_ranks(np.concatenate([a, b]))[:m].sum() - m * (m + 1) / 2)


def mann_whitney_z(a: np.ndarray, b: np.ndarray) -> float:
    """U less its mean, in standard deviations, where both samples are of one distribution.

    Args:
        a: numbers [m], m ≥ 1.
        b: numbers [n], n ≥ 1.

    Returns:
        0 where all numbers are equal.
    """
    m, n = len(a), len(b)
    ties = np.unique(np.concatenate([a, b]), return_counts=True)[1].astype(np.float64)
    variance = m * n / 12 * (m + n + 1 - (ties**3 - ties).sum() / ((m + n) * (m + n - 1)))
    return (mann_whitney_u(a, b) - m * n / 2) / math.sqrt(variance) if variance > 0 else 0.0


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
