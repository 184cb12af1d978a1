"""Images with more than 8 bits: 16-bit gray and RGB, 32-bit integers, floating numbers."""

import numpy as np
from PIL import Image

from memaudit.data.fitting import UnlikeError
from memaudit.data.preparation import CLIPPED, DEEP, Preparation
from memaudit.data.readers.png import decode_deep_png
from memaudit.data.readers.tiff import decode_deep_tiff
from memaudit.errors import DataError

_BLOCK = 1 << 20
"""Numbers that are converted at a time."""


def is_deep(image: Image.Image) -> bool:
    """Whether an image that PIL has opened has more than 8 bits, which PIL may hide."""
    if image.mode.startswith(("I", "F")):
        return True
    tiles = getattr(image, "tile", ())
    if image.format == "PPM":
        depths = [tile.args[-1] for tile in tiles if isinstance(tile.args, tuple)]
        return any(isinstance(depth, int) and depth > 255 for depth in depths)
    # PIL reduces 16-bit RGB to 8 bits and calls it RGB; the codec's arguments tell them apart.
    return any(";16" in str(tile) for tile in tiles)


def windowed(
    image: Image.Image, data: bytes, name: str, preparation: Preparation
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The image in 8 bits, by the window of `preparation`.

    Returns:
        uint8 [H, W] or [H, W, 3], and what the image was.

    Raises:
        UnlikeError: no window was chosen.
        DataError: it is of a kind that cannot be read.
    """
    if preparation.window is None:
        raise UnlikeError(
            f"{name} is {'floating' if image.mode == 'F' else '16-bit'}; 8-bit gray or RGB is "
            "needed. Give {window} LOW,HIGH, the numbers that become 0 and 255.",
            field="window",
        )
    values = None
    if image.mode == "F" or image.mode.startswith("I"):
        most = _most_of_ppm(image) if image.format == "PPM" else None  # known until it is loaded
        values = np.asarray(image)
        if most is not None:
            # PIL stretches 0…most to 0…65535; a window is one of the numbers in the file.
            values = np.rint(values * (most / 65535)).astype(np.int32)
    elif image.format == "PNG":
        values = decode_deep_png(data)
    elif image.format == "TIFF" and image.mode == "RGB":
        values = decode_deep_tiff(image, data, name)
    if values is None or values.ndim not in (2, 3) or values.shape[2:] not in ((), (3,)):
        raise DataError(
            f"{name} is a 16-bit {image.format} in mode {image.mode}. Of 16-bit images, only gray "
            "ones are read, and in RGB PNG and TIFF that is not packed or packed with deflate. "
            "Convert it first."
        )
    is_clipped = num_clipped(values[None], preparation.window) > 0
    kinds = (DEEP, CLIPPED) if is_clipped else (DEEP,)
    return to_bytes(values, preparation.window, name), kinds


def _most_of_ppm(image: Image.Image) -> int | None:
    """The largest number that the header of a PGM allows, where PIL stretches the numbers."""
    depths = [tile.args[-1] for tile in getattr(image, "tile", ()) if isinstance(tile.args, tuple)]
    found = depths[0] if depths else None
    return found if isinstance(found, int) and 255 < found < 65535 else None


def num_clipped(images: np.ndarray, window: tuple[float, float]) -> int:
    """The number of images with a number that a window cuts by half a gray level and more.

    Args:
        images: numbers [N, …].
        window: (low, high).
    """
    low, high = window
    half = (high - low) / 510
    flat = images.reshape(len(images), -1)
    below, above = flat.min(axis=1) < low - half, flat.max(axis=1) > high + half
    return int(np.count_nonzero(below | above))


def to_bytes(values: np.ndarray, window: tuple[float, float], name: str) -> np.ndarray:
    """u = floor(255·(x - low)/(high - low) + ½), clipped to 0…255.

    Args:
        values: numbers of any shape.
        window: (low, high).
        name: of the image, in an error.

    Returns:
        uint8 of the same shape.

    Raises:
        DataError: a value is not a number.
    """
    low, high = window
    flat = values.reshape(-1)
    result = np.empty(flat.shape, np.uint8)
    for start in range(0, len(flat), _BLOCK):
        x = flat[start : start + _BLOCK].astype(np.float64)
        if np.isnan(x).any():
            raise DataError(f"{name} holds a value that is not a number (NaN). Repair it first.")
        scaled = np.clip((x - low) / (high - low), 0, 1) * 255 + 0.5
        result[start : start + _BLOCK] = scaled.astype(np.uint8)
    return result.reshape(values.shape)
