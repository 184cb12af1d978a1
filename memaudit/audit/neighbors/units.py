"""What a squared distance means: gray levels between pixels, or units of an encoder's features.

A distance in gray levels is the root mean square difference of two images' pixel values: 0 for
equal images, 255 for black against white, whatever the size of the images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Space:
    """How a squared distance is to be read."""

    name: str
    """`pixels` or `features`."""
    exact: bool
    """Whether squared distances are integers that do not depend on the machine or backend."""
    num_values: int
    """What a squared distance is divided by before the root: D for pixels, 1 for features."""
    unit: str
    """The unit of `distance`."""

    def distance(self, squared_distance: float) -> float:
        """sqrt(S / num_values): between pixels, the distance in RMS gray levels."""
        return math.sqrt(squared_distance / self.num_values)


def pixel_space(image_shape: Sequence[int]) -> Space:
    """The space of images [C, H, W], with D = C·H·W."""
    return Space("pixels", True, math.prod(image_shape), "RMS gray levels")


def feature_space(metric: str) -> Space:
    """The space of an encoder's vectors: `l2` distances, or `cosine` ones, sqrt(2 − 2·cos)."""
    return Space("features", False, 1, f"{metric} distance of features")


def rms_gray_levels(squared_distance: int, image_shape: Sequence[int]) -> float:
    """sqrt(S/D), for images [C, H, W] with D = C·H·W pixel values.

    Examples:
        >>> rms_gray_levels(255**2 * 48, (3, 4, 4))
        255.0
    """
    return pixel_space(image_shape).distance(squared_distance)


def largest_squared_distance(rms: float | Fraction, image_shape: Sequence[int]) -> int:
    """The largest S within `rms` gray levels, floor(rms²·D), exact.

    Raises:
        ValueError: rms is negative or not finite.

    Examples:
        >>> largest_squared_distance(8, (3, 4, 4))
        3072
    """
    if not 0 <= rms < math.inf:
        raise ValueError(f"duplicate_rms must be ≥ 0 and finite, got {rms}")
    D = math.prod(image_shape)
    return min(math.floor(Fraction(rms) ** 2 * D), 255**2 * D)
