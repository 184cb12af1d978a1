"""Copies of mirrored training images: S'(x, y) = min(S(x, y), S(x, flip y)), by the plain rule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from memaudit.audit.neighbors.rules.rule import CopyRule, Pool, RuleSearch, Searched, Shown

if TYPE_CHECKING:
    from memaudit.audit.neighbors.base import ImageSearch
    from memaudit.audit.neighbors.config import IndexConfig
    from memaudit.audit.neighbors.rules.finder import Pairs
    from memaudit.progress import Progress

NAME = "flips"


def _open(index: ImageSearch, config: IndexConfig, progress: Progress) -> RuleSearch | None:
    from memaudit.audit.neighbors.pixel_index import NeighborIndex
    from memaudit.audit.neighbors.rules.finder import CopyFinder
    from memaudit.audit.neighbors.rules.parts import WindowRule
    from memaudit.audit.neighbors.rules.window import Window

    if index.flips:
        return None

    def pools(images: np.ndarray) -> Iterator[Pool]:
        search = NeighborIndex(
            images, device=index.device, flips=True, memory_limit=config.memory_limit
        )
        yield search.nearest

    def describe(images: np.ndarray, found: Pairs) -> tuple[str, ...]:
        return tuple("mirrored" if each else "as it is" for each in found.mirrored.tolist())

    window = Window(0, 0, *index.images.shape[2:])
    finder = CopyFinder(index, window, flips=True, within_radius=True, progress=progress)
    return WindowRule(NAME, finder, describe=describe, pools=pools)


def _show(original: np.ndarray, where: str) -> Shown:
    return Shown(original[..., ::-1] if where == "mirrored" else original)


def _can_be(where: str, num_values: int, searched: Searched) -> bool:
    return where in ("mirrored", "as it is") and num_values == math.prod(searched.image_shape)


RULE = CopyRule(
    NAME,
    "the rule above, with mirrored training images as well",
    _open,
    has_levels=True,
    show=_show,
    can_be=_can_be,
)
