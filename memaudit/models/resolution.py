"""Height and width of a model's images. Imports no torch."""

from collections.abc import Sequence

Resolution = int | tuple[int, int]
"""Height and width: one number where they are the same, else the pair (height, width).

A configuration in JSON holds the pair as a list.
"""


def height_and_width(resolution: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a resolution.

    Examples:
        >>> height_and_width(32), height_and_width((32, 48))
        ((32, 32), (32, 48))
    """
    if isinstance(resolution, int):
        return resolution, resolution
    height, width = resolution
    return height, width


def as_resolution(sides: int | Sequence[int]) -> Resolution:
    """The shortest form of a height and a width.

    Examples:
        >>> as_resolution([32, 32]), as_resolution([32, 48])
        (32, (32, 48))
    """
    height, width = height_and_width(sides)
    return height if height == width else (height, width)
