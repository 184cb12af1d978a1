"""Search again: the rows of matches.csv against the images themselves."""

from collections.abc import Iterator

import numpy as np
import torch

from memaudit.audit.memorization.matches import Matches, match_images
from memaudit.audit.neighbors.integer_distances import pair_distances
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.results import DistinctNeighbors
from memaudit.audit.neighbors.rules.rule import Finds
from memaudit.audit.neighbors.units import largest_squared_distance
from memaudit.audit.report.tables import MatchTable
from memaudit.audit.verification.check import Check, check
from memaudit.data.images import ImageSet
from memaudit.progress import Progress
from memaudit.wording import shown

SEARCH = "search"
BLOCK = 512
"""Rows whose training images are compared at a time."""
MOST_FROM_ONE_GROUP = 16
"""Rows of a block with both neighbors of one group that are looked into: there should be none, but
where all of the other groups are duplicates of the first neighbor."""


def check_search(
    index: NeighborIndex, images: ImageSet, table: MatchTable, progress: Progress
) -> Check:
    """Search all given images again: neighbors and distances must be the same integers."""
    found = match_images(index, images.images, table.matches.rule, progress=progress)
    differing = differing_rows(found.neighbors, table.matches.neighbors)
    for one, other in zip(found.finds, table.matches.finds, strict=True):
        differing |= differing_finds(one, other)
    if not differing.any():
        return Check(SEARCH, True, "")
    first = int(np.flatnonzero(differing)[0])
    return Check(
        SEARCH,
        False,
        f"gives other neighbors or distances for {int(differing.sum()):,} of {len(differing):,} "
        f"images, first for {shown(table.keys[first])}: {_row(found, first)} instead of "
        f"{_row(table.matches, first)}",
    )


def differing_rows(found: DistinctNeighbors, stated: DistinctNeighbors) -> np.ndarray:
    """Rows that are not the same in everything: bool [M]."""
    differing: np.ndarray = np.any(
        [
            (found.index != stated.index).any(1),
            (found.squared_distance != stated.squared_distance).any(1),
            (found.index_distinct != stated.index_distinct).any(0),
            (found.squared_distance_distinct != stated.squared_distance_distinct).any(0),
        ],
        axis=0,
    )
    return differing


def differing_finds(found: Finds, stated: Finds) -> np.ndarray:
    """Rows that are not the same in everything: bool [M]."""
    differing: np.ndarray = np.any(
        [
            found.index != stated.index,
            found.squared_distance != stated.squared_distance,
            found.num_values != stated.num_values,
            np.array(found.where, dtype=object) != np.array(stated.where, dtype=object),
        ],
        axis=0,
    )
    return differing


def check_possible(data: ImageSet, table: MatchTable, *, flips: bool) -> Iterator[Check]:
    """What the training images alone say of the rows: distances that no image could have.

    By the triangle inequality, two training images are at most d1 + d2 apart and, without
    mirroring, at least |d2 − d1|. Which of them are duplicates of each other is exact.

    Args:
        data: the training images, N; all indices in the table are in 0 … N − 1.
        table: matches.csv.
        flips: whether mirror images counted.
    """
    near = table.matches.neighbors
    wrong = np.zeros(len(near), dtype=bool)
    radii = [largest_squared_distance(radius, data.image_shape) for radius in near.radii]
    d1, d2 = np.sqrt(near.squared_distance.T)
    for rows in _blocks(len(near)):
        first = data.images[near.index[rows, 0]]
        apart = distances_apart(first, data.images[near.index[rows, 1]], flips=flips)
        wrong[rows] |= ~_is_possible(apart, d1[rows], d2[rows], flips=flips)
        for position, limit in enumerate(radii):
            distinct = near.index_distinct[position, rows]
            # Whatever is passed over for the distinct one is a duplicate of the first, or of its
            # group.
            passed_over = (distinct != near.index[rows, 1]) & (apart > limit)
            there = distinct >= 0
            if data.group_numbers is not None:
                group, first_group = data.group_numbers, data.group_numbers[near.index[rows, 0]]
                passed_over &= group[near.index[rows, 1]] != first_group
                again = there & (group[distinct] == first_group)
                if again.any():
                    tried = np.flatnonzero(again)[:MOST_FROM_ONE_GROUP]
                    wrong[rows][tried] |= [
                        _has_other(data, index, limit, flips=flips)
                        for index in near.index[rows, 0][tried]
                    ]
            wrong[rows] |= passed_over
            other = distances_apart(first, data.images[np.where(there, distinct, 0)], flips=flips)
            d = np.sqrt(np.maximum(near.squared_distance_distinct[position, rows], 0))
            possible = (other > limit) & _is_possible(other, d1[rows], d, flips=flips)
            wrong[rows] |= there & ~possible
    detail = ""
    if wrong.any():
        key = table.keys[int(np.flatnonzero(wrong)[0])]
        detail = (
            f"of {int(wrong.sum()):,} rows, first of {shown(key)}, cannot be: the training images "
            "that they name are nearer to each other or farther apart than that"
        )
    yield check("neighbors and distances", not wrong.any(), detail)


def _has_other(data: ImageSet, first: int, limit: int, *, flips: bool) -> bool:
    """Whether an image of another group is not a duplicate of this one, and so comes first."""
    assert data.group_numbers is not None
    others = np.flatnonzero(data.group_numbers != data.group_numbers[first])
    for block in _blocks(len(others)):
        images = data.images[others[block]]
        one = np.broadcast_to(data.images[first], images.shape)
        if (distances_apart(one, images, flips=flips) > limit).any():
            return True
    return False


def _is_possible(
    squared_apart: np.ndarray, d1: np.ndarray, d2: np.ndarray, *, flips: bool
) -> np.ndarray:
    """Whether an image can be at d1 and d2 from two images that are so far apart."""
    apart = np.sqrt(squared_apart)
    rounding = 1e-9 * (d1 + d2) + 1e-9
    possible: np.ndarray = apart <= d1 + d2 + rounding
    if not flips:
        possible &= apart >= np.abs(d2 - d1) - rounding
    return possible


def distances_apart(x: np.ndarray, y: np.ndarray, *, flips: bool) -> np.ndarray:
    """S between the images of each pair, in the nearer orientation if `flips`.

    Args:
        x, y: uint8 [B, C, H, W] each.
        flips: whether an image also counts as its mirror image.

    Returns:
        int64 [B].
    """
    pairs, device = np.arange(len(x)), torch.device("cpu")
    rows = np.ascontiguousarray(y).reshape(len(y), -1)
    orientations = [x, x[..., ::-1]] if flips else [x]
    S: np.ndarray = np.minimum.reduce(
        [
            pair_distances(
                np.ascontiguousarray(each).reshape(rows.shape), rows, pairs, pairs, device=device
            )
            for each in orientations
        ]
    )
    return S


def _blocks(total: int) -> Iterator[slice]:
    for start in range(0, total, BLOCK):
        yield slice(start, start + BLOCK)


def _row(matches: Matches, row: int) -> str:
    S1, S2 = matches.squared_distance1[row], matches.squared_distance2[row]
    return f"{matches.nn1[row]} and {matches.nn2[row]} at {S1} and {S2} (squared)"
