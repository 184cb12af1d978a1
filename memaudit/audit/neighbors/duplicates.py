"""Images that a set holds more than once, exactly or nearly, or that two sets share.

Two images are duplicates within a radius of r gray levels if S(x, y) ≤ ⌊r²·D⌋, in integers. A group
is what such pairs connect, so two images of a group may be farther apart than the radius.

If a training image occurs twice, both neighbors of its copy are equally near, and the published
rule cannot see the copy. Models copy such images first (Somepalli et al., arXiv:2305.20086).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from memaudit.audit.neighbors.integer_distances import pair_distances
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.units import largest_squared_distance
from memaudit.data.images import ImageSet
from memaudit.data.sources import as_images
from memaudit.progress import Progress, silent

BLOCK_BYTES = 16 << 20
"""Size of the images and their neighbors that are in memory at a time."""
FIRST_K = 8
"""Neighbors searched for at first; an image is its own nearest."""
WIDENING = 8


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that are connected by pairs of duplicates."""

    indices: tuple[int, ...]
    """Positions in the set, ascending."""
    squared_distance: tuple[int, ...]
    """S between the group's first image and each image, itself included."""
    is_copy: tuple[bool, ...]
    """Whether each image equals an earlier image of the group in every value."""


@dataclass(frozen=True)
class Duplicates:
    """The duplicates within one set."""

    groups: tuple[DuplicateGroup, ...]
    """Groups of 2 or more images, ordered by their first images."""
    num_images: int
    """Number of images in the set."""
    duplicate_rms: float
    """Radius in gray levels."""
    flips: bool
    """Whether an image also counts as its mirror image."""

    @property
    def num_in_groups(self) -> int:
        """Number of images that have a duplicate."""
        return sum(len(group.indices) for group in self.groups)

    @property
    def num_copies(self) -> int:
        """Number of images that equal an earlier one."""
        return sum(sum(group.is_copy) for group in self.groups)

    @property
    def num_near(self) -> int:
        """Number of images that follow another image of their group and equal no earlier one."""
        return self.num_in_groups - len(self.groups) - self.num_copies

    @cached_property
    def left_out(self) -> np.ndarray:
        """All but the first image of each group: int64, ascending."""
        return np.sort(np.array([i for g in self.groups for i in g.indices[1:]], dtype=np.int64))

    @cached_property
    def kept(self) -> np.ndarray:
        """What remains of the set without those images: int64, ascending."""
        return np.delete(np.arange(self.num_images), self.left_out)


class SharedImage(NamedTuple):
    """A held-out image that equals a training image in every value."""

    train: int
    """The first such training image."""
    holdout: int


def find_duplicates(
    images: str | Path | np.ndarray | ImageSet,
    *,
    duplicate_rms: float | Fraction = 8,
    flips: bool = False,
    device: str | torch.device = "cpu",
    index: NeighborIndex | None = None,
    progress: Progress = silent,
) -> Duplicates:
    """Find all duplicates in a set.

    Equal images are found by their hashes. The first image of each kind then searches for its
    nearest neighbors, and for more as long as the last one found is within the radius.

    Args:
        images: the set, in any form that `as_images` takes; its pixels may be memory-mapped.
        duplicate_rms: radius in gray levels, ≥ 0; at 0, only equal images are duplicates.
        flips: whether an image also counts as its mirror image, left to right.
        device: "cpu" or "cuda".
        index: of these images, mirrored if `flips`, if one exists already.
        progress: told how many images have been compared.

    Raises:
        DataError: there are no images, or they are too large to search.
        ConfigError: the device is "cuda", but there is no GPU.
        ValueError: duplicate_rms is negative or not finite.

    Examples:
        >>> pixels = np.zeros((4, 1, 8, 8), dtype=np.uint8)
        >>> pixels[1], pixels[3] = 100, 105
        >>> found = find_duplicates(ImageSet(pixels, ["a", "b", "c", "d"]), duplicate_rms=8)
        >>> [group.indices for group in found.groups], found.num_copies, found.num_near
        ([(0, 2), (1, 3)], 1, 1)
    """
    images = as_images(images, progress=progress)
    limit = largest_squared_distance(duplicate_rms, images.image_shape)
    equal = first_equal(images.images, flips, progress)
    group = equal
    if limit > 0:
        if index is None:
            index = NeighborIndex(images.images, flips=flips, device=device, progress=progress)
        group = _connect(index, equal, limit, progress)
    members = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[members], prepend=-1))
    runs = [run for run in np.split(members, starts[1:]) if len(run) > 1]
    return Duplicates(
        groups=tuple(
            DuplicateGroup(
                indices=tuple(run.tolist()),
                squared_distance=tuple(_distances(images.images, run, flips, device).tolist()),
                is_copy=tuple((equal[run] < run).tolist()),
            )
            for run in runs
        ),
        num_images=len(images),
        duplicate_rms=float(duplicate_rms),
        flips=flips,
    )


def duplicates_of(
    index: NeighborIndex, rows: Sequence[int], *, duplicate_rms: float | Fraction = 8
) -> dict[int, tuple[int, ...]]:
    """Find the duplicates of some images of a set: all images within the radius of each.

    Args:
        index: the index of the set.
        rows: positions of the images whose duplicates are asked for.
        duplicate_rms: radius in gray levels, ≥ 0.

    Returns:
        For each of `rows`, the positions of its duplicates, ascending, without itself.
    """
    C, H, W = index.images.shape[1:]
    limit = largest_squared_distance(duplicate_rms, (C, H, W))
    num_images = len(index.images)
    found: dict[int, tuple[int, ...]] = {}
    k, todo = min(FIRST_K, num_images), np.array(rows, dtype=np.int64)
    while len(todo):
        unfinished = [todo[:0]]
        for block in _blocks(todo, index.images[:1].nbytes + 64 * k):
            near = index.nearest(index.images[block], k)
            within = near.squared_distance <= limit
            is_done = ~within[:, -1] | (k == num_images)
            for i in np.flatnonzero(is_done):
                row = int(block[i])
                found[row] = tuple(sorted({*near.index[i, within[i]].tolist()} - {row}))
            unfinished.append(block[~is_done])
        k, todo = min(WIDENING * k, num_images), np.concatenate(unfinished)
    return found


def find_shared_images(train: ImageSet, holdout: ImageSet) -> list[SharedImage]:
    """Find held-out images that equal a training image in every value.

    Returns:
        One for each such held-out image, in their order.
    """
    # Only the digests of the held-out images are kept: the training set may be the large one.
    by_digest: dict[bytes, list[int]] = {}
    for j, image in enumerate(holdout.images):
        by_digest.setdefault(_digest(image), []).append(j)
    found: dict[int, int] = {}
    for i, image in enumerate(train.images):
        for j in by_digest.get(_digest(image), ()):
            if j not in found and np.array_equal(image, holdout.images[j]):
                found[j] = i
    return [SharedImage(found[j], j) for j in sorted(found)]


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def first_equal(images: np.ndarray, flips: bool, progress: Progress = silent) -> np.ndarray:
    """The first image that equals each image, often itself: int64 [N].

    Args:
        images: uint8 [N, C, H, W]; may be memory-mapped.
        flips: whether an image also equals its mirror image.
        progress: told how many images have been read.
    """
    first: dict[bytes, int] = {}
    result = np.empty(len(images), dtype=np.int64)
    for block in _blocks(np.arange(len(images)), images[:1].nbytes):
        orientations = [np.ascontiguousarray(images[block[0] : block[-1] + 1])]
        if flips:
            orientations.append(np.ascontiguousarray(orientations[0][..., ::-1]))
        for i, *pixels in zip(block.tolist(), *orientations, strict=True):
            # The smaller hash is the same for an image and its mirror image.
            digest = min(map(_digest, pixels))
            result[i] = first.setdefault(digest, i)
        progress("Looking for equal images", int(block[-1]) + 1, len(images))
    return result


def _connect(index: NeighborIndex, group: np.ndarray, limit: int, progress: Progress) -> np.ndarray:
    """Join groups with images within the limit of each other.

    Args:
        index: the index of the N images.
        group: the first image that equals each image, int64 [N].
        limit: the largest S of two duplicates.

    Returns:
        The first image of each image's group, int64 [N].
    """
    num_images = len(group)
    k = min(FIRST_K, num_images)
    open_ends = np.unique(group)  # images that may have more neighbors within the limit
    while True:
        # A pair that was not seen has two open ends, so one of the groups need not search.
        in_largest = group[open_ends] == np.bincount(group[open_ends], minlength=1).argmax()
        waiting, searching = open_ends[in_largest], open_ends[~in_largest]
        still_open = [waiting]
        done = 0
        for block in _blocks(searching, index.images[:1].nbytes + 64 * k):
            near = index.nearest(index.images[block], k)
            within = near.squared_distance <= limit
            group = _join(group, np.repeat(block, k)[within.ravel()], near.index[within])
            still_open.append(block[within[:, -1]])
            done += len(block)
            progress(f"Comparing with the {k - 1} nearest", done, len(searching))
        open_ends = np.concatenate(still_open)
        if k == num_images or not len(searching):
            return group
        k = min(WIDENING * k, num_images)


def _join(group: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Join the groups of M pairs of images: group int64 [N], one and other int64 [M]."""
    from scipy.sparse import coo_array  # slow to import, and a scan does not need them
    from scipy.sparse.csgraph import connected_components

    N = len(group)
    ends = np.concatenate([np.arange(N), one]), np.concatenate([group, other])
    pairs = coo_array((np.ones(len(ends[0]), dtype=bool), ends), shape=(N, N))
    _, label = connected_components(pairs, directed=False)
    _, first = np.unique(label, return_index=True)
    joined: np.ndarray = first[label]
    return joined


def _distances(
    images: np.ndarray, run: np.ndarray, flips: bool, device: str | torch.device
) -> np.ndarray:
    """S between the first image of a run and each image of it, int64."""
    first = images[run[:1]]
    rows = images.reshape(len(images), -1)
    zeros = np.zeros(len(run), dtype=np.int64)
    S = [
        pair_distances(x.reshape(1, -1), rows, zeros, run, device=torch.device(device))
        for x in ([first, first[..., ::-1].copy()] if flips else [first])
    ]
    smallest: np.ndarray = np.minimum.reduce(S)
    return smallest


def _blocks(rows: np.ndarray, row_bytes: int) -> Iterator[np.ndarray]:
    """Rows in blocks of at most BLOCK_BYTES, or of one row."""
    size = max(1, BLOCK_BYTES // row_bytes)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
