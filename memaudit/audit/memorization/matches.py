"""Each generated image with its nearest training images, and whether it is a copy.

The rule, at a threshold t: memorized iff ‖x − NN1‖ < t·‖x − NN2‖. In the published rule NN2 is the
second nearest training image; in the distinct rule it is the nearest one that is not a duplicate of
NN1. An image is a copy if it is memorized by the distinct rule, or is itself a duplicate of NN1;
or if a further rule that was asked for (neighbors/rules/) calls it one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from memaudit.audit.memorization.rule import Rule, memorized
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.results import DistinctNeighbors
from memaudit.audit.neighbors.rules.registry import HAVE_LEVELS, PIXELS
from memaudit.audit.neighbors.rules.rule import Criteria, Finds
from memaudit.audit.neighbors.units import largest_squared_distance
from memaudit.progress import Progress, silent

SEARCH_BATCH = 1024
"""Images searched at a time: enough for the matrix product, few enough to show progress."""
RADII = (0.0, 4.0, 8.0, 16.0)
"""Duplicate radii in RMS gray levels that are searched besides the rule's."""
THRESHOLDS = (Fraction(1, 5), Fraction(1, 4), Fraction(1, 3), Fraction(2, 5), Fraction(1, 2))
"""Thresholds that the sensitivity table shows besides the rule's."""


@dataclass(frozen=True)
class Matches:
    """What a rule says of each generated image, given its nearest training images.

    Indices are positions in the training set. Squared distances are sums of squared differences of
    8-bit pixel values, int64; between features they are float64.

    Raises:
        ValueError: the neighbors were not searched at the rule's duplicate radius.
    """

    neighbors: DistinctNeighbors
    """The neighbors of M generated images, searched at the rule's `duplicate_rms` among others."""
    rule: Rule
    finds: tuple[Finds, ...] = ()
    """What further rules found, in the order of their table."""

    def __post_init__(self) -> None:
        if self.rule.duplicate_rms not in self.neighbors.radii:
            raise ValueError(
                f"the neighbors were searched at radii {self.neighbors.radii}, not at "
                f"duplicate_rms = {self.rule.duplicate_rms}"
            )

    def __len__(self) -> int:
        return len(self.neighbors)

    def __getitem__(self, rows: slice | np.ndarray) -> "Matches":
        """The matches of some of the images."""
        return Matches(self.neighbors[rows], self.rule, tuple(each[rows] for each in self.finds))

    @staticmethod
    def concatenate(parts: "Sequence[Matches]") -> "Matches":
        """The matches of all images of several searches, at least one, by the same rules."""
        return Matches(
            DistinctNeighbors.concatenate([part.neighbors for part in parts]),
            parts[0].rule,
            tuple(Finds.concatenate(each) for each in zip(*(p.finds for p in parts), strict=True)),
        )

    @property
    def nn1(self) -> np.ndarray:
        """int64 [M]: the nearest training image."""
        return self.neighbors.index[:, 0]

    @property
    def nn2(self) -> np.ndarray:
        """int64 [M]: the second nearest training image."""
        return self.neighbors.index[:, 1]

    @property
    def nn2_distinct(self) -> np.ndarray:
        """int64 [M]: the nearest that is not a duplicate of nn1 by the rule; -1 if none."""
        return self.neighbors.index_distinct[self._radius(self.rule.duplicate_rms), :]

    @property
    def squared_distance1(self) -> np.ndarray:
        """[M]: S between each image and nn1."""
        return self.neighbors.squared_distance[:, 0]

    @property
    def squared_distance2(self) -> np.ndarray:
        """[M]: S between each image and nn2."""
        return self.neighbors.squared_distance[:, 1]

    @property
    def squared_distance2_distinct(self) -> np.ndarray:
        """[M]: S between each image and nn2_distinct; -1 if there is none."""
        return self.neighbors.squared_distance_distinct[self._radius(self.rule.duplicate_rms), :]

    @cached_property
    def memorized_paper(self) -> np.ndarray:
        """bool [M]: memorized by the published rule, which misses copies of duplicated images."""
        return self.memorized(None, self.rule.threshold)

    @cached_property
    def memorized_distinct(self) -> np.ndarray:
        """bool [M]: memorized by the distinct rule."""
        return self.memorized(self.rule.duplicate_rms, self.rule.threshold)

    @cached_property
    def is_pixel_copy(self) -> np.ndarray:
        """bool [M]: memorized by the distinct rule, or within the rule's radius of nn1."""
        copies: np.ndarray = self.memorized_distinct | self.is_near(self.rule.duplicate_rms)
        return copies

    @cached_property
    def is_copy(self) -> np.ndarray:
        """bool [M]: a copy by whole images, or by any further rule."""
        copies = self.is_pixel_copy
        for found in self.finds:
            copies = copies | found.is_copy
        return copies

    @property
    def by_rule(self) -> dict[str, np.ndarray]:
        """Which images each rule calls copies, bool [M]; empty where only whole images count."""
        if not self.finds:
            return {}
        return {PIXELS: self.is_pixel_copy, **{each.rule: each.is_copy for each in self.finds}}

    @cached_property
    def credited(self) -> np.ndarray:
        """int64 [M]: which rule a copy is credited to, the first that sees it: 0 for whole images,
        1 and more for `finds`; -1 beside none."""
        rule = np.full(len(self), -1, dtype=np.int64)
        for number, found in reversed(list(enumerate(self.finds, start=1))):
            rule[found.is_copy] = number
        rule[self.is_pixel_copy] = 0
        return rule

    @cached_property
    def copied(self) -> np.ndarray:
        """int64 [M]: the training image that each copy is one of; nn1 for the others."""
        index = self.nn1.copy()
        for number, found in enumerate(self.finds, start=1):
            index[self.credited == number] = found.index[self.credited == number]
        return index

    @property
    def is_duplicate(self) -> np.ndarray:
        """bool [M]: within the rule's radius of a training image, in place or moved by a rule."""
        near = self.is_near(self.rule.duplicate_rms)
        radius = Fraction(self.rule.duplicate_rms)
        for found in self.finds:
            if found.rule in HAVE_LEVELS:
                limit = [math.floor(radius**2 * n) for n in found.num_values.tolist()]
                near = near | (found.is_copy & (found.squared_distance <= limit))
        return near

    @cached_property
    def distance_ratio(self) -> np.ndarray:
        """float64 [M]: d1/d2 (ℓ2), with the d2 of the distinct rule; 1 where both are 0."""
        d1, d2 = self.squared_distance1, self._second(self.rule.duplicate_rms)
        squared_ratio = np.divide(d1, d2, out=np.ones(len(d1)), where=d2 > 0)
        ratio: np.ndarray = np.sqrt(squared_ratio)
        return ratio

    @property
    def num_degenerate(self) -> int:
        """Number of images at distance 0 from both neighbors, which the paper's rule cannot see."""
        return int(((self.squared_distance1 == 0) & (self.squared_distance2 == 0)).sum())

    def memorized(self, duplicate_rms: float | Fraction | None, threshold: Fraction) -> np.ndarray:
        """Which images are memorized at another radius or threshold: bool [M].

        Args:
            duplicate_rms: one of the radii searched, for the distinct rule; None for the published
                rule, which also decides if every training image is a duplicate of the nearest.
            threshold: limit on the distance ratio, in (0, 1].
        """
        return memorized(self.squared_distance1, self._second(duplicate_rms), threshold)

    def is_near(self, duplicate_rms: float | Fraction) -> np.ndarray:
        """Which images lie within a radius of a training image, and so are duplicates of it.

        Args:
            duplicate_rms: radius in RMS gray levels.

        Returns:
            bool [M]; none is where features were compared.
        """
        num_values = self.neighbors.num_values
        if num_values is None:
            return np.zeros(len(self), dtype=bool)
        near: np.ndarray = self.squared_distance1 <= largest_squared_distance(
            duplicate_rms, (num_values,)
        )
        return near

    def _second(self, duplicate_rms: float | Fraction | None) -> np.ndarray:
        if duplicate_rms is None:
            return self.squared_distance2
        distinct = self.neighbors.squared_distance_distinct[self._radius(duplicate_rms)]
        return np.where(distinct < 0, self.squared_distance2, distinct)

    def _radius(self, duplicate_rms: float | Fraction) -> int:
        return self.neighbors.radii.index(duplicate_rms)


@dataclass(frozen=True)
class Leak:
    """A training image that the source copies."""

    index: int
    name: str
    hits: int
    """Number of generated images that are copies of it."""
    best: int
    """Position of its closest copy among the generated images."""
    squared_distance: int | float
    """S between it and its closest copy, of what the copy's rule compares."""
    num_values: int | None
    """Values that S is a sum over where a further rule found the closest copy; None where whole
    images show it, as `space` says."""
    rule: str
    """The rule that the closest copy is credited to."""
    rows: tuple[int, ...]
    """Positions of all its copies, closest first."""
    group: str | None = None
    """What it belongs to, where groups count."""


def match_images(
    index: ImageSearch,
    images: np.ndarray,
    rule: Rule | None = None,
    *,
    progress: Progress = silent,
) -> Matches:
    """Find the nearest training images of every image and judge it by the rule.

    Args:
        index: of the training images, at least 2.
        images: uint8 [M, C, H, W]; may be memory-mapped.
        rule: what counts as a copy; None means the published rule, `Rule()`.
        progress: told how many images have been searched.

    Raises:
        DataError: images are not of the training images' shape, or there are fewer than 2 training
            images.
        CheckpointError: an encoder that the index uses fails.
    """
    rule = Rule() if rule is None else rule
    radii = searched_radii(rule)
    parts = []
    for start in range(0, max(1, len(images)), SEARCH_BATCH):
        batch = images[start : start + SEARCH_BATCH]
        parts.append(judge(index, batch, index.distinct_nearest(batch, duplicate_rms=radii), rule))
        progress("Finding nearest training images", start + len(batch), len(images))
    return Matches.concatenate(parts)


def judge(
    index: ImageSearch,
    images: np.ndarray,
    near: DistinctNeighbors,
    rule: Rule,
    *,
    left_out: np.ndarray | None = None,
) -> Matches:
    """Judge images whose nearest training images are known.

    Args:
        index: of the training images, with the further rules.
        images: uint8 [B, C, H, W].
        near: their nearest training images.
        rule: what counts as a copy.
        left_out: positions of the images in the training set, int64 [B], if that is where they are
            from.
    """
    if not index.rules:
        return Matches(near, rule)
    from memaudit.audit.neighbors.rules.exclusions import images_apart

    criteria = Criteria(rule.threshold, rule.duplicate_rms)
    apart = images_apart(index, near, criteria, left_out=left_out)
    finds = (each.judge(images, apart, criteria, left_out=left_out) for each in index.rules)
    return Matches(near, rule, tuple(finds))


def searched_radii(rule: Rule) -> tuple[float, ...]:
    """The radii in RMS gray levels that a scan searches, ascending."""
    return tuple(sorted({*RADII, float(rule.duplicate_rms)}))


def find_leaks(
    matches: Matches,
    names: Sequence[str] | Mapping[int, str],
    groups: Sequence[str | None] | Mapping[int, str] | None = None,
) -> tuple[Leak, ...]:
    """Find the training images that are copied, most copied first.

    Args:
        matches: what the rule says of the generated images.
        names: names of the training images by their index; those that leaked are enough.
        groups: what these belong to, likewise; None where groups do not count.
    """
    copies = np.flatnonzero(matches.is_copy)
    credited = matches.credited
    S = matches.squared_distance1
    squared_rms = np.zeros(len(matches))
    for number, found in enumerate(matches.finds, start=1):
        rows = np.flatnonzero(credited == number)
        squared_rms[rows] = found.squared_distance[rows] / found.num_values[rows]
    of_pixels = np.where(credited == 0, S, 0)
    order = np.lexsort((squared_rms[copies], of_pixels[copies], credited[copies]))
    rows_of: dict[int, list[int]] = {}
    for row in copies[order]:
        rows_of.setdefault(int(matches.copied[row]), []).append(int(row))
    leaks = []
    for index, copies_of in rows_of.items():
        best, by = copies_of[0], int(credited[copies_of[0]])
        by_rule = None if by == 0 else matches.finds[by - 1]
        leaks.append(
            Leak(
                index=index,
                name=names[index],
                hits=len(copies_of),
                best=best,
                squared_distance=(S if by_rule is None else by_rule.squared_distance)[best].item(),
                num_values=None if by_rule is None else int(by_rule.num_values[best]),
                rule=PIXELS if by_rule is None else by_rule.rule,
                rows=tuple(copies_of),
                group=None if groups is None else groups[index],
            )
        )
    return tuple(
        sorted(
            leaks,
            key=lambda leak: (
                -leak.hits,
                leak.num_values is not None,
                leak.squared_distance,
                leak.index,
            ),
        )
    )
