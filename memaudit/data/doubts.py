"""Signs that images are not what somebody meant to give."""

from collections.abc import Iterator

import numpy as np

from memaudit.data.images import ImageSet
from memaudit.data.preparation import CLIPPED, DEEP, ORIENTED
from memaudit.data.readers.decoding import SUFFIXES
from memaudit.wording import some

_BYTES_AT_A_TIME = 16 << 20
_REMEDY = "Convert images among them to PNG."
_REMEDY_HIDDEN = "If the model was trained on them, give them in a set with the others."
MOST_KINDS = 5
"""Kinds of files or images that a sentence names."""


def doubts_about(images: ImageSet) -> tuple[str, ...]:
    """What a reader must know before trusting anything that is said of these images.

    Looking ends at the first images that are beyond doubt, so that ordinary sets cost nothing.

    Returns:
        One sentence or more for each sign; empty for ordinary images.
    """
    found = list(images.notes)
    if images.unread:
        found.append(_unread(images))
    found += _kinds(images)
    values = _few_values(images)
    if values and max(values) <= 1:
        found.append(
            f"Every value of the images in {images.source} is 0 or 1, as if numbers in [0, 1] had "
            "been cut to 8 bits, which leaves nothing of the pictures. Convert x in [0, 1] with "
            "(255 * x).round().astype('uint8')."
        )
    elif 1 in values:
        found.append(
            f"Every value of the images in {images.source} is 0, 1 or 255, as if numbers in "
            "[-1, 1] had been cut to 8 bits, which leaves nothing of the pictures. Convert x in "
            "[-1, 1] with memaudit.data.images.float_to_uint8."
        )
    if all(map(_is_plain, _pieces(images))):
        found.append(f"Each of the {len(images):,} images in {images.source} has a single color.")
    if len(images) > 1 and all((piece == images.images[:1]).all() for piece in _pieces(images)):
        found.append(f"All {len(images):,} images in {images.source} are equal.")
    return tuple(found)


def _unread(images: ImageSet) -> str:
    number = sum(images.unread.values())
    files = "1 file was" if number == 1 else f"{number:,} files were"
    are_pictures = all(suffix.rpartition(" ")[2] in SUFFIXES for suffix in images.unread)
    kinds = [f"{count:,} {suffix or 'without suffix'}" for suffix, count in images.unread.items()]
    return (
        f"{files} not read as images in {images.source} ({some(kinds, MOST_KINDS)}), and what was "
        f"not read is not compared. {_REMEDY_HIDDEN if are_pictures else _REMEDY}"
    )


def _kinds(images: ImageSet) -> list[str]:
    """What was done to images that are not plain 8-bit gray or RGB, and what was not."""
    found = []
    apart = (ORIENTED, CLIPPED)
    converted = {k: n for k, n in images.kinds.items() if k not in apart and n}
    if converted:
        kinds = [f"{count:,} {kind}" for kind, count in converted.items()]
        found.append(
            f"Images in {images.source} were converted ({some(kinds, MOST_KINDS)}): "
            f"{images.preparation}. The ratio is right only if the model's trainer did the same."
        )
    found += _window(images)
    oriented = images.kinds.get(ORIENTED, 0)
    if oriented:
        has = "1 image has" if oriented == 1 else f"{oriented:,} images have"
        done = (
            "were turned upright, which trainers that use PIL alone do not do"
            if images.preparation.exif == "apply"
            else "were taken as they are stored; a trainer that turns images upright saw others"
        )
        found.append(f"{has} an EXIF orientation in {images.source}. They {done}.")
    return found


def _window(images: ImageSet) -> list[str]:
    """What a window cut, or that there was nothing for it."""
    window = images.preparation.window
    if window is None:
        return []
    said = f"the window {window[0]:g} to {window[1]:g}"
    if not images.kinds.get(DEEP, 0):
        return [
            f"The images in {images.source} have 8 bits, so {said} was not applied to them: only "
            "numbers that are not bytes have one."
        ]
    clipped = images.kinds.get(CLIPPED, 0)
    if not clipped:
        return []
    hold = "1 image holds" if clipped == 1 else f"{clipped:,} images hold"
    return [
        f"{hold} numbers outside {said} in {images.source}, which became 0 or 255. The ratio is "
        "right only if the model's trainer cut them, too."
    ]


def _few_values(images: ImageSet) -> set[int]:
    """The values that occur, if they are among 0, 1 and 255; else none."""
    found: set[int] = set()
    for piece in _pieces(images):
        if ((piece > 1) & (piece < 255)).any():
            return set()
        found.update(np.unique(piece).tolist())
    return found


def _is_plain(piece: np.ndarray) -> bool:
    return bool((piece == piece[..., :1, :1]).all())


def _pieces(images: ImageSet) -> Iterator[np.ndarray]:
    """The images in order, first a single one and then more at a time."""
    start, rows = 0, 1
    most = max(1, _BYTES_AT_A_TIME // max(1, images.images[:1].nbytes))
    while start < len(images):
        yield images.images[start : start + rows]
        start += rows
        rows = min(2 * rows, most)
