"""The memorization ratio in excess of what the same rule flags without any copying."""

import math
from dataclasses import dataclass

from memaudit.audit.statistics.intervals import Proportion


@dataclass(frozen=True)
class Excess:
    """The share of generated images that are copies beyond what the rule flags by mistake."""

    value: float
    """(r − r_c) / (1 − r_c): at most 1; below 0 if the rule flags a smaller share of the generated
    images than of the held-out ones."""
    low: float
    high: float
    confidence: float


def excess_over_holdout(ratio: Proportion, control: Proportion) -> Excess | None:
    """The memorization ratio in excess of the same rule's ratio on held-out images.

    If a share e of the images are copies, and the rule flags the others as often as it flags
    held-out images, then r = e + (1 − e)·r_c. So 1 − e = (1 − r)/(1 − r_c) is a ratio of two
    proportions, and its interval is made from theirs by MOVER (Donner and Zou, Stat. Methods Med.
    Res. 21 (2012) 347): its ends R solve (θ₁ − Rθ₂)² = (θ₁ − l₁)² + R²(u₂ − θ₂)² and the same with
    u₁ and l₂. With the ends of Clopper and Pearson, it covers the truth in simulations at least as
    often as its confidence says.

    Args:
        ratio: the ratio r of the generated images.
        control: the ratio r_c of the held-out images, with the same confidence.

    Returns:
        None if every held-out image is flagged: then nothing distinguishes a copy.

    Raises:
        ValueError: the two intervals differ in confidence.

    Examples:
        >>> from memaudit.audit.statistics.intervals import clopper_pearson
        >>> found = excess_over_holdout(clopper_pearson(460, 1000), clopper_pearson(100, 1000))
        >>> print(f"{found.value:.0%} [{found.low:.1%}, {found.high:.1%}]")
        40% [36.2%, 43.7%]
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
