"""Who would leak first? Training images in the order in which a model is likely to copy them.

Two things are known before any training. Images that a training shows more often are copied first
(Somepalli et al., arXiv:2305.20086; Carlini et al., arXiv:2301.13188), and among those shown
equally often the sparse ones, far from all others (arXiv:2606.14390). So duplicates are taken
together, and ordered by how often a training shows them, then by the distance to their nearest
other image.

This is an order, not a probability, and it knows nothing of the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from memaudit.audit.neighbors.duplicates import find_duplicates, first_equal
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.units import rms_gray_levels
from memaudit.data.images import ImageSet
from memaudit.progress import Progress, silent

PART = 1024
"""Images whose nearest others are searched at a time."""


@dataclass(frozen=True)
class Exposure:
    """Images of a set, duplicates taken together, in the order in which they are likely to leak.

    Each row is a kind: an image with its duplicates, called by the first of them.
    """

    num_images: int
    duplicate_rms: float
    """Radius in gray levels within which images are duplicates."""
    flips: bool
    """Whether an image also counts as its mirror image."""
    index: np.ndarray
    """int64 [K]: the first image of each kind, the most exposed first."""
    num_duplicates: np.ndarray
    """int64 [K]: images of the kind."""
    num_equal: np.ndarray
    """int64 [K]: those of them that equal the first one, itself included."""
    times_shown: np.ndarray
    """int64 [K]: how often an epoch shows images of the kind."""
    nearest: np.ndarray
    """int64 [K]: the nearest image of another kind; -1 if there is none."""
    isolation: np.ndarray
    """float64 [K]: distance to it in RMS gray levels; infinity if there is none."""
    group_size: np.ndarray | None
    """int64 [K]: images of the first one's group (a person, a scene), 0 where that is unknown; None
    where the source has no groups."""
    kind: np.ndarray
    """int64 [N]: the row of each image of the set."""

    def __len__(self) -> int:
        return len(self.index)

    def leaks_of(self, hits: Mapping[int, int]) -> np.ndarray:
        """How often each kind was copied, int64 [K].

        Args:
            hits: number of copies by the position of the training image.
        """
        found = np.zeros(len(self), dtype=np.int64)
        for position, number in hits.items():
            found[self.kind[position]] += number
        return found


def rank_exposure(
    images: ImageSet,
    *,
    duplicate_rms: float | Fraction = 8,
    flips: bool = False,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> Exposure:
    """Order the images of a set by how exposed they are to being copied.

    Args:
        images: the set; its pixels may be memory-mapped.
        duplicate_rms: radius in gray levels, ≥ 0; kinds are what pairs within it connect.
        flips: whether an image also counts as its mirror image.
        device: "cpu" or "cuda".
        progress: told how many images have been compared.

    Raises:
        DataError: there are no images, or they are too large to search.
        ConfigError: the device is "cuda", but there is no GPU.
        ValueError: duplicate_rms is negative or not finite.

    Examples:
        >>> pixels = np.zeros((4, 1, 8, 8), dtype=np.uint8)
        >>> pixels[:, 0] += np.array([10, 100, 10, 30], dtype=np.uint8)[:, None, None]
        >>> found = rank_exposure(ImageSet(pixels, ["a", "b", "c", "d"]))
        >>> [(images, float(far)) for images, far in zip(found.index.tolist(), found.isolation)]
        [(0, 20.0), (1, 70.0), (3, 20.0)]
    """
    N = len(images)
    duplicates = find_duplicates(
        images, duplicate_rms=duplicate_rms, flips=flips, device=device, progress=progress
    )
    first = np.arange(N)  # the first image of each one's kind
    for group in duplicates.groups:
        first[list(group.indices)] = group.indices[0]
    kinds, kind = np.unique(first, return_inverse=True)
    equal = first_equal(images.images, flips)
    shown = np.ones(N, dtype=np.int64) if images.repeats is None else images.repeats

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(kind, values, len(kinds)).astype(np.int64)

    nearest, isolation = _nearest_of_others(
        images, first, kinds, flips=flips, device=device, progress=progress
    )
    times_shown = total(shown)
    order = np.lexsort((kinds, -isolation, -times_shown))
    row = np.empty(len(kinds), dtype=np.int64)
    row[order] = np.arange(len(kinds))
    sizes = _group_sizes(images)
    return Exposure(
        num_images=N,
        duplicate_rms=float(duplicate_rms),
        flips=flips,
        index=kinds[order],
        num_duplicates=total(np.ones(N))[order],
        num_equal=total(equal == equal[first])[order],
        times_shown=times_shown[order],
        nearest=nearest[order],
        isolation=isolation[order],
        group_size=None if sizes is None else sizes[kinds[order]],
        kind=row[kind],
    )


def _nearest_of_others(
    images: ImageSet,
    first: np.ndarray,
    kinds: np.ndarray,
    *,
    flips: bool,
    device: str | torch.device,
    progress: Progress,
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest image of another kind to the first of each, and its distance, [K] each."""
    nearest = np.full(len(kinds), -1, dtype=np.int64)
    isolation = np.full(len(kinds), np.inf)
    if len(kinds) == 1:
        return nearest, isolation
    index = NeighborIndex(images.images, flips=flips, device=device, groups=first)
    for start in range(0, len(kinds), PART):
        part = slice(start, min(start + PART, len(kinds)))
        found = index.distinct_nearest(images.images[kinds[part]], duplicate_rms=[0])
        nearest[part] = found.index_distinct[0]
        isolation[part] = [
            rms_gray_levels(int(S), images.image_shape) for S in found.squared_distance_distinct[0]
        ]
        progress("Looking for the nearest others", part.stop, len(kinds))
    return nearest, isolation


def _group_sizes(images: ImageSet) -> np.ndarray | None:
    """How many images each image's group has, 0 where that is unknown, int64 [N]."""
    if images.groups is None:
        return None
    sizes: dict[str, int] = {}
    for name in images.groups:
        if name is not None:
            sizes[name] = sizes.get(name, 0) + 1
    return np.array([0 if name is None else sizes[name] for name in images.groups], dtype=np.int64)
