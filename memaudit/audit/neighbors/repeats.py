"""Does a generator repeat itself? Groups of near-equal images among the generated ones.

Independent draws from a distribution of pictures are hardly ever near-equal. Where they are, the
generator knows those pictures by heart or has collapsed to them; which of both, only the training
images tell. docs/method.md has the definitions.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from memaudit.audit.neighbors.duplicates import DuplicateGroup, find_duplicates
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.units import rms_gray_levels
from memaudit.data.images import ImageSet
from memaudit.progress import Progress, silent
from memaudit.wording import counted, ranges

LISTED_GROUPS = 20
"""Groups that are described, the largest."""
LISTED_ROWS = 100
"""Images of a group that are listed."""


@dataclass(frozen=True)
class Repeat:
    """A group of near-equal images, and the counterexamples: what is least alike in it, and what is
    just outside."""

    size: int
    rows: tuple[int, ...]
    """Positions of its first 100 images."""
    farthest: int
    """Position of the image of the group that is farthest from its first."""
    farthest_rms: float
    """RMS gray levels between these two. Groups are what near-equal pairs connect, so it may be
    more than the radius."""
    outside: int | None
    """Position of the image nearest to the group's first that is not in the group; None if all
    are."""
    outside_rms: float | None
    """RMS gray levels between these two."""


@dataclass(frozen=True)
class RepeatCount:
    """How often images of a set are near-equal."""

    num_images: int
    num_repeated: int
    """Images that are near-equal to another one."""
    num_groups: int
    largest: int
    """Images of the largest group, or 1."""
    chance: float
    """Share of the pairs of images that are in one group: Σ g(g−1) / (n(n−1))."""

    @property
    def sentence(self) -> str:
        """How often images repeat, without a full stop."""
        if not self.num_repeated:
            return f"No two of {self.num_images:,} generated images are near-equal"
        groups = counted(self.num_groups, "group", "groups")
        return (
            f"{self.num_repeated:,} of {self.num_images:,} generated images are near-equal to "
            f"another one, in {groups} of up to {self.largest:,}"
        )

    @property
    def effective_number(self) -> float | None:
        """1/chance, the number of equally likely pictures that would repeat as often; None if none
        repeats."""
        return 1 / self.chance if self.chance else None


@dataclass(frozen=True)
class Repeats:
    """The near-equal images of a set."""

    count: RepeatCount
    groups: tuple[Repeat, ...]
    """The 20 largest."""
    repeated: str | None
    """Positions of all images that are near-equal to another one, as ranges `0-99,105`; None if
    none is."""
    duplicate_rms: float
    """Images this close, in RMS gray levels, are near-equal."""


def find_repeats(
    images: np.ndarray,
    *,
    duplicate_rms: float | Fraction = 8,
    flips: bool = False,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> Repeats:
    """Find groups of near-equal images.

    A group consists of all images that pairs within `duplicate_rms` connect, exactly as in
    `find_duplicates`.

    Args:
        images: uint8 [N, C, H, W], N ≥ 1.
        duplicate_rms: radius in gray levels.
        flips: whether an image also counts as its mirror image.
        device: "cpu" or "cuda".
        progress: told how many images have been compared.

    Examples:
        >>> pixels = np.zeros((5, 1, 8, 8), dtype=np.uint8)
        >>> pixels[1], pixels[3], pixels[4] = 100, 105, 200
        >>> found = find_repeats(pixels)
        >>> found.count.num_repeated, found.count.num_groups, found.count.effective_number
        (4, 2, 5.0)
        >>> found.groups[0].rows, found.groups[0].outside, found.groups[0].outside_rms
        ((0, 2), 1, 100.0)
    """
    index = NeighborIndex(images, flips=flips, device=device, progress=progress)
    found = find_duplicates(
        ImageSet(images, [str(i) for i in range(len(images))]),
        duplicate_rms=duplicate_rms,
        flips=flips,
        device=device,
        index=index,
        progress=progress,
    )
    largest = sorted(found.groups, key=lambda group: (-len(group.indices), group.indices[0]))
    return Repeats(
        count=count_repeats(found.groups, len(images)),
        groups=tuple(_described(group, index) for group in largest[:LISTED_GROUPS]),
        repeated=ranges(sorted(i for group in found.groups for i in group.indices)) or None,
        duplicate_rms=float(duplicate_rms),
    )


def count_repeats(groups: tuple[DuplicateGroup, ...], num_images: int) -> RepeatCount:
    """Count the images and pairs of groups among so many images."""
    sizes = [len(group.indices) for group in groups]
    pairs = num_images * (num_images - 1)
    return RepeatCount(
        num_images=num_images,
        num_repeated=sum(sizes),
        num_groups=len(sizes),
        largest=max(sizes, default=1),
        chance=sum(size * (size - 1) for size in sizes) / pairs if pairs else 0.0,
    )


def _described(group: DuplicateGroup, index: NeighborIndex) -> Repeat:
    members, shape = np.array(group.indices), index.images.shape[1:]
    farthest = 1 + int(np.argmax(group.squared_distance[1:]))
    outside, outside_rms = None, None
    k, num_images = 16, len(index.images)
    while outside is None and len(members) < num_images:
        k = min(8 * k, num_images)
        near = index.nearest(index.images[members[:1]], k)
        others = np.flatnonzero(~np.isin(near.index[0], members))
        if len(others):
            outside = int(near.index[0, others[0]])
            outside_rms = rms_gray_levels(int(near.squared_distance[0, others[0]]), shape)
    return Repeat(
        size=len(members),
        rows=tuple(members[:LISTED_ROWS].tolist()),
        farthest=int(members[farthest]),
        farthest_rms=rms_gray_levels(group.squared_distance[farthest], shape),
        outside=outside,
        outside_rms=outside_rms,
    )
