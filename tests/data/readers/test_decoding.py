"""From the bytes of an image file to pixels."""

import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from helpers.images import Encode
from PIL import Image

from memaudit.data.readers import decoding
from memaudit.data.readers.decoding import decode_image
from memaudit.errors import DataError


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_gray_and_rgb_keep_their_pixels(mode: str, photo: Image.Image, encode: Encode) -> None:
    picture = photo.convert(mode)
    expected = np.asarray(picture.convert("RGB" if mode in ("RGB", "P") else "L"))
    image = decode_image(encode(picture), "a.png")
    assert image.dtype == np.uint8 and len(image) == (3 if mode in ("RGB", "P") else 1)
    np.testing.assert_array_equal(image, np.atleast_3d(expected).transpose(2, 0, 1))


@pytest.mark.parametrize(("mode", "color"), [("LA", "L"), ("RGBA", "RGB")])
def test_an_opaque_alpha_channel_is_dropped(
    mode: str, color: Any, photo: Image.Image, encode: Encode
) -> None:
    picture = photo.convert(color)
    image = decode_image(encode(picture.convert(mode)), "a.png")
    expected = np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparency_is_refused(mode: str, photo: Image.Image, encode: Encode) -> None:
    picture = photo.convert(mode)
    if mode == "P":
        data = encode(picture, transparency=int(np.asarray(picture)[0, 0]))
    else:
        picture.putalpha(Image.new("L", picture.size, 200))
        data = encode(picture)
    with pytest.raises(
        DataError, match="a.png is transparent in places. Say on which color it is drawn"
    ):
        decode_image(data, "a.png")


def test_sixteen_bits_are_refused_in_gray(encode: Encode) -> None:
    picture = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    with pytest.raises(DataError, match="a.png is 16-bit; 8-bit gray or RGB is needed"):
        decode_image(encode(picture), "a.png")


def test_sixteen_bits_are_refused_in_rgb() -> None:
    """PIL would cut them to 8 bits without a word."""
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(2 * bytes(1 + 2 * 3 * 2))) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match="a.png is 16-bit; 8-bit gray or RGB is needed"):
        decode_image(data, "a.png")


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(("mode", "form"), [("CMYK", "JPEG"), ("YCbCr", "TIFF"), ("LAB", "TIFF")])
def test_other_modes_are_refused_by_name(
    mode: str, form: str, photo: Image.Image, encode: Encode
) -> None:
    data = encode(photo.convert(mode) if mode != "LAB" else Image.new(mode, (4, 4)), form)
    with pytest.raises(DataError, match=f"is in mode {mode}; 8-bit gray or RGB is needed"):
        decode_image(data, "a")


def test_an_animation_is_refused(photo: Image.Image, encode: Encode) -> None:
    frames = [photo, photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    data = encode(photo, "GIF", save_all=True, append_images=frames)
    with pytest.raises(DataError, match="a.gif is animated; a file must hold one image"):
        decode_image(data, "a.gif")


def test_a_photograph_with_a_preview_is_one_image(photo: Image.Image, encode: Encode) -> None:
    data = encode(photo, "MPO", save_all=True, append_images=[photo.resize((8, 8))])
    assert decode_image(data, "a.jpg").shape == (3, 45, 67)


def test_an_exif_orientation_is_not_applied(photo: Image.Image, encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    plain, turned = encode(photo, "JPEG"), encode(photo, "JPEG", exif=exif)
    np.testing.assert_array_equal(decode_image(turned, "a"), decode_image(plain, "a"))


def test_formats_that_start_other_programs_are_not_known() -> None:
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    with pytest.raises(DataError, match="it is not one of AVIF, BMP, GIF, HEIF, JPEG"):
        decode_image(data, "a.png")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_bytes_that_only_begin_like_an_image_are_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="a.png cannot be decoded: .*Repair the file or remove it"):
        decode_image(data, "a.png")


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_an_image_cut_short_is_refused(form: str, photo: Image.Image, encode: Encode) -> None:
    data = encode(photo, form)
    for length in (len(data) // 4, len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(DataError, match="a cannot be decoded"):
            decode_image(data[:length], "a")


@pytest.mark.parametrize("side", [9_000, 30_000])
def test_an_announced_size_beyond_reason_allocates_nothing(
    side: int, photo: Image.Image, encode: Encode
) -> None:
    """A warning of PIL's from 9459 pixels a side, an error from 13377."""
    png = bytearray(encode(photo))
    png[8:33] = chunk(b"IHDR", struct.pack(">II", side, side) + png[24:29])
    jpeg = bytearray(encode(photo, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = side.to_bytes(2, "big") * 2
    for data in (png, jpeg):
        with pytest.raises(DataError, match=r"announces 9000×9000 pixels|exceeds limit of"):
            decode_image(bytes(data), "a")


def test_a_warning_about_metadata_stops_nothing(photo: Image.Image, encode: Encode) -> None:
    data = encode(photo, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(data, "a").shape == (3, 45, 67)
        assert decoding._decode_with_pil(data, "a").pixels.shape == (3, 45, 67)
