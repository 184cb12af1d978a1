"""torchvision's decoder against PIL's."""

import io
from typing import Any

import numpy as np
import pytest
from helpers.hostile_images import announcing
from helpers.images import Encode
from PIL import Image

from memaudit.data.readers import jpeg
from memaudit.data.readers.decoding import decode_image
from memaudit.data.readers.jpeg import decode_jpeg
from memaudit.errors import DataError


def with_pil(data: bytes) -> np.ndarray:
    return np.atleast_3d(np.asarray(Image.open(io.BytesIO(data)))).transpose(2, 0, 1)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [5, 75, 100])
def test_the_fast_jpeg_decoder_equals_pil(
    quality: int,
    subsampling: int,
    options: dict[str, Any],
    progressive: bool,
    photo: Image.Image,
    encode: Encode,
) -> None:
    options = options | {"quality": quality, "progressive": progressive}
    for data in (
        encode(photo, "JPEG", subsampling=subsampling, **options),
        encode(photo.convert("L"), "JPEG", **options),
    ):
        np.testing.assert_array_equal(decode_jpeg(data, max_pixels=10_000), with_pil(data))


def test_a_jpeg_announces_its_shape_before_it_is_decoded(
    photo: Image.Image, encode: Encode
) -> None:
    assert jpeg._announced_shape(encode(photo, "JPEG")) == (3, 45, 67)
    assert jpeg._announced_shape(encode(photo.convert("L"), "JPEG", progressive=True)) == (
        1,
        45,
        67,
    )
    assert jpeg._announced_shape(encode(photo.convert("CMYK"), "JPEG")) is None
    assert jpeg._announced_shape(encode(photo, "JPEG")[:100]) is None


def test_a_decoder_with_other_pixels_is_not_used(photo: Image.Image, encode: Encode) -> None:
    assert jpeg._agrees_with_pil(with_pil)
    assert not jpeg._agrees_with_pil(lambda data: with_pil(data) ^ 1)


def test_without_the_fast_decoder_pil_decodes_jpeg(
    photo: Image.Image, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jpeg, "_decoder", lambda: None)
    data = encode(photo, "JPEG")
    np.testing.assert_array_equal(decode_image(data, "a"), with_pil(data))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_header_that_announces_more_than_there_is_is_refused(
    mode: str, options: dict[str, Any], progressive: bool, photo: Image.Image, encode: Encode
) -> None:
    data = encode(photo.convert(mode), "JPEG", progressive=progressive, **options)
    for width, height in ((67, 64 + 45), (67 + 64, 45), (200, 200), (67, 3000)):
        with pytest.raises(DataError, match="its data end before its last|than its .* can hold"):
            decode_image(announcing(data, width, height), "a")


@pytest.mark.parametrize(
    ("options", "shares"),
    # Without its last scans a progressive image is whole, but coarse.
    [({}, (2, 4, 8)), ({"restart_marker_blocks": 2}, (2, 4, 8)), ({"progressive": True}, (2,))],
)
def test_an_image_cut_before_its_end_marker_is_refused(
    options: dict[str, Any], shares: tuple[int, ...], photo: Image.Image, encode: Encode
) -> None:
    data = encode(photo, "JPEG", **options)
    for share in shares:
        with pytest.raises(DataError, match="a cannot be decoded: "):
            decode_image(data[: -len(data) // share] + b"\xff\xd9", "a")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_odd_images_that_are_whole_are_opened(
    mode: str, options: dict[str, Any], photo: Image.Image, encode: Encode
) -> None:
    gray = Image.new(mode, (67, 45), (128,) * len(mode) if mode == "RGB" else 128)
    corner = photo.convert(mode)
    corner.paste(gray.crop((0, 0, 40, 30)), (27, 15))
    for picture in (photo.convert(mode), gray, corner, corner.crop((3, 5, 60, 45))):
        data = encode(picture, "JPEG", exif=b"Exif\0\0" + encode(photo, "JPEG"), **options)
        end = data.rindex(b"\xff\xd9")
        for odd in (
            data,
            data + b"\0" * 100,
            data + encode(photo, "JPEG"),
            data[:end] + bytes(range(1, 200)) + data[end:],
            data[:end] + b"\xff\xff\xff" + data[end:],
        ):
            np.testing.assert_array_equal(decode_image(odd, "a"), decode_image(data, "a"))
