"""The memorization ratio of images, in one line."""

from pathlib import Path

import numpy as np

from memaudit.audit.memorization.matches import match_images
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.data.sources import as_images
from memaudit.errors import DataError


def memorization_ratio(
    generated: str | Path | np.ndarray | ImageSet,
    train: str | Path | np.ndarray | ImageSet,
    *,
    rule: Rule | None = None,
) -> Proportion:
    """The share of generated images that copy a training image, with its exact interval.

    A generated image is a copy iff ‖x − NN1‖ < t·‖x − NN2‖, where NN2 is not a duplicate of NN1
    (the distinct rule, decided in integers), or if it is a duplicate of NN1 itself: what a scan
    counts as `ratios.copies`. `scan` tells more about the same images.

    Args:
        generated: uint8 [M, C, H, W], an ImageSet, or a path that `open_images` opens; M ≥ 1.
        train: the training images, likewise; at least 2.
        rule: threshold, duplicate radius and confidence; None means `Rule()`.

    Returns:
        The copies among the generated images, with a Clopper–Pearson interval.

    Raises:
        DataError: images that cannot be opened, of different shapes, or too few.
        TypeError: images of another kind.

    Examples:
        >>> import numpy as np
        >>> from memaudit import memorization_ratio
        >>> train = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), np.uint8)
        >>> fresh = np.random.default_rng(1).integers(0, 256, (30, 3, 8, 8), np.uint8)
        >>> print(memorization_ratio(np.concatenate([train[:10], fresh]), train))
        10 of 40, 25.0 % (95 % interval 12.7 % to 41.2 %)
    """
    rule = Rule() if rule is None else rule
    images = as_images(generated)
    if not len(images):
        raise DataError(f"{images.source} holds no images. At least 1 generated image is needed.")
    matches = match_images(NeighborIndex(as_images(train).images), images.images, rule)
    hits = matches.is_copy
    return clopper_pearson(int(hits.sum()), len(hits), rule.confidence)
