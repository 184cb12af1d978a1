"""The orientation that EXIF gives to an image: which way up it was taken."""

import contextlib

import numpy as np
from PIL import Image

_ORIENTATION = 0x0112
_METADATA = frozenset(("exif", "Raw profile type exif", "xmp"))
"""Where PIL keeps what may hold an orientation."""
_HEADER_BYTES = 1 << 18
"""Metadata of a JPEG begin in these."""


def may_be_oriented(data: bytes) -> bool:
    """Whether a JPEG holds EXIF or XMP, which is where an orientation would be."""
    scan = data.find(b"\xff\xda", 0, _HEADER_BYTES)  # or a preview's, which lies in the EXIF
    end = _HEADER_BYTES if scan < 0 else scan
    return data.find(b"Exif\0\0", 0, end) >= 0 or data.find(b"Orientation", 0, end) >= 0


def orientation_of(image: Image.Image) -> int:
    """1 … 8 as in EXIF; 1 without one, or if PIL has applied it (TIFF, HEIF)."""
    with contextlib.suppress(Exception):  # whatever is wrong with metadata
        if not _METADATA.isdisjoint(image.info):
            found = image.getexif().get(_ORIENTATION, 1)
            return found if found in range(1, 9) else 1
    return 1


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """uint8 [C, H, W] turned as its orientation says, [C, W, H] for 5 … 8."""
    if orientation > 4:  # mirrored at the diagonal first
        image = image.swapaxes(1, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, :, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[:, ::-1]
    return image
