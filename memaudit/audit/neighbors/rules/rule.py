"""What a further rule is: another way to find a copy, beside whole images pixel by pixel.

A rule is one file of this package, which ends in a `CopyRule`, and one line in `registry.py`.

Legend: B generated images, N training images.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memaudit.audit.neighbors.results import Neighbors
from memaudit.errors import ConfigError

if TYPE_CHECKING:
    from memaudit.audit.neighbors.base import ImageSearch
    from memaudit.audit.neighbors.config import IndexConfig
    from memaudit.progress import Progress


@dataclass(frozen=True)
class Finds:
    """Which images are copies by a rule, of which training image, and where."""

    rule: str
    """Its name."""
    index: np.ndarray
    """int64 [B]: position of the training image that is copied, or -1."""
    squared_distance: np.ndarray
    """[B]: S between what was compared of both, int64, between features float64; -1 beside -1."""
    num_values: np.ndarray
    """int64 [B]: values that S is a sum over, so that sqrt(S / num_values) is in RMS gray levels;
    1 between features, 0 beside -1."""
    where: tuple[str, ...]
    """Which part, or how it was changed, in the rule's words; empty beside -1."""

    def __post_init__(self) -> None:
        sizes = {len(self.squared_distance), len(self.num_values), len(self.where)}
        if sizes != {len(self.index)}:
            raise ValueError("finds of a rule need a row for each image in every column")

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice | np.ndarray) -> "Finds":
        """The finds of some of the images."""
        positions = np.arange(len(self))[rows]
        return Finds(
            self.rule,
            self.index[rows],
            self.squared_distance[rows],
            self.num_values[rows],
            tuple(self.where[i] for i in positions.tolist()),
        )

    @property
    def is_copy(self) -> np.ndarray:
        """bool [B]."""
        found: np.ndarray = self.index >= 0
        return found

    def distance(self, row: int) -> float:
        """Distance of an image that is a copy by the rule, in the rule's unit."""
        return float(np.sqrt(self.squared_distance[row] / self.num_values[row]))

    @staticmethod
    def concatenate(parts: "Sequence[Finds]") -> "Finds":
        """The finds of several sets of images by the same rule, at least one."""
        return Finds(
            parts[0].rule,
            np.concatenate([part.index for part in parts]),
            np.concatenate([part.squared_distance for part in parts]),
            np.concatenate([part.num_values for part in parts]),
            tuple(text for part in parts for text in part.where),
        )


class Criteria(NamedTuple):
    """When an image is a copy by a rule."""

    threshold: Fraction
    """An image is memorized if d1/d2 is smaller."""
    duplicate_rms: float
    """Training images this close in pixels, in RMS gray levels, are duplicates of each other."""


Pool = Callable[[np.ndarray, int], Neighbors]
"""Finds the k nearest of pooled images: (images, k) → neighbors."""


class RuleSearch(ABC):
    """A rule, ready to judge images against one training set."""

    name: str
    num_bytes: int = 0
    """Memory that it takes besides the training images."""

    @abstractmethod
    def judge(
        self,
        images: np.ndarray,
        apart: np.ndarray,
        criteria: Criteria,
        *,
        left_out: np.ndarray | None = None,
    ) -> Finds:
        """Judge images.

        Args:
            images: uint8 [B, C, H, W].
            apart: training images that say where to begin, int64 [B, K], of `images_apart`; the
                result does not depend on them.
            criteria: when an image is a copy.
            left_out: positions of the images in the training set, int64 [B], if that is where they
                are from: each is judged among the others, without images equal to it and without
                the rest of its group.
        """

    @abstractmethod
    def pools(self, images: np.ndarray) -> Iterator[Pool]:
        """What the label test searches by: one search, or one for each part that is compared.

        Args:
            images: pooled training and held-out images, uint8 [N, C, H, W].
        """


Box = tuple[float, float, float, float]
"""A part of an image: left, top, width and height, as shares of its own."""


class Shown(NamedTuple):
    """What a page shows of a copy."""

    aligned: np.ndarray
    """The training image as the copy has it: shifted, mirrored or in its tone."""
    boxes: tuple[Box, ...] = ()
    """The parts of the generated image that were found."""


def show_whole(original: np.ndarray, where: str) -> Shown:
    """A copy of a whole image, as it is."""
    return Shown(original)


class Searched(NamedTuple):
    """What a report says of the images that a rule searched."""

    image_shape: tuple[int, int, int]
    """C, H, W."""
    flips: bool
    """Whether the index mirrors."""


WORDS = re.compile(r"[A-Za-z0-9×+\-., ]{1,120}")
"""What a rule may say of where it found a copy."""


def of_whole(where: str, num_values: int, searched: Searched) -> bool:
    """Whether whole images were compared, and where is said in plain words."""
    return num_values == math.prod(searched.image_shape) and bool(WORDS.fullmatch(where))


@dataclass(frozen=True)
class CopyRule:
    """A rule that may count besides the plain one."""

    name: str
    """As `match` names it."""
    about: str
    """What a page says of it, in one sentence after its name."""
    open: "Callable[[ImageSearch, IndexConfig, Progress], RuleSearch | None]"
    """Prepares the search among the images of an index; None where that index does it already."""
    in_all: bool = True
    """Whether `all` names it, too."""
    has_levels: bool = False
    """Whether its distances are those of whole images, changed in place only, so that one within
    the duplicate radius of a training image is a copy, and a held-out one no control."""
    show: Callable[[np.ndarray, str], Shown] = show_whole
    """(training image uint8 [C, H, W], where) → what a page shows."""
    can_be: Callable[[str, int, Searched], bool] = of_whole
    """(where, num_values, searched) → whether a find of the rule can say that: a report may be
    hostile."""


def too_small(name: str, index: "ImageSearch", least: int) -> ConfigError:
    """What to say of a rule that these images are too small for.

    Args:
        name: of the rule.
        index: of the training images.
        least: pixels that height and width need at least.
    """
    H, W = index.images.shape[2:]
    return ConfigError(
        f"{{match}} counts {name}, which take images of at least {least}×{least} pixels; these "
        f"have {H}×{W}. Leave {name} out.",
        field="match",
    )
