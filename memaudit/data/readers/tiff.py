"""Decode 16-bit TIFF in RGB, since PIL cuts it to 8 bits: plain strips, or packed with deflate.

Format: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf. PIL reads the tags.
"""

import zlib
from typing import Any

import numpy as np
from PIL import Image

from memaudit.data.readers.orientation import upright
from memaudit.errors import DataError

_WIDTH, _HEIGHT, _ORIENTATION = 256, 257, 274
_OFFSETS, _COUNTS, _ROWS = 273, 279, 278
_COMPRESSION, _PREDICTOR, _PLANAR = 259, 317, 284
_BITS, _FORMAT = 258, 339
_UNSIGNED = (1, (1,), (1, 1, 1))
_PLAIN, _DEFLATE = (1,), (8, 32946)


def decode_deep_tiff(image: Image.Image, data: bytes, name: str) -> np.ndarray | None:
    """uint16 [H, W, 3], upright as PIL decodes any TIFF, or None if it is kept in another way.

    Args:
        image: the file as PIL has opened it.
        data: the file.
        name: its name in an error.

    Raises:
        DataError: it is damaged.
    """
    tags: Any = getattr(image, "tag_v2", {})
    offsets, counts = tags.get(_OFFSETS, ()), tags.get(_COUNTS, ())
    kind, predictor = tags.get(_COMPRESSION, 1), tags.get(_PREDICTOR, 1)
    is_known = kind in (*_PLAIN, *_DEFLATE) and predictor in (1, 2) and tags.get(_PLANAR, 1) == 1
    # Also pixels with a fourth number, which means nothing, are RGB to PIL.
    is_known = is_known and tags.get(_BITS) == (16, 16, 16) and tags.get(_FORMAT, 1) in _UNSIGNED
    height, width = int(tags[_HEIGHT]), int(tags[_WIDTH])
    rows = min(int(tags.get(_ROWS, height)), height)
    if not (
        offsets and is_known and rows > 0 and len(offsets) == len(counts) == -(-height // rows)
    ):
        return None
    order = "<" if data[:2] == b"II" else ">"
    pixels = np.empty((height, width, 3), np.uint16)
    for number, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
        part = pixels[number * rows : (number + 1) * rows]
        strip = data[offset : offset + count]
        if kind in _DEFLATE:
            try:
                strip = zlib.decompressobj().decompress(strip, part.nbytes)
            except zlib.error as error:
                raise DataError(f"{name} is damaged: {error}.") from error
        if len(strip) < part.nbytes:
            raise DataError(f"{name} is cut short. Fetch it again.")
        part[:] = np.frombuffer(strip[: part.nbytes], f"{order}u2").reshape(part.shape)
    if predictor == 2:
        pixels = np.cumsum(pixels, axis=1, dtype=np.uint16)
    turn = tags.get(_ORIENTATION, 1)
    return upright(pixels.transpose(2, 0, 1), turn if turn in range(1, 9) else 1).transpose(1, 2, 0)
