"""Choose some of the images: a number, a class, equally many of each class."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from memaudit.data.images import ImageSet
from memaudit.errors import DataError

Label = int | str


def select(
    images: ImageSet,
    *,
    size: int | None = None,
    order: Literal["first", "random"] = "first",
    seed: int = 0,
    label: Label | Sequence[Label] | None = None,
    balanced: bool = False,
) -> ImageSet:
    """A part of `images`, in the order of the whole.

    `select(images, size=N, balanced=True)` are the paper's training sets, and `order="random"`
    takes the images that EDM's `max_size` and `random_seed` take.

    Args:
        images: the whole.
        size: how many images; all by default.
        order: which ones, where size leaves a choice: the first or random ones.
        seed: which random ones, the same on every machine.
        label: only of this class or these, each by name or index; text that names no class may be
            an index too.
        balanced: equally many of each class.

    Returns:
        The images with their names and labels; `indices` are their positions in the source.

    Raises:
        DataError: more images than there are, no labels, an unknown class, or a size that the
            number of classes does not divide.
        ValueError: an unknown order, a size below 1, no class, balanced without a size.
    """
    if order not in ("first", "random"):
        raise ValueError(f"order must be 'first' or 'random', got {order!r}")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if balanced and size is None:
        raise ValueError("a balanced selection needs a size")
    if size is None and label is None:
        return images

    # Candidates: one group to draw from, or one a class
    if label is None and not balanced:
        groups = {images.source: np.arange(len(images))}
    else:
        groups = _classes(images, label)
        if not balanced:
            groups = {" and ".join(groups): np.sort(np.concatenate(list(groups.values())))}

    # The same number of each group
    share, rest = divmod(size, len(groups)) if size is not None else (None, 0)
    if rest:
        raise DataError(
            f"{size} images cannot be shared out equally among the {len(groups)} classes of "
            f"{images.source}; ask for a multiple of {len(groups)}."
        )
    # RandomState and not a Generator: its stream is frozen, and it is the one EDM draws from.
    rng = np.random.RandomState(seed % 2**31)
    chosen = []
    for name, candidates in groups.items():
        if share is not None and share > len(candidates):
            raise DataError(f"{share} images of {name} are asked for; there are {len(candidates)}.")
        if order == "random":
            rng.shuffle(candidates)
        chosen.append(candidates[:share])
    return images.take(np.sort(np.concatenate(chosen)))


def _classes(images: ImageSet, label: Label | Sequence[Label] | None) -> dict[str, np.ndarray]:
    """The positions of the images of each class asked for, or of every class."""
    if images.labels is None:
        raise DataError(
            f"{images.source} has no labels to choose by; put its images in one folder a class, "
            "or add a dataset.json or a `labels` array."
        )
    if label is None:
        asked: Sequence[Label] = range(images.num_classes)
    else:
        asked = [label] if isinstance(label, int | str) else label
        if not asked:
            raise ValueError("label is an empty list; give at least one class")
    groups = {}
    for index in [_class_index(images, one) for one in asked]:
        named = index < len(images.class_names)
        name = images.class_names[index] if named else f"class {index}"
        groups[name] = np.flatnonzero(images.labels == index)
    return groups


def _class_index(images: ImageSet, label: Label) -> int:
    # Names first: a folder "3" may hold any class.
    if isinstance(label, str) and label in images.class_names:
        return images.class_names.index(label)
    if str(label).isdecimal() and int(label) < images.num_classes:
        return int(label)
    known = ", ".join(images.class_names) or f"0 … {images.num_classes - 1}"
    raise DataError(f"{images.source} has no class {label!r}; its classes are {known}.")
