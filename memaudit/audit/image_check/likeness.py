"""Is an image of the kind of its controls? Looks at the images alone, never at the model.

A rank among controls presupposes that the image could be one of them. A flat drawing among
photographs is given back by any model that draws flat areas: it would stand out without having been
memorized.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from memaudit.audit.statistics.conformal import conformal_p

FEATURES = ("brightness", "contrast", "detail", "distance to the nearest control")
LEAST_CONTROLS = 19
"""Below this many, no p-value is at most 5 %."""


@dataclass(frozen=True)
class Likeness:
    """Whether an image looks like the controls, by what can be measured without the model."""

    p_value: float
    """Chance that an image of their kind is at least as far from the middle of all."""
    feature: str
    """What sets it apart most: brightness, contrast, detail (bytes when compressed as a PNG is), or
    distance to the nearest control."""
    is_alike: bool
    """Whether the p-value is above 5 %; so 1 image in 20 of their kind is said to be of another."""


def compare_with_controls(
    images: np.ndarray, distance_to_other: np.ndarray, num_asked: int
) -> tuple[Likeness, ...]:
    """Measure how far each image asked about is from the middle of the controls.

    The score of an image is the largest of |v − median| / MAD over four numbers v of it, and p is
    its rank among the controls' scores. Median and MAD are those of the image and the controls.

    Args:
        images: uint8 [P, C, H, W], those asked about first.
        distance_to_other: float64 [P]: as in `Pool`.
        num_asked: Q.

    Returns:
        One for each image asked about.
    """
    values = np.column_stack([[_measured(image) for image in images], distance_to_other])
    found = []
    for q in range(num_asked):
        together = np.concatenate([values[q : q + 1], values[num_asked:]])
        apart = np.abs(together - np.median(together, axis=0))
        spread = np.median(apart, axis=0)
        scaled = np.divide(apart, spread, out=np.where(apart > 0, np.inf, 0.0), where=spread > 0)
        score = scaled.max(1)
        p = float(conformal_p(-score[:1], -score[1:]).p_value[0])
        found.append(Likeness(p, FEATURES[int(scaled[0].argmax())], p > 0.05))
    return tuple(found)


def _measured(image: np.ndarray) -> tuple[float, float, float]:
    """Brightness, contrast, and bytes of an image uint8 [C, H, W] when compressed."""
    differences = np.diff(image, axis=2, prepend=image[:, :, :1] * 0)  # modulo 256, as in a PNG
    return float(image.mean()), float(image.std()), len(zlib.compress(differences.tobytes(), 1))
