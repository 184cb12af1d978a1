"""Decode the bytes of an image file.

An image is accepted if it is 8-bit gray or RGB, or becomes that without a choice: 1-bit gray, a
palette, an alpha channel that is opaque everywhere. Whatever would need a decision (16 bits, CMYK,
transparency, animation) is refused by name. Pixels are taken as they are stored: an EXIF
orientation is not applied, a color profile is ignored.
"""

import contextlib
import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from memaudit.data.readers.jpeg import decode_jpeg, is_cut, is_jpeg, too_few_bytes
from memaudit.data.readers.lazy_images import check_square, resize
from memaudit.errors import DataError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

# Nothing else of PIL's forty formats: some start other programs (EPS).
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_MAX_PIXELS = 1 << 26
"""Most pixels of one image (8192×8192). A few bytes can announce more than memory holds."""


def decode_image(data: bytes, name: str, resolution: int | None = None) -> np.ndarray:
    """The pixels of one image file.

    Args:
        data: the file's bytes.
        name: its name in an error.
        resolution: resize to resolution×resolution.

    Returns:
        uint8 [C, H, W], C = 1 (gray) or 3 (RGB).

    Raises:
        DataError: the image is broken, not 8-bit gray or RGB, or to be resized but not square.
    """
    image = _decode_jpeg(data, name) if is_jpeg(data) else _decode_with_pil(data, name)
    if resolution is not None:
        check_square(name, image.shape[1], image.shape[2], resolution)
        image = resize(image, resolution)
    return image


def _decode_jpeg(data: bytes, name: str) -> np.ndarray:
    def decode(data: bytes) -> np.ndarray | None:
        with contextlib.suppress(DataError):
            return _decode_with_pil(data, name)
        return None

    lacks = too_few_bytes(data, max_pixels=_MAX_PIXELS)
    if not lacks:
        fast = decode_jpeg(data, max_pixels=_MAX_PIXELS)
        image = _decode_with_pil(data, name) if fast is None else fast
        # The fast decoder would write to the terminal what libjpeg thinks of the bytes added.
        if is_cut(data, image, decode):
            lacks = "its data end before its last pixel"
    if lacks:
        raise DataError(f"{name} cannot be decoded: {lacks}. Fetch it again or remove it.")
    return image


_GRAY_MODES = ("1", "L", "LA")
_RGB_MODES = ("P", "PA", "RGB", "RGBA")


def _decode_with_pil(data: bytes, name: str) -> np.ndarray:
    try:
        # Warnings about metadata are harmless; an unreasonable size is not.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _check_header(image, name)
                pixels = np.asarray(_to_gray_or_rgb(image, name))  # [H, W] or [H, W, 3]
    except DataError:
        raise
    except Exception as error:  # whatever a codec raises for broken bytes
        reason = "it is not one of " + ", ".join(_FORMATS)
        if not isinstance(error, UnidentifiedImageError):
            reason = str(error) or type(error).__name__
        raise DataError(
            f"{name} cannot be decoded: {reason}. Repair the file or remove it."
        ) from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _check_header(image: Image.Image, name: str) -> None:
    if image.width * image.height > _MAX_PIXELS:
        raise DataError(
            f"{name} announces {image.height}×{image.width} pixels, more than the "
            f"{_MAX_PIXELS} that an image may have."
        )
    # A camera's JPEG may carry a preview as a second frame (MPO), but it is one image.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise DataError(f"{name} is animated; a file must hold one image. Save its frames apart.")
    # PIL reduces 16-bit RGB to 8 bits and calls it RGB; the codec's arguments tell them apart.
    sixteen_bits = any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    if sixteen_bits or image.mode not in _GRAY_MODES + _RGB_MODES:
        mode = "16-bit" if sixteen_bits else f"in mode {image.mode}"
        raise DataError(f"{name} is {mode}; 8-bit gray or RGB is needed. Convert it first.")


def _to_gray_or_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        if image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise DataError(
                f"{name} is transparent in places. Draw it on a background of your choice first."
            )
    mode = "L" if image.mode in _GRAY_MODES else "RGB"
    return image if image.mode == mode else image.convert(mode)
