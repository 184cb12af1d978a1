"""Copies that are shifted: the smallest distance over shifts of up to 3 pixels at 32×32.

What is compared is the middle of the generated image, without a border as wide as the largest
shift, with every part of its size in a training image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from memaudit.audit.neighbors.rules.rule import (
    CopyRule,
    Pool,
    RuleSearch,
    Searched,
    Shown,
    too_small,
)

if TYPE_CHECKING:
    from memaudit.audit.neighbors.base import ImageSearch
    from memaudit.audit.neighbors.config import IndexConfig
    from memaudit.audit.neighbors.rules.finder import Pairs
    from memaudit.progress import Progress

NAME = "shift"
REACH, RESOLUTION = 3, 32
"""Pixels of the largest shift at this resolution, in proportion at others, but at least one."""

WHERE = re.compile(r"([0-9]{1,6} px (?:left|right)), ([0-9]{1,6} px (?:up|down))(, mirrored)?")


def largest_shift(size: int) -> int:
    """Pixels of the largest shift along an edge of `size` pixels; 0 where it is too short."""
    reach = max(1, round(REACH * size / RESOLUTION))
    return reach if 2 * reach < size else 0


def _open(index: ImageSearch, config: IndexConfig, progress: Progress) -> RuleSearch:
    from memaudit.audit.neighbors.rules.finder import CopyFinder
    from memaudit.audit.neighbors.rules.parts import WindowRule
    from memaudit.audit.neighbors.rules.shifted_boxes import ShiftedBoxes
    from memaudit.audit.neighbors.rules.window import Window

    H, W = index.images.shape[2:]
    reach = (largest_shift(H), largest_shift(W))
    if not any(reach):
        raise too_small(NAME, index, 3)
    window = Window(reach[0], reach[1], H - 2 * reach[0], W - 2 * reach[1], reach)

    def pools(images: np.ndarray) -> Iterator[Pool]:
        yield ShiftedBoxes(images, window, flips=index.flips).nearest

    def describe(images: np.ndarray, found: Pairs) -> tuple[str, ...]:
        # What is at (y + dy, x + dx) in the training image is at (y, x) in the generated one.
        columns = zip(found.dy.tolist(), found.dx.tolist(), found.mirrored.tolist(), strict=True)
        return tuple(
            f"{_moved(-dx, 'right', 'left')}, {_moved(-dy, 'down', 'up')}"
            f"{', mirrored' if mirrored else ''}"
            for dy, dx, mirrored in columns
        )

    finder = CopyFinder(index, window, within_radius=True, progress=progress)
    return WindowRule(NAME, finder, describe=describe, pools=pools)


def _moved(pixels: int, positive: str, negative: str) -> str:
    # Begins with a digit: a spreadsheet takes what begins with a sign for a formula.
    return f"{abs(pixels)} px {negative if pixels < 0 else positive}"


def _pixels(moved: str) -> int:
    number, _, direction = moved.split()
    return -int(number) if direction in ("left", "up") else int(number)


def _show(original: np.ndarray, where: str) -> Shown:
    right, down = (_pixels(text) for text in where.split(", ")[:2])
    H, W = original.shape[1:]
    rows, columns = np.arange(H) - down, np.arange(W) - right
    moved = original[:, rows.clip(0, H - 1)][:, :, columns.clip(0, W - 1)]  # edges repeat
    up, side = largest_shift(H), largest_shift(W)
    middle = (side / W, up / H, 1 - 2 * side / W, 1 - 2 * up / H)
    return Shown(moved[..., ::-1] if where.endswith("mirrored") else moved, (middle,))


def _can_be(where: str, num_values: int, searched: Searched) -> bool:
    found = WHERE.fullmatch(where)
    if found is None or (found[3] and not searched.flips):
        return False
    C, H, W = searched.image_shape
    up, side = largest_shift(H), largest_shift(W)
    is_near = abs(_pixels(found[1])) <= side and abs(_pixels(found[2])) <= up
    return is_near and num_values == C * (H - 2 * up) * (W - 2 * side)


RULE = CopyRule(
    NAME,
    "the rule above, between the middle of the image and the nearest part of its size in each "
    "training image",
    _open,
    has_levels=True,
    show=_show,
    can_be=_can_be,
)
