"""The images asked about, however they are given."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from memaudit.data.images import ImageSet
from memaudit.data.preparation import AS_STORED, Preparation
from memaudit.data.sources import as_images, open_images
from memaudit.errors import DataError
from memaudit.progress import Progress, silent

MOST_IMAGES = 1000
"""Most images that one check is about: the correction for their number grows with it."""

Asked = str | Path | np.ndarray | ImageSet | Sequence[str | Path]


def as_asked(images: Asked, *, progress: Progress = silent) -> ImageSet:
    """The images asked about, from one path or several, an array or an image set.

    Raises:
        DataError: images that are missing or broken, none or too many of them, or of several
            shapes.
        TypeError: none of these.
    """
    if isinstance(images, str | Path):
        return open_asked([images], progress=progress)
    if not isinstance(images, np.ndarray | ImageSet):
        return open_asked(images, progress=progress)
    return _checked(as_images(images, progress=progress))


def open_asked(
    paths: Sequence[str | Path],
    preparation: Preparation = AS_STORED,
    *,
    progress: Progress = silent,
) -> ImageSet:
    """Open files and folders of images as one set, in which every image has its path as its name.

    Args:
        paths: files or folders that `open_images` reads.
        preparation: how each image becomes pixels.
        progress: told how many images are read.

    Raises:
        DataError: as in `as_asked`.
    """
    sets = [open_images(path, preparation, progress=progress) for path in paths]
    if not sets:
        raise DataError("No image was given to check; at least 1 is needed.")
    for one in sets[1:]:
        if one.image_shape != sets[0].image_shape:
            raise DataError(
                f"The images in {one.source} are {list(one.image_shape)}, and those in "
                f"{sets[0].source} {list(sets[0].image_shape)}. Prepare all of them alike with "
                "{resolution}, {fit} or {mode}.",
                field=("resolution", "fit", "mode"),
            )
    names = [_name(one, name) for one in sets for name in one.names]
    labels = None
    if all(one.labels is not None for one in sets) and len(sets) == 1:
        labels = sets[0].labels
    return _checked(
        ImageSet(
            np.concatenate([one.images for one in sets]),
            names,
            labels=labels,
            source=sets[0].source if len(sets) == 1 else "the images asked about",
            preparation=preparation.resolved(),
            unread=_summed(one.unread for one in sets),
            kinds=_summed(one.kinds for one in sets),
            notes=tuple(dict.fromkeys(note for one in sets for note in one.notes)),
        )
    )


def _summed(counts: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    """What was counted in several sources, together."""
    found = Counter[str]()
    for each in counts:
        found.update(each)
    return found


def _name(images: ImageSet, name: str) -> str:
    """The path of an image where it is a file."""
    if Path(images.source).is_dir():
        return f"{images.source}/{name}"
    return images.source if len(images) == 1 else name


def _checked(images: ImageSet) -> ImageSet:
    if not 1 <= len(images) <= MOST_IMAGES:
        raise DataError(
            f"{images.source} holds {len(images):,} images; a check is about 1 to "
            f"{MOST_IMAGES:,}. A scan counts copies of all training images."
        )
    return images
