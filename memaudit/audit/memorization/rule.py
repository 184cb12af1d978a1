"""Is a generated image memorized? The published rule, decided in integers where they are.

With S1, S2 the squared ℓ2 distances of a generated image to its nearest and second-nearest
training image, it is memorized iff d1/d2 = sqrt(S1/S2) < threshold: Yoon et al. 2023, as used by
Gu et al., arXiv:2310.02664, with threshold 1/3.
"""

from fractions import Fraction

import numpy as np


def memorized(
    squared_distance1: np.ndarray, squared_distance2: np.ndarray, threshold: Fraction
) -> np.ndarray:
    """Whether S1 < t²·S2, for the threshold t = p/q: strict, without a division.

    Between pixels S1 and S2 are integers and q²·S1 < p²·S2 is decided exactly; between features
    they are floats, and float64 decides.

    Where both distances are 0, the image copies a duplicated training image and the rule is blind
    to it: not memorized, as published.

    Args:
        squared_distance1: S1, int64 or float64 [B], ≥ 0.
        squared_distance2: S2, likewise.
        threshold: limit on the distance ratio (not squared), in (0, 1].

    Returns:
        bool [B].
    """
    if not isinstance(threshold, Fraction) or not 0 < threshold <= 1:
        raise ValueError(f"threshold must be a Fraction in (0, 1], got {threshold!r}")
    S1, S2 = np.asarray(squared_distance1), np.asarray(squared_distance2)
    kinds = {S1.dtype.kind, S2.dtype.kind}
    if not (kinds <= {"i", "u"} or kinds == {"f"}) or not ((S1 >= 0).all() and (S2 >= 0).all()):
        raise ValueError("squared distances must be ≥ 0, both integers or both floats; -1 is none")
    if kinds == {"f"}:
        return S1 < float(threshold**2) * S2
    # Python's integers: int64 would overflow for a threshold such as Fraction(0.1).
    p, q = threshold.as_integer_ratio()
    return (q**2 * S1.astype(object) < p**2 * S2.astype(object)).astype(bool)
