"""Take a part of a set: a number of images, some classes, equally many of each class."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from memaudit.data.cache_folder import CacheDir
from memaudit.data.images import ImageSet, count_classes
from memaudit.data.preparation import AS_STORED, Preparation
from memaudit.data.selection import Selection
from memaudit.data.sources import as_images, open_images
from memaudit.errors import DataError
from memaudit.progress import Progress, silent


def open_selected(
    path: str | Path,
    selection: Selection,
    preparation: Preparation = AS_STORED,
    *,
    cache_dir: CacheDir = None,
    check_all: bool = False,
    progress: Progress = silent,
) -> ImageSet:
    """Open the images of a source that `selection` describes; of the others no pixel is read.

    The other arguments are those of `open_images`.

    Raises:
        DataError: as `select_images` and `open_images`.
    """
    return open_images(
        path,
        preparation,
        layout=selection,
        choose=partial(chosen_rows, selection=selection),
        cache_dir=cache_dir,
        check_all=check_all,
        progress=progress,
    )


def select_images(images: str | Path | np.ndarray | ImageSet, selection: Selection) -> ImageSet:
    """The images that `selection` describes, in the order of the whole.

    Args:
        images: the whole, in any form that `as_images` takes.
        selection: what to take.

    Returns:
        The images with their names and labels; `indices` are their positions in the source.

    Raises:
        DataError: more images than there are, no labels, an unknown class, or a size that the
            number of classes does not divide.
    """
    images = as_images(images)
    rows = chosen_rows(images, selection)
    return images if rows is None else images.take(rows)


class _Described(Protocol):
    """What is known of images before their pixels are read."""

    @property
    def source(self) -> str: ...

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def labels(self) -> np.ndarray | None: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...


def chosen_rows(images: _Described, selection: Selection) -> np.ndarray | None:
    """The positions of the images that `selection` describes, int64 [M], ascending; None is all.

    Raises:
        DataError: as `select_images`.
    """
    size = selection.size
    if size is None and not selection.label:
        return None

    # Candidates: one group to draw from, or one per class
    if not selection.label and not selection.balanced:
        groups = {images.source: np.arange(len(images.names))}
    else:
        groups = _classes(images, selection.label)
        if not selection.balanced:
            groups = {" and ".join(groups): np.sort(np.concatenate(list(groups.values())))}

    # The same number of each group
    share, rest = divmod(size, len(groups)) if size is not None else (None, 0)
    if rest:
        raise DataError(
            f"{size} images cannot be divided equally among the {len(groups)} classes of "
            f"{images.source}; ask for a multiple of {len(groups)}."
        )
    # RandomState and not a Generator: its stream is frozen, and it is the one EDM draws from.
    rng = np.random.RandomState(selection.subset_seed % 2**31)
    chosen = []
    for name, candidates in groups.items():
        if share is not None and share > len(candidates):
            raise DataError(f"{share} images of {name} are asked for; there are {len(candidates)}.")
        if selection.subset == "random":
            rng.shuffle(candidates)
        chosen.append(candidates[:share])
    return np.sort(np.concatenate(chosen))


def _classes(images: _Described, label: Sequence[int | str]) -> dict[str, np.ndarray]:
    """The positions of the images of each class asked for, or of every class."""
    if images.labels is None:
        raise DataError(
            f"{images.source} has no labels to choose by; put its images in one folder per class, "
            "or add a dataset.json or a `labels` array."
        )
    groups = {}
    num_classes = count_classes(images.labels, images.class_names)
    order = np.argsort(images.labels, kind="stable")  # there may be a million classes
    ends = np.cumsum(np.bincount(images.labels, minlength=num_classes))
    for index in [class_number(images, one) for one in label] or range(num_classes):
        named = index < len(images.class_names)
        name = images.class_names[index] if named else f"class {index}"
        groups[name] = order[ends[index - 1] if index else 0 : ends[index]].copy()
    return groups


def class_number(images: _Described, label: int | str) -> int:
    """The number of a class, from its name or from that number.

    Names come first: a folder "3" may hold any class.

    Raises:
        DataError: the images have no such class.
    """
    num_classes = count_classes(images.labels, images.class_names)
    if isinstance(label, str) and label in images.class_names:
        return images.class_names.index(label)
    if str(label).isdecimal() and int(label) < num_classes:
        return int(label)
    known = ", ".join(images.class_names) or f"0 … {num_classes - 1}"
    raise DataError(f"{images.source} has no class {label!r}; its classes are {known}.")
