"""Distances in gray levels: the root mean square difference of two images' pixel values.

0 where images are equal, 255 for black against white, whatever the images' size.
"""

import math
from collections.abc import Sequence
from fractions import Fraction


def rms_gray_levels(squared_distance: int, image_shape: Sequence[int]) -> float:
    """sqrt(S/D), of images with D = C·H·W pixel values."""
    return math.sqrt(squared_distance / math.prod(image_shape))


def largest_squared_distance(rms: float | Fraction, image_shape: Sequence[int]) -> int:
    """The largest S within `rms` gray levels, floor(rms²·D), exact.

    Raises:
        ValueError: rms is negative or not finite.
    """
    if not 0 <= rms < math.inf:
        raise ValueError(f"duplicate_rms must be ≥ 0 and finite, got {rms}")
    D = math.prod(image_shape)
    return min(math.floor(Fraction(rms) ** 2 * D), 255**2 * D)
