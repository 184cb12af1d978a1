"""Copies in another brightness and contrast: mean and standard deviation are removed first.

Each image becomes 128 + 32·(u − mean)/std over its D pixel values u, rounded to integers and cut to
0 … 255. Sums of integers, one root and one division, each rounded as IEEE 754 says: the same
integers on every machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from memaudit.audit.neighbors.rules.rule import CopyRule, Pool, RuleSearch, Searched, Shown

if TYPE_CHECKING:
    from memaudit.audit.neighbors.base import ImageSearch
    from memaudit.audit.neighbors.config import IndexConfig
    from memaudit.audit.neighbors.rules.finder import Pairs
    from memaudit.progress import Progress

NAME = "tone"
MEAN, DEVIATION = 128, 32
FLATTEST = 4
"""Standard deviation in gray levels below which an image is not stretched further: what would be
compared is the rounding of its pixels."""

WHERE = re.compile(r"gain [0-9]{1,15}\.[0-9]{2}, offset [+-][0-9]{1,15}(, mirrored)?")


def without_tone(images: np.ndarray) -> np.ndarray:
    """Images with the same mean and standard deviation: uint8 [n, C, H, W].

    Examples:
        >>> image = np.array([[[[10, 20], [30, 40]]]], dtype=np.uint8)
        >>> without_tone(image).tolist() == without_tone(2 * image + 7).tolist()
        True
    """
    D = math.prod(images.shape[1:])
    rows = images.reshape(len(images), D)
    total = rows.sum(1, dtype=np.int64)[:, None]
    squares = np.square(rows.astype(np.float64)).sum(1)  # integers below 2⁵³
    variance = D * squares.astype(np.int64)[:, None] - np.square(total)  # D²·std², an integer
    root = np.sqrt(np.maximum(variance, (D * FLATTEST) ** 2).astype(np.float64))
    standard = MEAN + np.rint(DEVIATION * (D * np.arange(256) - total) / root)  # [n, 256]
    table = standard.clip(0, 255).astype(np.uint8)
    changed = np.stack([own[pixels] for own, pixels in zip(table, rows, strict=True)])
    return changed.reshape(images.shape)


def tone_of(images: np.ndarray, originals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gain and offset that make the originals' mean and deviation those of the images.

    Args:
        images, originals: uint8 [n, C, H, W] each.

    Returns:
        float64 [n] each: u ≈ gain·original + offset.
    """
    axes = (1, 2, 3)
    deviation = np.maximum(originals.std(axes), 1e-9)
    gain = images.std(axes) / deviation
    return gain, images.mean(axes) - gain * originals.mean(axes)


def _open(index: ImageSearch, config: IndexConfig, progress: Progress) -> RuleSearch:
    from memaudit.audit.neighbors.pixel_index import NeighborIndex
    from memaudit.audit.neighbors.rules.finder import CopyFinder
    from memaudit.audit.neighbors.rules.parts import WindowRule
    from memaudit.audit.neighbors.rules.window import Window

    def pools(images: np.ndarray) -> Iterator[Pool]:
        search = NeighborIndex(
            without_tone(images),
            device=index.device,
            flips=index.flips,
            memory_limit=config.memory_limit,
        )
        yield lambda queries, k: search.nearest(without_tone(queries), k)

    def describe(images: np.ndarray, found: Pairs) -> tuple[str, ...]:
        if not len(images):
            return ()
        pairs = zip(*tone_of(images, index.images[found.index]), found.mirrored, strict=True)
        return tuple(
            f"gain {gain:.2f}, offset {offset:+.0f}{', mirrored' if mirrored else ''}"
            for gain, offset, mirrored in pairs
        )

    window = Window(0, 0, *index.images.shape[2:])
    finder = CopyFinder(index, window, change=without_tone, progress=progress)
    return WindowRule(NAME, finder, describe=describe, pools=pools)


def _show(original: np.ndarray, where: str) -> Shown:
    gain, offset = (float(text.split()[1]) for text in where.split(", ")[:2])
    toned = np.rint(gain * original + offset).clip(0, 255).astype(np.uint8)
    return Shown(toned[..., ::-1] if where.endswith("mirrored") else toned)


def _can_be(where: str, num_values: int, searched: Searched) -> bool:
    found = WHERE.fullmatch(where)
    if found is None or (found[1] and not searched.flips):
        return False
    return num_values == math.prod(searched.image_shape)


RULE = CopyRule(
    NAME,
    "the rule above, after mean and contrast were removed from all images",
    _open,
    show=_show,
    can_be=_can_be,
)
