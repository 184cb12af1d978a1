"""Images of a faster number format, and which of them have to be sampled again in fp32.

A verdict compares distances: q·d₁ < p·d₂ at a threshold p/q, or d₁ ≤ r within a radius. An image
that lies ‖Δx‖ apart changes each distance by at most that, so that its verdict can differ only if
its margin |q·d₁ − p·d₂| / (p + q), or |d₁ − r|, is at most ‖Δx‖. The first seeds of a scan, the
probe, are sampled in both formats. They tell how far images move and what that does to verdicts;
every later image whose margin is within the bound that follows is sampled again in fp32, and that
one counts. docs/statistics.md says what is known of the others.

Legend: M images, K criteria.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from scipy.special import bdtr

from memaudit.audit.memorization.matches import THRESHOLDS, Matches, searched_radii
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson

PROBE_SIZE = 512
"""Images that are sampled in both formats: with fewer, rare surprises stay unseen; with more, the
probe costs more than it saves."""
CONFIDENCE = 0.95
"""Confidence of what is said about the images after the probe."""
COVERED = 0.975
"""Share of images that move by no more than the limit on their distance, which is doubled."""
SAFETY = 2
"""Times that limit, within which margins are confirmed."""
PART_OF_MARGIN = 2
"""An image of the probe that moved by more than half of its margin counts as if its verdict had
changed. Beside the border of what two training images attract, a share 1/t of the images moves by
t, so that whole margins are crossed half as often."""
LEAST_RESAMPLED = 0.15
"""Share of the images that is sampled again in any case, those with the smallest margins: what is
saved by fewer is little beside the images that a wider margin catches."""
MOST_RESAMPLED = 0.5
"""Share of images above which the faster format does not pay, and fp32 is used instead."""


@dataclass(frozen=True)
class Margins:
    """How far images are from other verdicts, in the unit of ℓ2 distances between 8-bit pixels."""

    signed: np.ndarray
    """float64 [M, K]: each changes by at most ‖Δx‖, and its sign decides one criterion."""
    counts: np.ndarray
    """bool [M, K]: whether a verdict depends on that criterion."""
    certain: np.ndarray
    """float64 [M]: a shorter move changes no verdict, nor the nearest image of a copy."""
    is_copy: np.ndarray
    """bool [M]."""


def margins_of(matches: Matches, rule: Rule, *, every_cell: bool) -> Margins:
    """The margins of images.

    The distinct rule's second neighbor depends on the first. If another image that is not a
    duplicate of the first becomes the nearest, d₁ ≈ d₂, and the margin covers it. If it is a
    duplicate y of the first, images that are duplicates of y alone no longer count: the second may
    then be as far as the nearest one beyond twice the radius. So the first must stay the nearest,
    or even that distance must leave the image no copy.

    Args:
        matches: M images, searched at `confirmed_radii`.
        rule: what counts as a copy.
        every_cell: whether the verdicts at all thresholds and radii of the sensitivity table are
            meant, or those of the rule.
    """
    near = matches.neighbors
    assert near.num_values is not None
    d1 = np.sqrt(matches.squared_distance1)
    gap = (_distance(near.squared_distance_distinct[near.radii.index(0.0)]) - d1) / 2
    signed = []
    certain = []
    for threshold, radius in _criteria(rule, every_cell):
        p, q = threshold.as_integer_ratio()

        def margin(second: np.ndarray, p: int = p, q: int = q) -> np.ndarray:
            found: np.ndarray = (q * d1 - p * second) / (p + q)
            return found

        if radius is None:
            signed.append(margin(np.sqrt(matches.squared_distance2)))
            certain.append(abs(signed[-1]))
            continue
        stated = near.squared_distance_distinct[near.radii.index(radius)]
        signed.append(margin(np.sqrt(matches._second(radius))))
        found = np.where(stated < 0, 0.0, abs(signed[-1]))
        if radius:
            beyond = near.squared_distance_distinct[near.radii.index(2 * radius)]
            stays = np.where(signed[-1] > 0, margin(_distance(beyond)), -math.inf)
            found = np.minimum(found, np.maximum(gap, stays))
        certain.append(found)
    for radius in searched_radii(rule) if every_cell else (float(rule.duplicate_rms),):
        signed.append(d1 - radius * math.sqrt(near.num_values))
        certain.append(abs(signed[-1]))
    distances = np.stack(certain, 1)
    counts = np.ones(distances.shape, dtype=bool)
    if not every_cell:
        # An image that the distinct rule calls a copy is one at any distance.
        counts[:, -1] = ~matches.memorized_distinct
    nearest = np.where(matches.is_copy, gap, math.inf)
    found = np.minimum(np.where(counts, distances, math.inf).min(1), nearest)
    return Margins(np.stack(signed, 1), counts, found.clip(min=0), matches.is_copy)


def confirmed_radii(rule: Rule, *, every_cell: bool) -> tuple[float, ...]:
    """Radii at which fast images are searched, ascending: a scan's, and some twice as large."""
    radii = searched_radii(rule)
    doubled = radii if every_cell else (float(rule.duplicate_rms),)
    return tuple(sorted({*radii, *(2 * radius for radius in doubled)}))


def match_with_margins(
    index: ImageSearch, images: np.ndarray, rule: Rule, *, every_cell: bool
) -> tuple[Matches, Margins]:
    """What the rule says of fast images, and how far they are from other verdicts.

    Args:
        index: searches the training images by pixels.
        images: uint8 [M, C, H, W].
        rule: what counts as a copy.
        every_cell: as for `margins_of`.
    """
    wide = confirmed_radii(rule, every_cell=every_cell)
    found = Matches(index.distinct_nearest(images, duplicate_rms=wide), rule)
    margins = margins_of(found, rule, every_cell=every_cell)
    radii = searched_radii(rule)
    kept = [wide.index(radius) for radius in radii]
    near = replace(
        found.neighbors,
        radii=radii,
        index_distinct=found.neighbors.index_distinct[kept],
        squared_distance_distinct=found.neighbors.squared_distance_distinct[kept],
    )
    return Matches(near, rule), margins


def _criteria(rule: Rule, every_cell: bool) -> Iterator[tuple[Fraction, float | None]]:
    """Thresholds with the radius of the distinct rule, or None for the published one."""
    yield rule.threshold, None
    radius = float(rule.duplicate_rms)
    if not every_cell:
        yield from ((rule.threshold, each) for each in sorted({0.0, radius}))
        return
    for threshold in sorted({*THRESHOLDS, rule.threshold}):
        yield from ((threshold, each) for each in searched_radii(rule))


def _distance(squared_distance: np.ndarray) -> np.ndarray:
    """ℓ2 distances; infinite without such a neighbor."""
    found: np.ndarray = np.sqrt(np.maximum(squared_distance, 0))
    return np.where(squared_distance < 0, math.inf, found)


# ------------------------------------------------------------------------------------------------
# The probe


@dataclass(frozen=True)
class Probe:
    """Images that were sampled in both formats, and what they say of the others."""

    num_images: int
    """The first seeds of the scan."""
    agree: Proportion
    """Images that count as copies in both formats or in neither."""
    rms_limit: float
    """RMS gray levels by which 97.5 % of the images move at most, with a confidence of 95 %."""
    rms_largest: float
    """RMS gray levels by which the image moved that moved most."""
    rms_margin: float
    """RMS gray levels: images whose margin is no larger are sampled again in fp32."""
    share_unseen: float
    """With a confidence of 95 %, fewer of the images than this have a larger margin and yet move
    by more than half of it; those whose verdict changes are some of them."""
    forecast: float
    """Share of the probe's images whose margin is no larger."""

    @property
    def pays(self) -> bool:
        """Whether few enough images have to be sampled again."""
        return self.forecast <= MOST_RESAMPLED


def share_unseen(num_images: int, confidence: float = CONFIDENCE) -> float:
    """The largest share of images beyond the largest of n, with a confidence: 1 − (1 − γ)^(1/n).

    Whatever the distribution, n independent values all lie among the smaller 1 − X of it with a
    chance of (1 − X)ⁿ at most.

    Examples:
        >>> round(share_unseen(512), 4)
        0.0058
    """
    return float(-math.expm1(math.log1p(-confidence) / num_images))


def tolerance_rank(num_images: int, covered: float, confidence: float = CONFIDENCE) -> int:
    """How many of the largest of n values may be left out for the next one to cover a share of all.

    The (k + 1)-th largest of n independent values has a share `covered` of the distribution below
    or at it with a confidence of P(B > k), where B ~ Bin(n, 1 − covered): Wilks, Ann. Math. Stat.
    12 (1941) 91. 0 if even the largest covers less.

    Examples:
        >>> tolerance_rank(512, 0.975), tolerance_rank(64, 0.975)
        (6, 0)
    """
    rank = 0
    while bdtr(rank + 1, num_images, 1 - covered) <= 1 - confidence:
        rank += 1
    return rank


def probe_margin(fast: Margins, exact: Margins, moved: np.ndarray) -> float:
    """The margin within which images have to be confirmed, as an ℓ2 distance.

    It is the largest of three: the largest margin of an image of the probe that moved by more than
    half of it, which carries the statement; and, as the probe may show no such image, twice the
    limit that covers the moves of 97.5 % of the images, and the margin that 15 % of them have.

    Args:
        fast: of the images in the faster format.
        exact: of the same seeds in fp32.
        moved: ‖Δx‖, float64 [M].
    """
    rank = tolerance_rank(len(moved), COVERED)
    ample = SAFETY * float(np.sort(moved)[::-1][rank])
    cheap = float(np.quantile(fast.certain, LEAST_RESAMPLED, method="lower"))
    return max(ample, cheap if ample else 0.0, float(surprises(fast, exact).max()))


def surprises(fast: Margins, exact: Margins) -> np.ndarray:
    """The margin of each image that moved by more than half of its way to another verdict, or
    whose verdict changed; 0 for all others: float64 [M].

    That an image lies beyond a bound and nevertheless moves as far is the event that this exceeds
    the bound: hence the largest of a probe is a tolerance limit for just that event.
    """
    towards = (fast.signed - exact.signed) * np.sign(fast.signed)
    far = (fast.counts & (towards > abs(fast.signed) / PART_OF_MARGIN)).any(1)
    far |= fast.is_copy != exact.is_copy
    return np.where(far, fast.certain, 0.0)


def evaluate_probe(
    fast: Margins, exact: Margins, images: np.ndarray, again: np.ndarray
) -> tuple[Probe, float]:
    """What the probe says, and the margin within which images have to be confirmed.

    Args:
        fast: of the images in the faster format.
        exact: of the same seeds in fp32.
        images: the former, uint8 [M, C, H, W].
        again: the latter, uint8 [M, C, H, W].
    """
    num_images, num_values = len(images), math.prod(images.shape[1:])
    gap = (images.astype(np.int64) - again).reshape(num_images, -1)
    moved = np.sqrt(np.square(gap).sum(1))
    margin = probe_margin(fast, exact, moved)
    scale = math.sqrt(num_values)
    agree = int((fast.is_copy == exact.is_copy).sum())
    probe = Probe(
        num_images=num_images,
        agree=clopper_pearson(agree, num_images, CONFIDENCE),
        rms_limit=float(np.sort(moved)[::-1][tolerance_rank(num_images, COVERED)]) / scale,
        rms_largest=float(moved.max()) / scale,
        rms_margin=margin / scale,
        share_unseen=share_unseen(num_images),
        forecast=float((fast.certain <= margin).mean()),
    )
    return probe, margin
