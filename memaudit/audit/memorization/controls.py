"""The floor: how often are images counted as copies that cannot be copies?

Two controls answer. Held-out images are like the training images, and the model never saw them.
Leave-one-out judges each training image among the others, which needs no further images; training
images that are equal count once. docs/statistics.md says what each of them can excuse.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from memaudit.audit.memorization.matches import Matches, judge, match_images, searched_radii
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.memorization.sensitivity import CellCount, count_cells
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.duplicates import first_equal
from memaudit.audit.neighbors.units import largest_squared_distance
from memaudit.audit.statistics.gate import Control, FloorCount
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson
from memaudit.progress import Progress, silent
from memaudit.wording import percent

if TYPE_CHECKING:
    from memaudit.audit.neighbors.pixel_index import NeighborIndex
    from memaudit.data.images import ImageSet

LEFT_OUT_IMAGES = 10_000
"""Training images that leave-one-out judges at most, drawn at random from a larger set."""
LEFT_OUT_BESIDE_HOLDOUT = 2_000
"""The same where held-out images give the gate its floor."""
PART = 1024
"""Training images judged at a time."""
MOST_BRUTE_FORCED = 2048
"""Leave-one-out stops once this many images had to be compared with all others."""
DENSE = 0.01
"""Share of images within `duplicate_rms` of another above which the data is dense: there, images
that are that close need not be copies."""
NEAR_PAIRS = (8.0, 24.0)
"""Gray levels between which pairs of training images are counted: beyond the usual radius, and near
enough for a copy of one to look like a copy of the other."""
NAMED = 5
"""Number of held-out images that a message names."""


@dataclass(frozen=True)
class RuleCount:
    """How many images one of several rules calls copies."""

    rule: str
    count: int


@dataclass(frozen=True)
class Floor:
    """How often images of a control are counted as copies."""

    control: Control
    copies: Proportion
    """By the count that the gate uses."""
    paper: Proportion
    """By the published rule."""
    cells: tuple[CellCount, ...]
    """Counts at every threshold and radius, in the order of the sensitivity table."""
    num_near: int
    """Images of the control within `duplicate_rms` of a training image."""
    by_rule: tuple[RuleCount, ...]
    """What each rule counts, where several do; empty where whole images alone do."""
    num_near_moved: int
    """Images of the control within `duplicate_rms` of a training image, in place or, where such
    rules count, shifted or mirrored."""

    @property
    def whole_images(self) -> FloorCount | None:
        """The floor of whole images, where further rules count as well."""
        if not self.by_rule:
            return None
        return FloorCount(self.control, self.by_rule[0].count, self.copies.total)

    @property
    def count(self) -> FloorCount:
        """The floor of the gate."""
        return FloorCount(self.control, self.copies.count, self.copies.total)


@dataclass(frozen=True)
class Controls:
    """What the controls of a scan say."""

    leave_one_out: Floor | None
    """None if fewer than three training images differ from each other."""
    holdout: Floor | None
    """Floor of the held-out images that are not set apart; None without any."""
    num_holdout: int
    """Number of held-out images given."""
    num_set_apart: int
    """Held-out images within `duplicate_rms` of a training image, in place or, where such rules
    count, shifted or mirrored. They may be copies of training images themselves, so they do not
    count towards the floor."""
    set_apart: tuple[str, ...]
    """Names of the first of them."""
    is_dense: bool
    """Whether images within `duplicate_rms` of each other are common in the training set and among
    the held-out images alike, so that being that close does not show copying."""
    whole_images: FloorCount | None
    """Held-out images that whole images alone count, of those that are not within `duplicate_rms`
    of a training image in place; None without held-out images or where no further rules count."""
    near_pairs: Proportion | None
    """Training images whose nearest other lies between 8 and 24 gray levels away; None where
    features were compared."""

    @property
    def floor(self) -> Floor | None:
        """The floor that stands beside the ratio: of held-out images, if there are any. Where the
        data is dense, those that are left are not like the others, and leave-one-out is it."""
        return self.leave_one_out if self.holdout is None or self.is_dense else self.holdout

    @property
    def missing(self) -> str:
        """Why the gate has no floor, if it has none: a clause."""
        if self.num_holdout:
            return (
                f"each of the {self.num_holdout:,} held-out images lies within the duplicate "
                "radius of a training image, so none is left as a control"
            )
        return (
            "there is no control: nothing says how many images would be counted without any copying"
        )

    def notes(self, duplicate_rms: float) -> tuple[str, ...]:
        """What a reader must know about the controls, one sentence each.

        Args:
            duplicate_rms: the rule's radius in RMS gray levels.
        """
        found = []
        if self.num_set_apart:
            named = ", ".join(self.set_apart)
            more = self.num_set_apart - len(self.set_apart)
            found.append(
                f"{self.num_set_apart:,} of {self.num_holdout:,} held-out images lie within "
                f"{duplicate_rms:g} gray levels of a training image and do not count towards the "
                f"floor: {named}{f' and {more:,} more' if more else ''}."
            )
        if self.is_dense:
            found.append(
                f"Images within {duplicate_rms:g} gray levels of each other are common in this "
                "data, so being that close does not show copying; nothing fails by this rule."
            )
        near = self.near_pairs
        if near is not None and near.ratio > DENSE:
            low, high = NEAR_PAIRS
            found.append(
                f"{percent(near.ratio)} % of the training images have their nearest other between "
                f"{low:g} and {high:g} gray levels away: copies of these may count at some radii "
                "only."
            )
        return tuple(found)

    @property
    def in_gate(self) -> FloorCount:
        """The floor of the gate. Without a control, and where the data is dense, nothing fails."""
        if self.is_dense:
            return FloorCount("held-out images", 0, 0)
        if self.holdout is not None:
            return self.holdout.count
        if self.num_holdout:
            return FloorCount("held-out images", 0, 0)
        if self.leave_one_out is not None:
            return self.leave_one_out.count
        return FloorCount("leave-one-out", 0, 0)

    @property
    def whole_images_in_gate(self) -> FloorCount | None:
        """The floor of whole images by themselves, where further rules count as well: as if these
        did not, so that asking for more rules excuses nothing."""
        alone, whole = self.leave_one_out, self.whole_images
        if whole is None:
            return None if alone is None or self.num_holdout else alone.whole_images
        near_train = 0.0 if alone is None else alone.num_near / alone.copies.total
        if near_train > DENSE and (self.num_holdout - whole.total) / self.num_holdout > DENSE:
            return FloorCount("held-out images", 0, 0)
        return whole


def measure_controls(
    index: ImageSearch,
    data: "ImageSet",
    holdout: "ImageSet | None",
    rule: Rule,
    *,
    open_pixel_index: "Callable[[], NeighborIndex]",
    most_left_out: int = LEFT_OUT_IMAGES,
    progress: Progress = silent,
) -> tuple[Controls, Matches | None]:
    """Judge the controls by the rule of a scan.

    Args:
        index: the index of the training images that the scan uses.
        data: the training images, at least 2.
        holdout: images like them that the model never saw, or None.
        rule: what counts as a copy.
        open_pixel_index: opens an index of pixels, for held-out images where features are compared.
        most_left_out: training images that leave-one-out judges at most.
        progress: told how many images have been judged.

    Returns:
        What the controls say, and the matches of all held-out images.
    """
    most = LEFT_OUT_IMAGES if holdout is None else LEFT_OUT_BESIDE_HOLDOUT
    leave_one_out, near_pairs = measure_leave_one_out(
        index, data, rule, min(most, most_left_out), progress=progress
    )
    near_train = 0.0
    if leave_one_out is not None:
        near_train = leave_one_out.num_near_moved / leave_one_out.copies.total
    if holdout is None:
        return Controls(leave_one_out, None, 0, 0, (), False, None, near_pairs), None

    judged = match_images(index, holdout.images, rule, progress=progress)
    if judged.neighbors.num_values is not None:
        near = judged.is_duplicate
    else:
        S = open_pixel_index().nearest(holdout.images, 1).squared_distance[:, 0]
        near = S <= largest_squared_distance(rule.duplicate_rms, data.image_shape)
    remaining = judged[np.flatnonzero(~near)]
    whole_images = None
    if judged.finds:
        in_place = judged.is_near(rule.duplicate_rms)
        num_copies = int((judged.is_pixel_copy & ~in_place).sum())
        whole_images = FloorCount("held-out images", num_copies, int((~in_place).sum()))
    names = tuple(holdout.names[i] for i in np.flatnonzero(near)[:NAMED])
    controls = Controls(
        leave_one_out=leave_one_out,
        holdout=_floor("held-out images", remaining) if len(remaining) else None,
        num_holdout=len(holdout),
        num_set_apart=int(near.sum()),
        set_apart=names,
        is_dense=bool(near.mean() > DENSE and near_train > DENSE),
        whole_images=whole_images,
        near_pairs=near_pairs,
    )
    return controls, judged


def measure_leave_one_out(
    index: ImageSearch,
    data: "ImageSet",
    rule: Rule,
    num_images: int,
    *,
    progress: Progress = silent,
) -> tuple[Floor | None, Proportion | None]:
    """Judge training images, each among the others.

    Args:
        index: the index of the training images.
        data: the training images.
        rule: what counts as a copy.
        num_images: training images judged at most, always the same ones.
        progress: told how many images have been judged.

    Returns:
        The floor, or None if fewer than three images differ from each other; and the share of
        images whose nearest other lies within `NEAR_PAIRS`, or None where features are compared.
    """
    alone = _leave_one_out(index, data, rule, num_images, progress)
    if not len(alone):
        return None, None
    near_pairs = None
    low, high = (largest_squared_distance(levels, data.image_shape) for levels in NEAR_PAIRS)
    if alone.neighbors.num_values is not None:
        S = alone.squared_distance1
        between = int(((S > low) & (S <= high)).sum())
        near_pairs = clopper_pearson(between, len(alone), rule.confidence)
    return _floor("leave-one-out", alone), near_pairs


def _leave_one_out(
    index: ImageSearch, data: "ImageSet", rule: Rule, num_images: int, progress: Progress
) -> Matches:
    """Training images that differ from each other, judged among the others."""
    differing = np.unique(first_equal(data.images, index.flips))
    if data.group_numbers is not None:  # images of one group are not independent of each other
        differing = np.intersect1d(differing, data.independent_rows)
    chosen = np.random.default_rng(0).permutation(differing)[:num_images]
    parts: list[Matches] = []
    num_brute_forced = 0
    for start in range(0, len(chosen), PART):
        part = chosen[start : start + PART]
        near = index.leave_one_out(part, duplicate_rms=searched_radii(rule))
        kept = part if near.judged is None else part[near.judged]
        parts.append(judge(index, data.images[kept], near, rule, left_out=kept))
        progress("Measuring the floor among the training images", start + len(part), len(chosen))
        assert near.statistics is not None
        num_brute_forced += near.statistics.num_brute_forced
        if num_brute_forced >= MOST_BRUTE_FORCED:
            break
    return Matches.concatenate(parts)


def most_left_out(share_brute_forced: float) -> int:
    """After about how many images leave-one-out stops, where that share is compared with all."""
    parts = -(-MOST_BRUTE_FORCED // (share_brute_forced * PART))
    return int(parts) * PART


def _floor(control: Control, judged: Matches) -> Floor:
    confidence = judged.rule.confidence

    def share(hits: np.ndarray) -> Proportion:
        return clopper_pearson(int(hits.sum()), len(hits), confidence)

    return Floor(
        control=control,
        copies=share(judged.is_copy),
        paper=share(judged.memorized_paper),
        cells=count_cells(judged),
        num_near=int(judged.is_near(judged.rule.duplicate_rms).sum()),
        by_rule=tuple(RuleCount(name, int(hits.sum())) for name, hits in judged.by_rule.items()),
        num_near_moved=int(judged.is_duplicate.sum()),
    )
