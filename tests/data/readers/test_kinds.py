"""Every kind of image file that people have: read, converted on request, or refused by name."""

import io
import struct
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from helpers.deep_pictures import deep_png, deep_tiff
from helpers.images import Encode
from PIL import Image, ImageCms, ImageOps

from memaudit.data.fitting import UnlikeError
from memaudit.data.preparation import ORIENTED, Preparation
from memaudit.data.readers.decoding import SUFFIXES, decode_image
from memaudit.errors import DataError

FORMS = {
    **dict.fromkeys((".jfif", ".jpe", ".jpeg", ".jpg"), "JPEG"),
    **dict.fromkeys((".pbm", ".pgm", ".pnm", ".ppm"), "PPM"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".heic", ".heif"), "HEIF"),
    **{".avif": "AVIF", ".bmp": "BMP", ".gif": "GIF", ".jp2": "JPEG2000"},
    **{".png": "PNG", ".webp": "WEBP"},
}


def prepared(data: bytes, **options: Any) -> tuple[np.ndarray, dict[str, int]]:
    kinds: Counter[str] = Counter()
    image = decode_image(data, "a.png", Preparation(**options), kinds)
    return image, dict(kinds)


def heif(picture: Image.Image) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(picture).save(file, quality=90)
    return file.getvalue()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_suffix_is_read_as_pillow_reads_it(
    suffix: str, photo: Image.Image, encode: Encode
) -> None:
    if FORMS[suffix] == "HEIF":
        data = heif(photo)
        from pillow_heif import HeifImageFile

        expected = np.asarray(HeifImageFile(io.BytesIO(data)).convert("RGB"))
    else:
        data = encode(photo, FORMS[suffix])
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data, "a").transpose(1, 2, 0), expected)


def test_heic_without_its_library_names_the_install_line(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = heif(photo)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DataError, match="a.heic cannot be decoded: HEIC needs .* pip install pill"):
        decode_image(data, "a.heic")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_a_mode_converts_each_kind_and_counts_it(
    mode: str, photo: Image.Image, encode: Encode
) -> None:
    form = {"CMYK": "TIFF", "YCbCr": "TIFF"}.get(mode, "PNG")
    picture = photo.convert(mode)
    is_gray = mode in ("1", "L")
    kind = {"1": "gray", "L": "gray", "P": "palette", "RGB": "RGB"}.get(mode, mode)
    color, kinds = prepared(encode(picture, form), mode="rgb")
    np.testing.assert_array_equal(color.transpose(1, 2, 0), np.asarray(picture.convert("RGB")))
    assert kinds == ({} if mode == "RGB" else {kind: 1})
    gray, kinds = prepared(encode(picture, form), mode="gray")
    expected = picture.convert("L") if is_gray else picture.convert("RGB").convert("L")
    np.testing.assert_array_equal(gray[0], np.asarray(expected))
    assert kinds == ({} if is_gray else {kind: 1})


def test_cmyk_is_converted_by_its_profile(photo: Image.Image, encode: Encode) -> None:
    """The profile is of sRGB's kind, given to a CMYK image: one that LittleCMS must refuse."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encode(photo.convert("CMYK"), "TIFF", icc_profile=profile)
    with pytest.raises(DataError, match="a.png has a color profile that cannot be used"):
        prepared(data, mode="rgb")
    plain = encode(photo.convert("CMYK"), "JPEG", quality=95)
    expected = Image.open(io.BytesIO(plain)).convert("RGB")
    color, kinds = prepared(plain, mode="rgb")
    np.testing.assert_array_equal(color.transpose(1, 2, 0), np.asarray(expected))
    assert kinds == {"CMYK": 1}


def cmyk_profile() -> bytes:
    """A printer's profile: a table of two points an axis from CMYK to Lab."""
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(16, 4)
    light = np.prod(1 - corners * [0.3, 0.5, 0.1, 0.9], axis=1)
    lab = np.stack([255 * light, 128 + 60 * corners[:, 1], 128 + 70 * corners[:, 2]], 1)
    line = bytes(range(256))
    table = (
        b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", *[65536, 0, 0, 0] * 2, 65536)
    )
    table += 4 * line + lab.astype(np.uint8).tobytes() + 3 * line
    size = 128 + 4 + 12 + len(table)
    head = struct.pack(">I4sI4s4s4s", size, b"test", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


@pytest.mark.parametrize("form", ["TIFF", "JPEG"])
def test_cmyk_with_a_profile_is_what_littlecms_makes_of_it(
    form: str, photo: Image.Image, encode: Encode
) -> None:
    data = encode(photo.convert("CMYK"), form, icc_profile=cmyk_profile())
    color, kinds = prepared(data, mode="rgb")
    with Image.open(io.BytesIO(data)) as picture:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
        theirs = ImageCms.profileToProfile(
            picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        assert theirs is not None
        np.testing.assert_array_equal(color.transpose(1, 2, 0), np.asarray(theirs))
        assert (
            np.abs(np.asarray(picture.convert("RGB")).astype(int) - np.asarray(theirs)).max() > 20
        )
    assert kinds == {"CMYK": 1}


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_pixels_are_drawn_on_the_background(
    mode: str, photo: Image.Image, encode: Encode
) -> None:
    picture = photo.convert(mode)
    if mode == "P":
        data = encode(picture, transparency=int(np.asarray(picture)[0, 0]))
    else:
        picture.putalpha(Image.new("L", picture.size, 200))
        data = encode(picture)
    image, kinds = prepared(data, background="#808080")
    canvas = Image.new("RGBA", picture.size, "#808080")
    canvas.alpha_composite(Image.open(io.BytesIO(data)).convert("RGBA"))
    expected = np.asarray(canvas.convert("L" if mode == "LA" else "RGB"))
    np.testing.assert_array_equal(image, np.atleast_3d(expected).transpose(2, 0, 1))
    assert kinds == {"transparent": 1}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("packed", "predictor"), [(False, 1), (True, 1), (True, 2)])
def test_deep_tiff_in_rgb_keeps_its_sixteen_bits(packed: bool, predictor: int, order: str) -> None:
    values = np.random.default_rng(0).integers(0, 65_536, (10, 9, 3), dtype=np.uint16)
    data = deep_tiff(values, packed=packed, predictor=predictor, order=order)
    with pytest.raises(UnlikeError, match="a.png is 16-bit"):
        prepared(data)
    image, kinds = prepared(data, window=(1_000, 50_000))
    np.testing.assert_array_equal(image.transpose(1, 2, 0), windowed(values, 1_000, 50_000))
    assert kinds == {"16-bit or floating": 1, "clipped": 1}
    with pytest.raises(DataError, match=r"a.png (is|cannot be)"):
        prepared(data[:60] + data[200:], window=(0, 1))


@pytest.mark.parametrize("orientation", range(10))
def test_deep_tiff_is_turned_upright_as_pillow_turns_others(orientation: int) -> None:
    values = 257 * np.random.default_rng(0).integers(0, 256, (8, 12, 3))
    data = deep_tiff(values, packed=False, predictor=1, order="<", orientation=orientation)
    image, _ = prepared(data, window=(0, 65_535))
    # Of each number, Pillow keeps the higher byte.
    expected = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(image.transpose(1, 2, 0), expected)


def test_deep_tiff_of_four_numbers_in_each_pixel_is_refused() -> None:
    values = np.random.default_rng(0).integers(0, 65_536, (8, 12, 4))
    data = deep_tiff(values, packed=False, predictor=1, order="<")
    assert Image.open(io.BytesIO(data)).mode == "RGB"
    with pytest.raises(DataError, match="a.png is a 16-bit TIFF in mode RGB"):
        prepared(data, window=(0, 65_535))


def windowed(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = (values.astype(np.float64) - low) / (high - low) * 255
    found: np.ndarray = np.clip(np.floor(scaled + 0.5), 0, 255).astype(np.uint8)
    return found


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "floating", "RGB"])
def test_more_than_eight_bits_need_a_window(form: str, encode: Encode) -> None:
    rng = np.random.default_rng(0)
    values: np.ndarray = rng.integers(0, 65_536, (6, 9), dtype=np.uint16)
    window = (1_000.0, 50_000.0)
    if form == "floating":
        values, window = rng.normal(size=(6, 9)).astype(np.float32), (-1.0, 1.0)
    if form == "RGB":
        values = rng.integers(0, 65_536, (6, 9, 3), dtype=np.uint16)
        data = deep_png(values)
    else:
        data = encode(Image.fromarray(values), "TIFF" if form == "floating" else form)
    with pytest.raises(UnlikeError, match=r"a.png is (16-bit|floating); .* Give window LOW,HIGH"):
        prepared(data)
    image, kinds = prepared(data, window=window)
    expected = windowed(values, *window)
    np.testing.assert_array_equal(image, np.atleast_3d(expected).transpose(2, 0, 1))
    assert kinds == {"16-bit or floating": 1, "clipped": 1}


def test_a_window_is_the_inverse_of_what_networks_see(encode: Encode) -> None:
    """Numbers in [-1, 1] become bytes as `float_to_uint8` makes them."""
    u = np.arange(256).reshape(16, 16)
    data = encode(Image.fromarray((u / 127.5 - 1).astype(np.float32)), "TIFF")
    np.testing.assert_array_equal(prepared(data, window=(-1.0, 1.0))[0][0], u)


def test_a_value_that_is_not_a_number_is_refused(encode: Encode) -> None:
    data = encode(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF")
    with pytest.raises(DataError, match="a.png holds a value that is not a number"):
        prepared(data, window=(0.0, 1.0))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_on_request_and_counted(
    orientation: int, form: str, photo: Image.Image, encode: Encode
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo, form, exif=exif)
    stored = Image.open(io.BytesIO(data))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    counted = {} if orientation == 1 else {ORIENTED: 1}
    image, kinds = prepared(data, exif="apply")
    np.testing.assert_array_equal(image.transpose(1, 2, 0), upright)
    assert kinds == counted
    image, kinds = prepared(data)
    np.testing.assert_array_equal(image.transpose(1, 2, 0), np.asarray(stored))
    assert kinds == counted


def test_the_content_counts_and_not_the_suffix(photo: Image.Image, encode: Encode) -> None:
    expected = decode_image(encode(photo, "JPEG"), "a.jpg")
    np.testing.assert_array_equal(decode_image(encode(photo, "JPEG"), "a.png"), expected)


@pytest.mark.parametrize("form", ["PPM", "PGM", "JPEG2000", "AVIF", "HEIF"])
def test_a_size_beyond_reason_is_refused_before_anything_is_decoded(
    form: str, photo: Image.Image, encode: Encode
) -> None:
    """64x64 pixels that claim to be more than an image may have."""
    photo = photo.resize((64, 64))
    if form in ("PPM", "PGM"):
        data = f"{'P6' if form == 'PPM' else 'P5'} 9001 9001 65535\n".encode() + bytes(100)
    else:
        data = heif(photo) if form == "HEIF" else encode(photo, form)
        data = data.replace(struct.pack(">II", 64, 64), struct.pack(">II", 9001, 9001))
    with pytest.raises(DataError, match="a.png (announces 9001|cannot be decoded)"):
        prepared(data)


def test_an_orientation_behind_a_preview_is_found(encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = np.random.default_rng(0).integers(0, 256, (3, 16, 24), np.uint8)
    data = encode(photo, "JPEG", exif=exif)
    at = data.index(b"\xff\xe1")
    preview = b"\xff\xed" + struct.pack(">H", 42) + b"Photoshop 3.0\0\xff\xda" + bytes(24)
    data = data[:at] + preview + data[at:]
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    image, kinds = prepared(data, exif="apply")
    np.testing.assert_array_equal(image, upright.transpose(2, 0, 1))
    assert kinds == {ORIENTED: 1}


@pytest.mark.parametrize("most", [1023, 4095, 65535])
def test_a_window_is_one_of_the_numbers_in_a_pgm(most: int) -> None:
    numbers = np.random.default_rng(0).integers(0, most + 1, (7, 9)).astype(">u2")
    data = f"P5\n9 7\n{most}\n".encode() + numbers.tobytes()
    expected = np.floor(255 * (numbers / most) + 0.5)
    image, _ = prepared(data, window=(0, most))
    np.testing.assert_array_equal(image[0], expected)
