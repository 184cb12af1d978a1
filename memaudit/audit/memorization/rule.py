"""Is a generated image memorized? The published rule, decided in integers wherever possible.

With S1, S2 the squared ℓ2 distances of a generated image to its nearest and second-nearest
training image, it is memorized iff d1/d2 = sqrt(S1/S2) < threshold: Yoon et al. 2023, as used by
Gu et al., arXiv:2310.02664, with threshold 1/3.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

import numpy as np

from memaudit.errors import ConfigError
from memaudit.options import Option, check_options

MOST_CONFIDENCE = 1 - 1e-9
"""Highest confidence: beyond it, the chance of an error is lost in rounding."""


@dataclass(frozen=True)
class Rule:
    """What counts as a copy, and how certain a statement about copies has to be.

    Raises:
        ConfigError: a value is out of its range.
        ValueError: threshold is not a Fraction.
    """

    threshold: Annotated[
        Fraction,
        Option(
            "An image is memorized if d1/d2 is smaller than this (l2 distances, not squared).",
            above=0,
            below=1,
        ),
    ] = Fraction(1, 3)
    duplicate_rms: Annotated[
        float,
        Option(
            "Training images this close (RMS gray levels, 0-255) are duplicates of each other.",
            at_least=0,
            at_most=255,
            metavar="LEVELS",
        ),
    ] = 8.0
    confidence: Annotated[
        float,
        Option(
            "Confidence level of the intervals and of the gate.",
            above=0,
            below=1,
            metavar="P",
            is_share=True,
        ),
    ] = 0.95

    def __post_init__(self) -> None:
        check_options(self)
        if self.confidence > MOST_CONFIDENCE:
            raise ConfigError(
                f"{{confidence}} is {self.confidence!r}; at most {MOST_CONFIDENCE!r} can be "
                "computed, and no number of images shows more.",
                field="confidence",
            )
        if not isinstance(self.threshold, Fraction):
            raise ValueError(
                f"threshold must be a Fraction, such as Fraction(1, 3), got {self.threshold!r}"
            )


def memorized(
    squared_distance1: np.ndarray, squared_distance2: np.ndarray, threshold: Fraction
) -> np.ndarray:
    """Whether S1 < t²·S2, for the threshold t = p/q: strict, without a division.

    Distances between pixels are integers, and q²·S1 < p²·S2 is decided exactly. Distances between
    features are floats, and float64 decides.

    If both distances are 0, the image copies a duplicated training image. The rule cannot see
    that: such an image is not memorized, as published.

    Args:
        squared_distance1: S1, int64 or float64 [B], ≥ 0.
        squared_distance2: S2, of the same kind and shape.
        threshold: limit on the distance ratio (not squared), in (0, 1].

    Returns:
        bool [B].

    Raises:
        ValueError: threshold is not a Fraction in (0, 1]; a distance is negative; one array holds
            integers and the other floats.

    Examples:
        >>> memorized(np.array([10, 11, 0]), np.array([99, 99, 0]), Fraction(1, 3)).tolist()
        [True, False, False]
    """
    if not isinstance(threshold, Fraction) or not 0 < threshold <= 1:
        raise ValueError(f"threshold must be a Fraction in (0, 1], got {threshold!r}")
    S1, S2 = np.asarray(squared_distance1), np.asarray(squared_distance2)
    kinds = {S1.dtype.kind, S2.dtype.kind}
    if not (kinds <= {"i", "u"} or kinds == {"f"}) or not ((S1 >= 0).all() and (S2 >= 0).all()):
        raise ValueError("squared distances must be ≥ 0, and both integers or both floats")
    if kinds == {"f"}:
        return S1 < float(threshold**2) * S2
    # Python's integers: int64 would overflow for a threshold such as Fraction(0.1).
    p, q = threshold.as_integer_ratio()
    return (q**2 * S1.astype(object) < p**2 * S2.astype(object)).astype(bool)
