"""The count of copies by other rules: does a verdict hang on the threshold or the radius?"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from memaudit.audit.memorization.matches import THRESHOLDS, Matches
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson

NUM_ROWS = len(THRESHOLDS) + 1
"""Rows of the table, for whose number the tests are corrected: along a row, nearly the same images
are counted."""
MOST_EXCUSED = 0.01
"""Largest floor of a count by distance ratio that may keep a PASS. CIFAR-10, with 50,000 training
images, has 0.76 % at a threshold of 1/2, and less at lower ones."""


@dataclass(frozen=True)
class CellCount:
    """A count of copies by another rule."""

    threshold: Fraction | None
    """Limit on the distance ratio; None counts every image within the radius of a training image,
    whatever its ratio."""
    duplicate_rms: float
    """Radius in RMS gray levels."""
    count: int


@dataclass(frozen=True)
class Sensitivity:
    """The share of copies by another rule."""

    threshold: Fraction | None
    """Limit on the distance ratio; None counts every image within the radius of a training image,
    whatever its ratio."""
    duplicate_rms: float
    """Radius in RMS gray levels."""
    ratio: Proportion
    floor: Proportion | None
    """The same count among images that cannot be copies; None without a control."""
    contradicts: bool
    """Whether this count speaks against a PASS: above the limit by more than a control may excuse.
    False without a limit."""

    @property
    def rule(self) -> str:
        """The rule, in a few words."""
        if self.threshold is None:
            return f"within {self.duplicate_rms:g} levels of a training image"
        return f"threshold {self.threshold} at radius {self.duplicate_rms:g}"


def count_cells(matches: Matches) -> tuple[CellCount, ...]:
    """Count the copies at every threshold and every radius searched, the rule's own included."""
    radii = matches.neighbors.radii
    by_ratio = (
        CellCount(threshold, float(radius), int(matches.memorized(radius, threshold).sum()))
        for threshold in sorted({*THRESHOLDS, matches.rule.threshold})
        for radius in radii
    )
    if matches.neighbors.num_values is None:
        return tuple(by_ratio)
    near = (CellCount(None, float(radius), int(matches.is_near(radius).sum())) for radius in radii)
    return (*by_ratio, *near)


def contradicts(
    ratio: Proportion, floors: Sequence[Proportion], limit: float, *, by_ratio: bool
) -> bool:
    """Whether a share of copies speaks against a PASS, whatever its floors explain.

    It does if one of the floors does not explain it: the excess (r − r_c)/(1 − r_c) is larger than
    the limit, and a floor as high as the share would be seen with a chance of at most α (Fisher's
    exact one-sided test). Whoever raises one control has to raise the other, too.

    It also does if it is certainly above the limit and there is no control, or the floor of one is
    certainly higher than in ordinary data: near-duplicates planted in the training set or among the
    held-out images would buy a PASS.

    Args:
        ratio: share of the generated images.
        floors: shares of images that cannot be copies, one of each control.
        limit: p₀, in (0, 1).
        by_ratio: whether the distance ratio is counted, not every image within a radius.
    """
    if ratio.low > limit and (
        not floors or (by_ratio and max(floor.low for floor in floors) > MOST_EXCUSED)
    ):
        return True
    return any(_exceeds(ratio, floor, limit) for floor in floors)


def _exceeds(ratio: Proportion, floor: Proportion, limit: float) -> bool:
    """Whether a share is above limit and floor, and above the floor by more than chance."""
    if floor.count == floor.total:
        return False
    if (ratio.ratio - floor.ratio) / (1 - floor.ratio) <= limit:
        return False
    return is_above_floor(ratio, floor, num_tests=NUM_ROWS)


def is_above_floor(ratio: Proportion, floor: Proportion, *, num_tests: int = 1) -> bool:
    """Whether a share of copies is above its floor by more than chance, at level α.

    Fisher's exact one-sided test: P(X ≥ k) ≤ α, where X of the n generated images would be counted
    if the k + c that are were dealt out at random among the n + m images of both kinds.

    Args:
        ratio: share of the generated images, k of n.
        floor: share of images that cannot be copies, c of m.
        num_tests: number of tests made, which α is divided by.

    Examples:
        >>> from memaudit.audit.statistics.intervals import clopper_pearson
        >>> floor = clopper_pearson(2, 1_000)
        >>> [is_above_floor(clopper_pearson(k, 1_000), floor) for k in (2, 20)]
        [False, True]
    """
    from scipy.stats import hypergeom  # slow to import

    copies, images = ratio.count + floor.count, ratio.total + floor.total
    p = float(hypergeom.sf(ratio.count - 1, images, copies, ratio.total))
    return p <= (1 - ratio.confidence) / num_tests


def least_floor(ratio: Proportion) -> int:
    """How many images of a control, none of them counted, make a share of copies above the floor.

    The smallest m for which `is_above_floor` holds with c = 0.

    Args:
        ratio: share of the generated images, k of n, k at least 1.

    Examples:
        >>> from memaudit.audit.statistics.intervals import clopper_pearson
        >>> least_floor(clopper_pearson(7, 300)), least_floor(clopper_pearson(1, 300))
        (159, 5700)
    """

    def is_enough(number: int) -> bool:
        return is_above_floor(ratio, clopper_pearson(0, number, ratio.confidence))

    most = 1
    while not is_enough(most):
        most *= 2
    return bisect_left(range(1, most + 1), True, key=is_enough) + 1
