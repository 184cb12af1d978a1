"""The orientation that EXIF gives to an image: which way up it was taken."""

import contextlib

import numpy as np
from PIL import Image

_ORIENTATION = 0x0112
_METADATA = frozenset(("exif", "Raw profile type exif", "xmp"))
"""Where PIL keeps what may hold an orientation."""
_APP1, _SCAN = 0xE1, 0xDA
"""Markers of a JPEG: of EXIF and XMP, and of its pixels, which follow all metadata."""


def may_be_oriented(data: bytes) -> bool:
    """Whether a JPEG holds EXIF or XMP, which is where an orientation would be."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _SCAN:
        if data[at + 1] == 0xFF:  # any number of them may precede a marker
            at += 1
            continue
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if data[at + 1] == _APP1:
            if data.find(b"Exif\0\0", at, end) >= 0 or data.find(b"Orientation", at, end) >= 0:
                return True
        at = end
    return False


def orientation_of(image: Image.Image) -> int:
    """1 … 8 as in EXIF; 1 without one, or if PIL has applied it (TIFF, HEIF)."""
    with contextlib.suppress(Exception):  # whatever is wrong with metadata
        if not _METADATA.isdisjoint(image.info):
            found = image.getexif().get(_ORIENTATION, 1)
            return found if found in range(1, 9) else 1
    return 1


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [C, H, W] turned as their orientation says, [C, W, H] for 5 … 8."""
    if orientation > 4:  # mirrored at the diagonal first
        image = image.swapaxes(1, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, :, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[:, ::-1]
    return image
