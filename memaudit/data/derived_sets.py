"""Training sets made of others: other labels, two sources mixed, images repeated.

Each function returns a new set and is the same on every machine. `select` in subsets.py takes a
part of a set.
"""

from dataclasses import replace
from typing import Literal

import numpy as np

from memaudit.data.images import ImageSet
from memaudit.data.subsets import select
from memaudit.errors import DataError

LabelScheme = Literal["true", "none", "random", "unique"]


def with_labels(
    images: ImageSet, scheme: LabelScheme, *, num_classes: int | None = None, seed: int = 0
) -> ImageSet:
    """The same images under the paper's label schemes.

    Args:
        images: the set.
        scheme: "true" keeps the labels, "none" takes them away, "random" draws one of
            `num_classes` for each image, "unique" makes every image a class of its own.
        num_classes: C of random labels; other schemes decide it themselves.
        seed: of random labels.

    Raises:
        DataError: true labels are asked for, and there are none.
        ValueError: an unknown scheme, or a number of classes where none or one is needed.
    """
    if scheme not in ("true", "none", "random", "unique"):
        raise ValueError(f"scheme must be 'true', 'none', 'random' or 'unique', got {scheme!r}")
    if scheme == "random" and (num_classes is None or num_classes < 1):
        raise ValueError(f"random labels need num_classes, at least 1; got {num_classes}")
    if scheme != "random" and num_classes is not None:
        raise ValueError(f"num_classes is for random labels; {scheme} labels decide it themselves")

    if scheme == "true":
        if images.labels is None:
            raise DataError(
                f"{images.source} has no labels; put its images in one folder a class, add a "
                "dataset.json or a `labels` array, or choose another label scheme."
            )
        return images
    labels = None
    if num_classes is not None:  # the scheme is "random"
        # RandomState and not a Generator: its stream is frozen.
        rng = np.random.RandomState(seed % 2**31)
        labels = rng.randint(0, num_classes, len(images), np.int64)
    elif scheme == "unique":
        labels = np.arange(len(images), dtype=np.int64)
    return replace(images, labels=labels, class_names=())


def mix(first: ImageSet, second: ImageSet, *, share: float, size: int, seed: int = 0) -> ImageSet:
    """`size` images of two sources without labels, the paper's mixtures by α.

    Args:
        first: where the rest is drawn from; its images come first.
        second: where round(share·size) images are drawn from, a half rounded to the even number.
        share: α, 0 … 1.
        size: how many images.
        seed: which ones, as in `select(order="random")`.

    Returns:
        The images, each named by its source and its name there.

    Raises:
        DataError: shapes differ, or a source has too few images.
        ValueError: share or size is out of range.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be 0 … 1, got {share}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if first.image_shape != second.image_shape:
        raise DataError(
            f"Images of {first.source} are {list(first.image_shape)}, those of {second.source} "
            f"{list(second.image_shape)} (channels, height, width). Only one shape can be mixed; "
            "give a resolution, and convert gray images to RGB."
        )
    num_second = round(share * size)
    parts = [
        select(images, size=number, order="random", seed=seed)
        for images, number in ((first, size - num_second), (second, num_second))
        if number
    ]
    return ImageSet(
        np.concatenate([part.images for part in parts]),
        [f"{part.source}/{name}" for part in parts for name in part.names],
        source=" and ".join(part.source for part in parts),
    )


def repeated(images: ImageSet, times: int) -> ImageSet:
    """Each image `times` times, one copy after the other.

    All copies of an image keep its name, so that a leak of any of them traces to the one file.

    Raises:
        ValueError: times is below 1.
    """
    if times < 1:
        raise ValueError(f"times must be at least 1, got {times}")
    if times == 1:
        return images
    return images.take(np.repeat(np.arange(len(images)), times))
