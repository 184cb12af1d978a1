"""How near generated images come to the images asked about, and to their controls.

The images asked about and the held-out controls form one pool, and every number of an image follows
from the generated images by the same rule, whichever of the pool it is. So if the model treats an
image as it treats the controls, each rank of its number among theirs is equally likely. Where the
training set holds the image, it is left out of the references, since it holds no control.

Legend: B generated images, P images of the pool, N training images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.audit.memorization.matches import match_images
from memaudit.audit.memorization.rule import Rule, memorized
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.units import largest_squared_distance

BLOCK_BYTES = 64 << 20
"""Most bytes of the distances computed at a time, for each of a few arrays."""
MOST_ROWS = 1024
"""Most generated images compared at a time."""
NEARLY = 1e-9
"""Distance ratios within this of the threshold are decided in integers."""


@dataclass(frozen=True)
class Closeness:
    """Some generated images, compared with every image of the pool."""

    squared_distance: np.ndarray
    """[B, P]: S(x, z), int64 between pixels, float64 between features."""
    reference: np.ndarray
    """[B, P], of the same type: S between x and the nearest image that is not z or like it; -1 if
    there is none."""
    is_copy: np.ndarray
    """bool [B, P]: whether x is a copy of z by whole images, or by a further rule."""
    by_rules: np.ndarray
    """bool [B, P]: whether it is one by a further rule."""
    rules_alone: dict[tuple[int, int], str]
    """Which rules find x a copy of z, and how it was changed in their words, by the places of x and
    z; only where whole images do not show it."""

    @property
    def ratio(self) -> np.ndarray:
        """float64 [B, P]: sqrt(S/reference), as a distance ratio; 1 without a reference or where
        both are 0."""
        S, reference = self.squared_distance, self.reference
        squared = np.where((reference == 0) & (S > 0), np.inf, 1.0)
        np.divide(S, reference, out=squared, where=reference > 0)
        ratio: np.ndarray = np.sqrt(squared)
        return ratio


@dataclass(frozen=True)
class Pool:
    """Images whose place among generated images is compared."""

    index: ImageSearch
    """The index of the P images, those asked about first."""
    num_asked: int
    alike: np.ndarray
    """bool [P, P]: whether one cannot be the second neighbor of a copy of the other: they are
    duplicates, or near to one training image. Every image is like itself."""
    distance_to_other: np.ndarray
    """float64 [P]: in RMS gray levels, to the nearest control that is not like the image; 0 without
    one."""
    training: ImageSearch | None
    """The index of the training images, or None without any."""
    left_out: np.ndarray
    """int64: positions of training images that are no references, since an image of the pool is in
    their place."""
    rule: Rule
    everything: ImageSearch | None
    """The index of the pool followed by the training images that are references, with the further
    rules that count; None where only whole images do."""

    @property
    def images(self) -> np.ndarray:
        """uint8 [P, C, H, W]."""
        return self.index.images

    @property
    def num_controls(self) -> int:
        """Images that are not asked about."""
        return len(self.images) - self.num_asked

    @property
    def rows_at_a_time(self) -> int:
        """Generated images to compare at a time."""
        return _rows_at_a_time(len(self.images))

    def compare(self, generated: np.ndarray) -> Closeness:
        """Compare generated images with all of the pool.

        A generated image x copies z by the rule of a scan: ‖x − z‖ < t·‖x − y‖, y the nearest
        reference that is not like z; or it lies within the duplicate radius of z. References are
        the training images and the pool.

        Args:
            generated: uint8 [B, C, H, W].
        """
        near = self.index.nearest(generated, len(self.images))
        order, in_order = near.index, near.squared_distance
        S = np.empty_like(in_order)
        np.put_along_axis(S, order, in_order, axis=1)

        # The nearest of the pool that is not like z: for most z it is the nearest of all.
        reference = np.repeat(in_order[:, :1], S.shape[1], axis=1)
        x, z = np.nonzero(self.alike[order[:, 0]])
        rank = 1
        while len(x):
            if rank == S.shape[1]:
                reference[x, z] = -1
                break
            is_other = ~self.alike[z, order[x, rank]]
            reference[x[is_other], z[is_other]] = in_order[x[is_other], rank]
            x, z = x[~is_other], z[~is_other]
            rank += 1

        outside = self._nearest_outside(generated)
        if outside is not None:
            has_none = reference < 0
            at_hand = outside[:, None] >= 0
            nearer = np.where(has_none, outside[:, None], np.minimum(reference, outside[:, None]))
            reference = np.where(at_hand, nearer, reference)
        by_rules, whole = np.zeros(S.shape, dtype=bool), self._copies(S, reference)
        alone: dict[tuple[int, int], str] = {}
        if self.everything is not None:
            for found in match_images(self.everything, generated, self.rule).finds:
                rows = np.flatnonzero((found.index >= 0) & (found.index < len(self.images)))
                by_rules[rows] |= self.alike[found.index[rows]]
                for i in rows:
                    how = f"{found.rule} ({found.where[i]})" if found.where[i] else found.rule
                    for q in np.flatnonzero(self.alike[found.index[i]] & ~whole[i]):
                        before = alone.get((int(i), int(q)))
                        alone[int(i), int(q)] = how if before is None else f"{before}, {how}"
        return Closeness(S, reference, whole | by_rules, by_rules, alone)

    def _copies(self, S: np.ndarray, reference: np.ndarray) -> np.ndarray:
        is_copy = np.zeros(S.shape, dtype=bool)
        t = self.rule.threshold
        maybe = (reference > 0) & (S <= (float(t) ** 2 + NEARLY) * reference)
        is_copy[maybe] = memorized(S[maybe], reference[maybe], t)
        if self.index.space.exact:
            limit = largest_squared_distance(self.rule.duplicate_rms, self.images.shape[1:])
            is_copy |= limit >= S
        return is_copy

    def _nearest_outside(self, generated: np.ndarray) -> np.ndarray | None:
        """S between each image and the nearest training image that is a reference, or -1; [B]."""
        if self.training is None:
            return None
        k = min(len(self.training.images), 1 + len(self.left_out))
        near = self.training.nearest(generated, k)
        counts = ~np.isin(near.index, self.left_out)
        first = counts.argmax(1)
        S = np.take_along_axis(near.squared_distance, first[:, None], 1)[:, 0]
        found: np.ndarray = np.where(counts.any(1), S, -1)
        return found


def make_pool(
    index: ImageSearch,
    num_asked: int,
    rule: Rule,
    *,
    training: ImageSearch | None,
    in_place: Sequence[np.ndarray],
    everything: ImageSearch | None = None,
) -> Pool:
    """Put the images asked about and their controls together.

    Args:
        index: of the P images, those asked about first.
        num_asked: how many these are.
        rule: what counts as a copy.
        training: the index of the training images, or None without any.
        in_place: for each image the positions of the training images that it equals or is near to.
        everything: as in `Pool`.
    """
    pixels = NeighborIndex(index.images, device=index.device, flips=index.flips)
    limit = largest_squared_distance(rule.duplicate_rms, index.images.shape[1:])
    num_images = len(index.images)
    alike = np.eye(num_images, dtype=bool)
    members: dict[int, list[int]] = {}
    for z, positions in enumerate(in_place):
        for position in positions.tolist():
            members.setdefault(position, []).append(z)
    for together in members.values():
        alike[np.ix_(together, together)] = True
    to_other = np.zeros(num_images)
    step = _rows_at_a_time(num_images)
    for start in range(0, num_images, step):
        near = pixels.nearest(index.images[start : start + step], num_images)
        rows = np.arange(start, start + len(near.index))
        column = rows[:, None]
        alike[column, near.index] |= near.squared_distance <= limit
        # Not the other images asked about: those of one person, or of one day, are near each other.
        others = ~alike[column, near.index] & (near.index >= num_asked)
        first = others.argmax(1)[:, None]
        S = np.take_along_axis(near.squared_distance, first, 1)[:, 0]
        levels = np.sqrt(S / index.images[0].size)
        to_other[rows] = np.where(others.any(1), levels, 0.0)
    left_out = positions_of(in_place)
    return Pool(index, num_asked, alike, to_other, training, left_out, rule, everything)


def positions_of(in_place: Sequence[np.ndarray]) -> np.ndarray:
    """Positions of the training images in whose place an image of the pool is, int64, ascending."""
    found: np.ndarray = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *in_place]))
    return found


def _rows_at_a_time(num_images: int) -> int:
    """Images to compare with a whole pool at a time."""
    return int(np.clip(BLOCK_BYTES // (8 * num_images), 1, MOST_ROWS))
