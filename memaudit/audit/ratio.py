"""Is a generated image memorized? The published rule, decided in integers.

With S1, S2 the squared ℓ2 distances of a generated image to its nearest and second-nearest
training image, it is memorized iff d1/d2 = sqrt(S1/S2) < threshold: Yoon et al. 2023, as used by
Gu et al., arXiv:2310.02664, with threshold 1/3.
"""

from fractions import Fraction

import numpy as np


def memorized(
    squared_distance1: np.ndarray, squared_distance2: np.ndarray, threshold: Fraction
) -> np.ndarray:
    """Whether q²·S1 < p²·S2, for the threshold p/q: exact, strict, without a division.

    Where both distances are 0, the image copies a duplicated training image and the rule is blind
    to it: not memorized, as published.

    Args:
        squared_distance1: S1, int64 [B], ≥ 0.
        squared_distance2: S2, int64 [B], ≥ 0.
        threshold: limit on the distance ratio (not squared), in (0, 1].

    Returns:
        bool [B].
    """
    if not isinstance(threshold, Fraction) or not 0 < threshold <= 1:
        raise ValueError(f"threshold must be a Fraction in (0, 1], got {threshold!r}")
    S1, S2 = _as_integers(squared_distance1), _as_integers(squared_distance2)
    # Python's integers: int64 would overflow for a threshold such as Fraction(0.1).
    return (threshold.denominator**2 * S1 < threshold.numerator**2 * S2).astype(bool)


def _as_integers(squared_distance: np.ndarray) -> np.ndarray:
    array = np.asarray(squared_distance)
    if array.dtype.kind not in "iu" or (array < 0).any():
        raise ValueError("squared distances must be integers ≥ 0; -1 marks a missing neighbor")
    return array.astype(object)
