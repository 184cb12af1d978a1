"""HEIC and HEIF, as telephones save photographs: read with the library pillow-heif."""

import io

from PIL import Image

from memaudit.errors import DataError

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")


def is_heif(data: bytes) -> bool:
    """Whether a file that begins so is a HEIC or HEIF image; AVIF is another format."""
    if data[4:8] != b"ftyp":
        return False
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return any(box[i : i + 4] in _BRANDS for i in range(0, len(box), 4))


def open_heif(data: bytes) -> Image.Image:
    """The header of a HEIC or HEIF image, which is turned upright when it is decoded.

    Raises:
        DataError: the library is missing.
    """
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise DataError(
            "HEIC needs pillow-heif, which is not installed: pip install pillow-heif (or this "
            'package with the extra "data").'
        ) from error
    image: Image.Image = HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call]
    return image
