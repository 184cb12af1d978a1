"""Copies of a part: tiles of 2×2 and of 3×3, of which two or more are copies of one image.

A tile is a copy by the rule of whole images: it is less than a third as far from the tile of one
training image as from that of the second, which is not a duplicate of the first in pixels of the
whole image. So a tile that several images share, such as a white corner, is a copy of none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from memaudit.audit.neighbors.results import Neighbors
from memaudit.audit.neighbors.rules.rule import (
    CopyRule,
    Criteria,
    Finds,
    Pool,
    RuleSearch,
    Searched,
    Shown,
    too_small,
)

if TYPE_CHECKING:
    from memaudit.audit.neighbors.base import ImageSearch
    from memaudit.audit.neighbors.config import IndexConfig
    from memaudit.audit.neighbors.pixel_index import NeighborIndex
    from memaudit.audit.neighbors.rules.window import Window
    from memaudit.progress import Progress

NAME = "tiles"
GRIDS = (2, 3)
"""Tiles along an edge."""
LEAST_TILES = 2
"""Tiles of one grid that have to be copies of one training image."""
SMALLEST_TILE = 4
"""Pixels along an edge of a tile: smaller ones hold too little to be recognized."""

WHERE = re.compile(r"tiles [1-9](?:, [1-9])* and [1-9] of ([23])×\1(, mirrored)?")


def tile_edges(size: int, grid: int) -> list[int]:
    """Where the tiles along an edge of `size` pixels begin and end."""
    return [round(size * i / grid) for i in range(grid + 1)]


def tiles_of(where: str) -> tuple[int, tuple[int, ...]]:
    """Grid and numbers of the tiles that a text of this rule names.

    Examples:
        >>> tiles_of("tiles 1 and 3 of 2×2")
        (2, (1, 3))
    """
    numbers, _, grid = where.removesuffix(", mirrored").removeprefix("tiles ").partition(" of ")
    return int(grid.split("×")[0]), tuple(int(n) for n in numbers.replace(" and", ",").split(", "))


def _text(grid: int, tiles: list[int], mirrored: bool) -> str:
    numbers = [str(tile + 1) for tile in tiles]
    listed = f"{', '.join(numbers[:-1])} and {numbers[-1]}"
    return f"tiles {listed} of {grid}×{grid}{', mirrored' if mirrored else ''}"


class TilesRule(RuleSearch):
    """The tiles of every grid, each with its own bounds."""

    name = NAME

    def __init__(self, index: ImageSearch, config: IndexConfig, progress: Progress) -> None:
        """Index the tiles of the training images."""
        from memaudit.audit.neighbors.rules.finder import CopyFinder
        from memaudit.audit.neighbors.rules.window import Window

        self._index, self._config = index, config
        H, W = index.images.shape[2:]
        self._finders = {}
        for grid in GRIDS:
            if min(H, W) < grid * SMALLEST_TILE:
                continue
            rows, columns = tile_edges(H, grid), tile_edges(W, grid)
            self._finders[grid] = [
                CopyFinder(
                    index,
                    Window(top, left, rows[i + 1] - top, columns[j + 1] - left),
                    progress=progress,
                )
                for i, top in enumerate(rows[:-1])
                for j, left in enumerate(columns[:-1])
            ]
        self.num_bytes = sum(
            finder.num_bytes for finders in self._finders.values() for finder in finders
        )

    def judge(
        self,
        images: np.ndarray,
        apart: np.ndarray,
        criteria: Criteria,
        *,
        left_out: np.ndarray | None = None,
    ) -> Finds:
        index = np.full(len(images), -1, dtype=np.int64)
        S, num_values = np.full_like(index, -1), np.zeros_like(index)
        where = [""] * len(images)
        for grid in self._finders:
            named = self._judge_grid(grid, images, apart, criteria, left_out)
            for row, (image, tiles, total, values, mirrored) in named.items():
                if values > num_values[row]:
                    index[row], S[row], num_values[row] = image, total, values
                    where[row] = _text(grid, tiles, mirrored)
        return Finds(NAME, index, S, num_values, tuple(where))

    def _judge_grid(
        self,
        grid: int,
        images: np.ndarray,
        apart: np.ndarray,
        criteria: Criteria,
        left_out: np.ndarray | None,
    ) -> dict[int, tuple[int, list[int], int, int, bool]]:
        """By row: the training image, its tiles, their S and values in all, whether mirrored."""
        finders = self._finders[grid]
        shape = (len(finders), len(images))
        named, S = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        mirrored = np.zeros(shape, dtype=bool)
        found = []
        for tile, finder in enumerate(finders):
            pairs = finder.candidates(images, apart, criteria, left_out)
            named[tile, pairs.query] = pairs.index
            S[tile, pairs.query] = pairs.squared_distance
            mirrored[tile, pairs.query] = pairs.mirrored
            found.append(pairs)
        for tile, finder in enumerate(finders):
            # A tile matters only where another one names the same image.
            pairs = found[tile]
            agree = (named[:, pairs.query] == pairs.index).sum(0) >= LEAST_TILES
            some = pairs[np.flatnonzero(agree)]
            stand = finder.are_copies(images, some, apart, criteria, left_out)
            named[tile] = -1
            named[tile, some.query[stand]] = some.index[stand]
        result = {}
        for row in np.flatnonzero((named >= 0).sum(0) >= LEAST_TILES).tolist():
            names, counts = np.unique(named[named[:, row] >= 0, row], return_counts=True)
            if counts.max() < LEAST_TILES:
                continue
            image = int(names[counts.argmax()])
            tiles = np.flatnonzero(named[:, row] == image).tolist()
            values = sum(finders[tile].num_values for tile in tiles)
            total = int(S[tiles, row].sum())
            result[row] = (image, tiles, total, values, bool(mirrored[tiles[0], row]))
        return result

    def pools(self, images: np.ndarray) -> Iterator[Pool]:
        from memaudit.audit.neighbors.pixel_index import NeighborIndex

        for finder in self._finders[min(self._finders)]:
            window = finder.window
            search = NeighborIndex(
                window.cut(images),
                device=self._index.device,
                memory_limit=self._config.memory_limit,
            )
            yield partial(_nearest_of_tile, search, window)


def _nearest_of_tile(
    search: NeighborIndex, window: Window, images: np.ndarray, k: int
) -> Neighbors:
    return search.nearest(window.cut(images), k)


def _open(index: ImageSearch, config: IndexConfig, progress: Progress) -> RuleSearch:
    least = GRIDS[0] * SMALLEST_TILE
    if min(index.images.shape[2:]) < least:
        raise too_small(NAME, index, least)
    return TilesRule(index, config, progress)


def _show(original: np.ndarray, where: str) -> Shown:
    grid, tiles = tiles_of(where)
    is_mirrored = where.endswith("mirrored")
    H, W = original.shape[1:]
    rows, columns = tile_edges(H, grid), tile_edges(W, grid)
    boxes = []
    for tile in tiles:
        i, j = divmod(tile - 1, grid)
        top, end, left, right = rows[i], rows[i + 1], columns[j], columns[j + 1]
        if is_mirrored:
            left, right = W - right, W - left
        boxes.append((left / W, top / H, (right - left) / W, (end - top) / H))
    return Shown(original[..., ::-1] if is_mirrored else original, tuple(boxes))


def _can_be(where: str, num_values: int, searched: Searched) -> bool:
    found = WHERE.fullmatch(where)
    if found is None or (found[2] and not searched.flips):
        return False
    grid, tiles = tiles_of(where)
    C, H, W = searched.image_shape
    if list(tiles) != sorted(set(tiles)) or tiles[-1] > grid**2 or min(H, W) < grid * SMALLEST_TILE:
        return False
    heights, widths = np.diff(tile_edges(H, grid)), np.diff(tile_edges(W, grid))
    areas = np.outer(heights, widths).ravel()
    return num_values == C * int(areas[np.array(tiles) - 1].sum())


RULE = CopyRule(
    NAME,
    "at least two of 2×2, or of 3×3, are copies of one training image, each by the rule above",
    _open,
    show=_show,
    can_be=_can_be,
)
