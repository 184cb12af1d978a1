"""What distances are distances of: pixels, or features of an encoder."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Space:
    """How a squared distance is to be read."""

    name: str
    """`pixels` or `features`."""
    exact: bool
    """Whether squared distances are integers that do not depend on machine or backend."""
    num_values: int
    """What a squared distance is divided by before the root: D for pixels, 1 for features."""
    unit: str
    """Of `distance`."""

    def distance(self, squared_distance: float) -> float:
        """In pixels RMS gray levels: 0 where images are equal, 255 for black against white."""
        return math.sqrt(squared_distance / self.num_values)


def pixel_space(image_shape: tuple[int, int, int]) -> Space:
    """Of images [C, H, W]."""
    return Space("pixels", True, math.prod(image_shape), "RMS gray levels")


def feature_space(metric: str) -> Space:
    """Of an encoder's vectors: `l2` distances, or `cosine` ones, sqrt(2 − 2·cos)."""
    return Space("features", False, 1, f"{metric} distance of features")
