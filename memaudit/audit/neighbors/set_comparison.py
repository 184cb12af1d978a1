"""Are two sets the same images? Equal ones, nearly equal ones, mirrored ones, and the rest.

Within a radius of r gray levels, x and y are nearly equal if S(x, y) ≤ ⌊r²·D⌋, in integers. Images
without such a counterpart may be the same pictures prepared otherwise: a sample of them is compared
at a low resolution with several crops of the other set, and counts where one image is less than a
third as far away as the next.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.units import largest_squared_distance, rms_gray_levels
from memaudit.data.images import ImageSet
from memaudit.progress import Progress, silent

SAMPLED = 200
"""Images without a counterpart that are compared at a low resolution."""
LOW_RESOLUTION = 16
CROPS = (0.95, 0.9, 0.875, 0.8)
"""Shares of the shorter side that a crop of one set may have kept of the other's."""
_RATIO_SQUARED = 9
"""(d2/d1)² from which the nearest image is taken for the same picture."""
_SEED = 0
_BLOCK = 1024


@dataclass(frozen=True)
class Counterpart:
    """An image of one set beside one of the other."""

    first: int
    """Position in the first set."""
    second: int
    """Position in the second set."""
    rms: float
    """Their distance in gray levels."""


@dataclass(frozen=True)
class Side:
    """What one set has in common with the other: its images, each counted once."""

    num_images: int
    num_equal: int
    """Images that equal one of the other set in every value."""
    num_near: int
    """Further images within the radius of one of the other set."""
    num_mirrored: int
    """Further images within the radius of the mirror image of one of the other set."""
    alone: tuple[int, ...]
    """Positions of all others."""


@dataclass(frozen=True)
class SetComparison:
    """What two sets have in common."""

    is_same: bool
    """Whether both have the same images in the same order: their fingerprints are equal."""
    is_reordered: bool
    """Whether both have the same images, each equally often, in another order."""
    duplicate_rms: float
    """The radius, in gray levels."""
    first: Side
    second: Side
    near: tuple[Counterpart, ...]
    """The nearly equal images of the first set beside the nearest of the second."""
    mirrored: tuple[Counterpart, ...]
    num_sampled: int
    """Images of the first set without a counterpart that were compared at a low resolution."""
    num_prepared_otherwise: int
    """How many of these are the same picture as one of the second set, cropped or resized."""

    @property
    def summary(self) -> str:
        """What follows, in a sentence."""
        one, other = self.first, self.second
        if self.is_same:
            return "They are the same images in the same order."
        if self.is_reordered:
            return "They are the same images in another order."
        if not one.alone and not other.alone:
            kinds = [
                word
                for word, number in (
                    ("some nearly equal", one.num_near + other.num_near),
                    ("some mirrored", one.num_mirrored + other.num_mirrored),
                )
                if number
            ]
            if one.num_images != other.num_images or not kinds:
                kinds.append("some more than once")
            return f"They are the same images, {' and '.join(kinds)}."
        if self.num_prepared_otherwise > 0.9 * self.num_sampled > 0:
            return (
                "They hold the same pictures, prepared otherwise: cropped, resized or colored in "
                "another way."
            )
        if not one.alone:
            return "The first set is a part of the second."
        if not other.alone:
            return "The second set is a part of the first."
        if len(one.alone) == one.num_images:
            return "They have no image in common."
        return "They have a part of their images in common."


def compare_sets(
    first: ImageSet,
    second: ImageSet,
    *,
    duplicate_rms: float,
    device: str = "cpu",
    progress: Progress = silent,
) -> SetComparison:
    """Compare two sets image by image.

    Args:
        first, second: the sets; images of other shapes are compared at a low resolution only.
        duplicate_rms: radius of nearly equal images, in gray levels.
        device: where to search.
        progress: told how far the search is.
    """
    if first.fingerprint == second.fingerprint:
        one, other = (Side(len(images), len(images), 0, 0, ()) for images in (first, second))
        return SetComparison(True, False, duplicate_rms, one, other, (), (), 0, 0)
    is_reordered = False
    if first.image_shape == second.image_shape:
        digests, others = list(_digests(first)), list(_digests(second))
        is_reordered = sorted(digests) == sorted(others)
        rest = _unequal(digests, others)
        one, near, mirrored = _counterparts(first, rest, second, duplicate_rms, device, progress)
        rest = _unequal(others, digests)
        other, *_ = _counterparts(second, rest, first, duplicate_rms, device, progress)
    else:
        one, other = (
            Side(len(images), 0, 0, 0, tuple(range(len(images)))) for images in (first, second)
        )
        near = mirrored = []
    sampled, otherwise = 0, 0
    if one.alone and other.alone:
        rng = np.random.default_rng(_SEED)
        number = min(SAMPLED, len(one.alone))
        sample = np.sort(rng.choice(np.array(one.alone), number, replace=False))
        sampled = number
        otherwise = _prepared_otherwise(first, sample, second, device)
    return SetComparison(
        is_same=False,
        is_reordered=is_reordered,
        duplicate_rms=duplicate_rms,
        first=one,
        second=other,
        near=tuple(near),
        mirrored=tuple(mirrored),
        num_sampled=sampled,
        num_prepared_otherwise=otherwise,
    )


def _counterparts(
    images: ImageSet,
    rest: np.ndarray,
    others: ImageSet,
    duplicate_rms: float,
    device: str,
    progress: Progress,
) -> tuple[Side, list[Counterpart], list[Counterpart]]:
    """What becomes of `images`, of which those at `rest` equal none of the others."""
    num_equal = len(images) - len(rest)
    found: list[list[Counterpart]] = [[], []]
    if len(rest):
        limit = largest_squared_distance(duplicate_rms, images.image_shape)
        both = NeighborIndex(others.images, device=device, flips=True, progress=progress)
        for kind, index in zip(found, (both.without_flips(), both), strict=True):
            matched = []
            for start in range(0, len(rest), _BLOCK):
                rows = rest[start : start + _BLOCK]
                nearest = index.nearest(images.images[rows], 1)
                pairs = zip(
                    rows.tolist(),
                    nearest.index[:, 0].tolist(),
                    nearest.squared_distance[:, 0].tolist(),
                    strict=True,
                )
                for row, other, S in pairs:
                    if S <= limit:
                        kind.append(Counterpart(row, other, rms_gray_levels(S, images.image_shape)))
                        matched.append(row)
                progress("Comparing images", min(start + _BLOCK, len(rest)), len(rest))
            rest = np.setdiff1d(rest, np.array(matched, dtype=np.int64))
            if not len(rest):
                break
    near, mirrored = found
    side = Side(len(images), num_equal, len(near), len(mirrored), tuple(rest.tolist()))
    return side, near, mirrored


def _digests(images: ImageSet) -> Iterator[bytes]:
    for image in images.images:
        yield hashlib.sha256(np.ascontiguousarray(image).data).digest()


def _unequal(digests: Sequence[bytes], others: Sequence[bytes]) -> np.ndarray:
    """Positions of the images that equal none of the others: int64."""
    known = set(others)
    return np.array([i for i, each in enumerate(digests) if each not in known], dtype=np.int64)


def _prepared_otherwise(first: ImageSet, sample: np.ndarray, second: ImageSet, device: str) -> int:
    """How many images of the sample are the same pictures as some of the second set."""
    if len(second) < 2:
        return 0
    gray = first.image_shape[0] != second.image_shape[0]
    found = np.zeros(len(sample), bool)

    def search(index: NeighborIndex, share: float) -> None:
        queries = _small(first.images[sample], share, gray)
        nearest = index.nearest(queries, 2).squared_distance
        found[_RATIO_SQUARED * nearest[:, 0] < nearest[:, 1]] = True

    whole = NeighborIndex(_small(second.images, 1.0, gray), device=device, flips=True)
    for share in (1.0, *CROPS):
        search(whole, share)
    for share in CROPS:
        if found.all():
            break
        search(NeighborIndex(_small(second.images, share, gray), device=device, flips=True), 1.0)
    return int(found.sum())


def _small(images: np.ndarray, share: float, gray: bool) -> np.ndarray:
    """The center of each image at a low resolution: uint8 [B, C, H, W] → [B, C, 16, 16]."""
    _, _, H, W = images.shape
    side = min(H, W) * share
    box = ((W - side) / 2, (H - side) / 2, (W + side) / 2, (H + side) / 2)
    size = (LOW_RESOLUTION, LOW_RESOLUTION)

    def planes(image: np.ndarray) -> Sequence[np.ndarray]:
        return [image.mean(0).round().astype(np.uint8)] if gray else list(image)

    return np.stack(
        [
            np.stack(
                [
                    np.asarray(
                        Image.fromarray(np.ascontiguousarray(plane)).resize(
                            size, Image.Resampling.BOX, box=box
                        )
                    )
                    for plane in planes(image)
                ]
            )
            for image in images
        ]
    )
