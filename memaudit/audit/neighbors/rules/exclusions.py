"""Which training images may be second neighbors: judged in pixels of whole images.

Legend: B images, N training images, M pairs.
"""

from fractions import Fraction

import numpy as np
import torch

from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.integer_distances import pair_distances
from memaudit.audit.neighbors.results import DistinctNeighbors
from memaudit.audit.neighbors.rules.rule import Criteria
from memaudit.audit.neighbors.units import largest_squared_distance

SAMPLE = 64
"""Training images tried where the neighbors do not say how far a second neighbor is at most."""


def images_apart(
    index: ImageSearch,
    near: DistinctNeighbors,
    criteria: Criteria,
    *,
    left_out: np.ndarray | None = None,
) -> np.ndarray:
    """Training images of which one at least is a second neighbor, whatever the first one is.

    Of two images with more than twice the radius between them, one cannot be a duplicate of any
    given image. With groups it takes three, of different groups: one may be a duplicate, and one of
    the group.

    Args:
        index: of the training images.
        near: the nearest ones of B images in pixels, which are preferred.
        criteria: says the radius.
        left_out: positions of the images in the training set, int64 [B], or None.

    Returns:
        int64 [B, 2 or 3]; -1 where too few are known.
    """
    known = np.concatenate([near.index, near.index_distinct.T], 1)  # -1: none
    chosen = _spread(index, known, criteria)
    missing = np.flatnonzero((chosen < 0).any(1))
    if len(missing):
        sample = _sample(index)
        more = np.broadcast_to(sample, (len(missing), len(sample)))
        if left_out is not None:
            position = left_out[missing].repeat(len(sample))
            allowed = are_allowed(index, position, more.ravel()).reshape(more.shape)
            more = np.where(allowed, more, -1)
        chosen[missing] = _spread(index, np.concatenate([known[missing], more], 1), criteria)
    return chosen


def _sample(index: ImageSearch) -> np.ndarray:
    num_images = len(index.images)
    return np.unique(np.linspace(0, num_images - 1, min(SAMPLE, num_images)).astype(np.int64))


def _spread(index: ImageSearch, known: np.ndarray, criteria: Criteria) -> np.ndarray:
    """The first ones known that are far enough apart: int64 [B, 2 or 3], or -1.

    Args:
        index: of the training images.
        known: positions to choose among, int64 [B, K]; -1: none. The first one is chosen.
        criteria: says the radius.
    """
    groups = index.groups
    limit = largest_squared_distance(2 * Fraction(criteria.duplicate_rms), index.images.shape[1:])
    chosen = np.full((len(known), 2 if groups is None else 3), -1, dtype=np.int64)
    chosen[:, 0] = known[:, 0]
    for column in range(1, chosen.shape[1]):
        fits = known >= 0
        for other in range(column):
            fits[chosen[:, other] < 0] = False
            rows, places = np.nonzero(fits)
            one, two = chosen[rows, other], known[rows, places]
            far = pixel_distances(index, one, two) > limit
            if groups is not None:
                far &= groups[one] != groups[two]
            fits[rows[~far], places[~far]] = False
        some = fits.any(1)
        chosen[some, column] = known[some, fits[some].argmax(1)]
    return chosen


def are_excluded(
    index: ImageSearch,
    first: np.ndarray,
    other: np.ndarray,
    criteria: Criteria,
    by_group: np.ndarray,
) -> np.ndarray:
    """Whether the others are duplicates of the first or, where asked, of its group: bool [M].

    Args:
        index: of the training images.
        first, other: positions of training images, int64 [M] each.
        criteria: says the radius.
        by_group: whether the group counts, bool [M].
    """
    limit = largest_squared_distance(criteria.duplicate_rms, index.images.shape[1:])
    excluded: np.ndarray = pixel_distances(index, first, other) <= limit
    if index.groups is not None:
        excluded |= by_group & (index.groups[first] == index.groups[other])
    return excluded


def are_allowed(index: ImageSearch, position: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether training images may be compared with the one that is left out: bool [M].

    Args:
        index: of the training images.
        position: of the image that is left out, int64 [M].
        other: positions of the images to compare it with, int64 [M].
    """
    allowed: np.ndarray = pixel_distances(index, position, other) > 0
    if index.groups is not None:
        allowed &= index.groups[position] != index.groups[other]
    return allowed


def have_seconds(
    index: ImageSearch, first: np.ndarray, criteria: Criteria, *, by_group: bool
) -> np.ndarray:
    """Whether some training image is not a duplicate of each, and of another group: bool [M].

    Args:
        index: of the training images.
        first: positions of training images, int64 [M].
        criteria: says the radius.
        by_group: whether it has to be of another group.
    """
    found = {}
    for each in np.unique(first).tolist():
        for others in (_sample(index), np.arange(len(index.images))):
            same, counts = np.full(len(others), each), np.full(len(others), by_group)
            found[each] = not are_excluded(index, same, others, criteria, counts).all()
            if found[each]:
                break
    return np.array([found[each] for each in first.tolist()], dtype=bool)


def pixel_distances(index: ImageSearch, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """S between whole training images, mirrored or not if the index mirrors: int64 [M]."""
    images = index.images
    if not len(one):
        return np.empty(0, dtype=np.int64)
    rows = images.reshape(len(images), -1)
    used, place = np.unique(one, return_inverse=True)
    both = [images[used], images[used][..., ::-1]] if index.flips else [images[used]]
    S = [
        pair_distances(
            np.ascontiguousarray(each).reshape(len(used), -1),
            rows,
            place.ravel(),
            two,
            device=torch.device("cpu"),
        )
        for each in both
    ]
    smallest: np.ndarray = np.minimum.reduce(S)
    return smallest
