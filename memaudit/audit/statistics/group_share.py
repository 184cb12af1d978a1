"""How many groups (patients, videos, products) are copied, with an interval, and against a limit.

The unit is the group: a group is copied if any of its images is the nearest of a copy. Of G groups,
L are copied among n images. That all G were looked at leaves one thing to chance: which n images
the seeds gave. The interval is for E[L] / G, the share that n images of this source copy on
average; more images copy more groups, which is what Chao1 is about (species_richness.py).

Copies fall on groups as balls fall into boxes, and whether each box is hit are negatively
associated variables (Dubhashi and Ranjan, Random Struct. Algorithms 13 (1998) 99). So Chernoff's
bound of independent ones holds, however unequal the groups are (Hoeffding, J. Am. Stat. Assoc. 58
(1963) 13, Theorem 1): P(L ≥ xG) ≤ exp(−G·KL(x‖p)) for x ≥ p = E[L] / G, and likewise below.
"""

import math
from dataclasses import dataclass
from typing import Literal

from memaudit.audit.statistics.gate import FloorCount
from memaudit.audit.statistics.intervals import Proportion, check_proportion


def copied_share(count: int, total: int, confidence: float = 0.95) -> Proportion:
    """The share of groups that are copied, with Chernoff's interval {p: G·KL(L/G‖p) ≤ ln(2/α)}.

    Args:
        count: L, groups copied among a number of images that was fixed beforehand, 0 … total.
        total: G, all groups, ≥ 1.
        confidence: 1 − α, in (0, 1).

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> found = copied_share(3, 212)
        >>> print(f"{found.ratio:.1%} [{found.low:.2%}, {found.high:.2%}]")
        1.4% [0.17%, 4.83%]
    """
    check_proportion(count, total, confidence)
    most = math.log(2 / (1 - confidence)) / total
    x = count / total
    low = 0.0 if count == 0 else _where(x, most, 0.0)
    high = 1.0 if count == total else _where(x, most, 1.0)
    return Proportion(count, total, low, high, confidence)


@dataclass(frozen=True)
class GroupDecision:
    """A verdict on the share of groups that are copied, against a limit."""

    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    """FAIL: the share is above what limit and floor explain; PASS: it is below the limit."""
    count: int
    """L, groups of which an image is copied."""
    total: int
    """G, groups of the training images."""
    num_images: int
    """n, images judged; their number was fixed before."""
    limit: float
    """Largest share of groups that passes, in (0, 1)."""
    fail_limit: float
    """What limit and floor explain together: each image that is counted by mistake adds at most one
    group."""
    confidence: float
    """1 − α."""
    evidence_above: float
    """G·KL(L/G‖fail_limit), or 0 where the share is not above it. FAIL from `required_above` on."""
    evidence_below: float
    """G·KL(L/G‖limit), or 0 where the share is not below it. PASS from `required` on."""
    required_above: float
    """ln(2/α)."""
    required: float
    """ln(1/α)."""


def judge_groups(
    count: int,
    total: int,
    *,
    num_images: int,
    limit: float,
    confidence: float = 0.95,
    floor: FloorCount | None = None,
) -> GroupDecision:
    """Whether more than a limit of the groups are copied, on average over scans of n images.

    Each side is wrong with a chance of at most α. With c of m control images counted by mistake and
    u the upper end of their share at level α/2, n images count at most n·u groups by mistake on
    average, so FAIL is tested above limit + n·u/G, at level α/2.

    Args:
        count, total: L of G groups, 0 ≤ L ≤ G, G ≥ 1.
        num_images: n, ≥ 1, fixed before the images were judged.
        limit: in (0, 1).
        confidence: 1 − α, in [0.5, 1).
        floor: the count of images that cannot be copies; None tests the limit alone.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> floor = FloorCount("held-out images", 0, 4_000)
        >>> for count in (0, 3, 40):
        ...     found = judge_groups(count, 212, num_images=2_000, limit=0.05, floor=floor)
        ...     print(found.verdict, f"{found.fail_limit:.3f}")
        PASS 0.059
        PASS 0.059
        FAIL 0.059
    """
    check_proportion(count, total, confidence)
    if not 0 < limit < 1 or num_images < 1:
        raise ValueError(f"limit must be between 0 and 1, and images at least 1; got {limit}")
    alpha = 1 - confidence
    by_mistake = 0.0 if floor is None else num_images * floor.upper(1 - alpha / 2) / total
    fail_limit = min(1.0, limit + by_mistake)
    x = count / total
    above = total * divergence(x, fail_limit) if x > fail_limit else 0.0
    below = total * divergence(x, limit) if x < limit else 0.0
    required_above, required = math.log(2 / alpha), -math.log(alpha)
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"] = "INCONCLUSIVE"
    if above >= required_above:
        verdict = "FAIL"
    elif below >= required:
        verdict = "PASS"
    return GroupDecision(
        verdict=verdict,
        count=count,
        total=total,
        num_images=num_images,
        limit=limit,
        fail_limit=fail_limit,
        confidence=confidence,
        evidence_above=above,
        evidence_below=below,
        required_above=required_above,
        required=required,
    )


def divergence(x: float, p: float) -> float:
    """KL(x‖p) = x·ln(x/p) + (1 − x)·ln((1 − x)/(1 − p)), of two coins; both in [0, 1]."""
    first = 0.0 if x == 0 else math.inf if p == 0 else x * math.log(x / p)
    second = 0.0 if x == 1 else math.inf if p == 1 else (1 - x) * math.log((1 - x) / (1 - p))
    return first + second


def _where(x: float, most: float, end: float) -> float:
    """The p between x and an end at which KL(x‖p) = most."""
    near, far = x, end
    for _ in range(200):
        middle = (near + far) / 2
        if divergence(x, middle) <= most:
            near = middle
        else:
            far = middle
    return far
