"""Held-out images as the control: what the rule flags without any copying."""

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from memaudit.audit.statistics.intervals import Proportion
from memaudit.data.images import ImageSet


@dataclass(frozen=True)
class Excess:
    """The share of generated images that is copied beyond what the rule flags by mistake."""

    value: float
    """(r − r_c) / (1 − r_c): at most 1; below 0 where fewer are flagged than of the control."""
    low: float
    high: float
    confidence: float


class Overlap(NamedTuple):
    """A held-out image that is a training image, pixel by pixel."""

    train: int
    """The first such training image."""
    holdout: int


def excess_over_holdout(ratio: Proportion, control: Proportion) -> Excess | None:
    """The memorization ratio in excess of the same rule's ratio on held-out images.

    If a share e of the images are copies and the rule flags the others as often as it flags
    held-out images, r = e + (1 − e)·r_c. So 1 − e = (1 − r)/(1 − r_c) is a ratio of two
    proportions, and its interval is made of theirs by MOVER (Donner and Zou, Stat. Methods Med.
    Res. 21 (2012) 347): its ends R solve (θ₁ − Rθ₂)² = (θ₁ − l₁)² + R²(u₂ − θ₂)² and the same with
    u₁ and l₂. On Clopper–Pearson's ends it covers at least as often as it says, in simulations.

    Args:
        ratio: of the generated images.
        control: of the held-out images, with the same confidence.

    Returns:
        None where every held-out image is flagged: then nothing sets a copy apart.
    """
    if ratio.confidence != control.confidence:
        raise ValueError(
            f"the intervals must have one confidence, got {ratio.confidence}, {control.confidence}"
        )
    theta1, l1, u1 = 1 - ratio.ratio, 1 - ratio.high, 1 - ratio.low
    theta2, l2, u2 = 1 - control.ratio, 1 - control.high, 1 - control.low
    if control.count == control.total:
        return None

    # A·R² − 2B·R + C = 0 at either end.
    B = theta1 * theta2
    smaller = 0.0
    if ratio.count < ratio.total:
        A, C = u2 * (2 * theta2 - u2), l1 * (2 * theta1 - l1)
        smaller = C / (B + math.sqrt(max(0.0, B**2 - A * C)))
    A, C = l2 * (2 * theta2 - l2), u1 * (2 * theta1 - u1)
    larger = (B + math.sqrt(max(0.0, B**2 - A * C))) / A
    return Excess(
        value=(ratio.ratio - control.ratio) / theta2,
        low=1 - larger,
        high=1 - smaller,
        confidence=ratio.confidence,
    )


def exact_overlap(train: ImageSet, holdout: ImageSet) -> list[Overlap]:
    """Held-out images that are training images: no control, since the model may know them.

    Returns:
        One for each such held-out image, in their order.
    """
    # Only the held-out images are kept by their digests: the training set may be the large one.
    by_digest: dict[bytes, list[int]] = {}
    for j, image in enumerate(holdout.images):
        by_digest.setdefault(_digest(image), []).append(j)
    found: dict[int, int] = {}
    for i, image in enumerate(train.images):
        for j in by_digest.get(_digest(image), ()):
            if j not in found and np.array_equal(image, holdout.images[j]):
                found[j] = i
    return [Overlap(found[j], j) for j in sorted(found)]


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
