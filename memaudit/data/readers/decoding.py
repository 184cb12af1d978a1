"""Decode the bytes of an image file.

An image is accepted if it is 8-bit gray or RGB, or becomes that without a choice: 1-bit gray, a
palette, an alpha channel that is opaque everywhere. Whatever needs a decision (CMYK, transparency,
16 bits) is converted as the `Preparation` says, or refused by name. Pixels are taken as they are
stored: a color profile is ignored but for CMYK, and an EXIF orientation unless it is asked for.
"""

import contextlib
import io
import logging
import warnings
from collections import Counter
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from memaudit.data.fitting import MAX_PIXELS, UnlikeError, fit_image, to_channels
from memaudit.data.preparation import AS_STORED, DEEP, ORIENTED, Preparation
from memaudit.data.readers import heif
from memaudit.data.readers.deep_images import is_deep, windowed
from memaudit.data.readers.jpeg import decode_jpeg, is_cut, is_jpeg, too_few_bytes
from memaudit.data.readers.modes import GRAY, RGB, plain, to_gray_or_rgb
from memaudit.data.readers.orientation import may_be_oriented, orientation_of, upright
from memaudit.errors import DataError

# Else Python writes to the terminal what PIL logs of broken files.
logging.getLogger("PIL").addHandler(logging.NullHandler())

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)

# Nothing else of PIL's forty formats: some start other programs (EPS). PIL tries them in order.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF")
_STARTS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"),
    *(b"P1\n", b"P2\n", b"P3\n", b"P4\n", b"P5\n", b"P6\n"),
    *(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
)


def is_image(head: bytes) -> bool:
    """Whether a file that begins so is an image in one of the formats that are decoded."""
    if head[4:8] == b"ftyp":
        return heif.is_heif(head) or head[8:12] in (b"avif", b"avis", b"mif1", b"msf1")
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_bmp = head[:2] == b"BM" and head[6:10] == bytes(4)
    return is_webp or is_bmp or head.startswith(_STARTS)


class Decoded(NamedTuple):
    """The pixels of a file, before they get a size and a mode."""

    pixels: np.ndarray
    """uint8 [C, H, W], C = 1 or 3."""
    kinds: tuple[str, ...]
    """What was not plain 8-bit gray or RGB and was converted."""
    orientation: int
    """1 … 8 as in EXIF; 1 is upright."""


def decode_image(
    data: bytes,
    name: str,
    preparation: Preparation = AS_STORED,
    kinds: Counter[str] | None = None,
) -> np.ndarray:
    """The pixels of one image file.

    Args:
        data: the file's bytes.
        name: its name in an error.
        preparation: how to prepare it.
        kinds: counts what the image was, if that is not plain 8-bit gray or RGB.

    Returns:
        uint8 [C, H, W], C = 1 (gray) or 3 (RGB).

    Raises:
        UnlikeError: it needs a choice that `preparation` does not make.
        DataError: the image is broken.
    """
    pixels, found, orientation = (
        _decode_jpeg(data, name, preparation)
        if is_jpeg(data)
        else _decode_with_pil(data, name, preparation)
    )
    if found and kinds is not None:
        kinds.update(found)
    if orientation != 1:
        if kinds is not None:
            kinds[ORIENTED] += 1
        if preparation.exif == "apply":
            pixels = upright(pixels, orientation)
    if (channels := preparation.channels) is not None and channels != len(pixels):
        if kinds is not None and not found:
            kinds["gray" if len(pixels) == 1 else "RGB"] += 1
        pixels = to_channels(pixels, channels)
    return pixels if preparation.resolution is None else fit_image(pixels, name, preparation)


def _decode_jpeg(data: bytes, name: str, preparation: Preparation) -> Decoded:
    def decode(data: bytes) -> np.ndarray | None:
        with contextlib.suppress(DataError):
            return _decode_with_pil(data, name, preparation).pixels
        return None

    lacks = too_few_bytes(data, max_pixels=MAX_PIXELS)
    if not lacks:
        fast = decode_jpeg(data, max_pixels=MAX_PIXELS)
        if fast is None:
            image = _decode_with_pil(data, name, preparation)
        else:
            orientation = _jpeg_orientation(data) if may_be_oriented(data) else 1
            image = Decoded(fast, (), orientation)
        # The fast decoder would write to the terminal what libjpeg thinks of the bytes added.
        if is_cut(data, image.pixels, decode):
            lacks = "its data end before its last pixel"
    if lacks:
        raise DataError(f"{name} cannot be decoded: {lacks}. Fetch it again or remove it.")
    return image


def _jpeg_orientation(data: bytes) -> int:
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # whatever is wrong with it
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return orientation_of(image)
    return 1


def open_picture(data: bytes) -> Image.Image:
    """The header of an image file; the pixels are decoded when they are asked for.

    Raises:
        DataError: a library is missing.
        Exception: whatever PIL raises for what it cannot read.
    """
    if heif.is_heif(data):
        return heif.open_heif(data)
    return Image.open(io.BytesIO(data), formats=_FORMATS)


def _decode_with_pil(data: bytes, name: str, preparation: Preparation = AS_STORED) -> Decoded:
    try:
        # Warnings about metadata are harmless; an unreasonable size is not.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_picture(data) as image:
                _check_header(image, name)
                if is_deep(image):
                    gray_or_rgb, kinds = windowed(image, data, name, preparation)
                else:
                    converted, kinds = to_gray_or_rgb(image, name, preparation)
                    gray_or_rgb = np.asarray(converted)  # [H, W] or [H, W, 3]
                orientation = orientation_of(image)
    except DataError as error:
        if error.args and str(error).startswith(name):
            raise
        raise type(error)(f"{name} cannot be decoded: {error}") from error
    except Exception as error:  # whatever a codec raises for broken bytes
        reason = "it is not one of " + ", ".join(sorted((*_FORMATS, "HEIF")))
        if not isinstance(error, UnidentifiedImageError):
            reason = str(error) or type(error).__name__
        raise DataError(
            f"{name} cannot be decoded: {reason}. Repair the file or remove it."
        ) from error
    pixels = gray_or_rgb[None] if gray_or_rgb.ndim == 2 else gray_or_rgb.transpose(2, 0, 1)
    return Decoded(pixels, kinds, orientation)


def _check_header(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{name} announces {image.height}×{image.width} pixels, more than the "
            f"{MAX_PIXELS} that an image may have."
        )
    # A camera's JPEG may carry a preview as a second frame (MPO), but it is one image.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise DataError(f"{name} is animated; a file must hold one image. Save its frames apart.")


def describe_picture(data: bytes, preparation: Preparation) -> tuple[tuple[int, int], str]:
    """The size and the kind of an image file, by its header where that suffices.

    Returns:
        (height, width), and `gray`, `RGB`, `transparent`, `16-bit or floating` or PIL's mode.

    Raises:
        Exception: whatever PIL raises for what it cannot read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_picture(data) as image:
            size = image.height, image.width
            if image.width * image.height > MAX_PIXELS:
                raise DataError("it is too large.")
            if preparation.exif == "apply" and orientation_of(image) > 4:
                size = image.width, image.height
            if is_deep(image):
                return size, DEEP
            mode = plain(image.mode)
            try:
                to_gray_or_rgb(image, "it", preparation)
            except UnlikeError:
                return size, "transparent" if mode in (GRAY, RGB) else mode
            return size, {GRAY: "gray", RGB: "RGB"}.get(mode, mode)
