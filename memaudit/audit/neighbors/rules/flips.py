"""Copies of mirrored training images: S'(x, y) = min(S(x, y), S(x, flip y)), by the plain rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from memaudit.audit.neighbors.rules.rule import CopyRule, Pool, RuleSearch, Shown

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


RULE = CopyRule(
    NAME,
    "the rule above, with mirrored training images as well",
    _open,
    has_levels=True,
    show=_show,
)
