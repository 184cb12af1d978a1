"""torchvision's decoder against PIL's."""

import io
from typing import Any

import numpy as np
import pytest
from helpers.images import Encode
from PIL import Image

from memaudit.data.readers import jpeg
from memaudit.data.readers.decoding import decode_image
from memaudit.data.readers.jpeg import decode_jpeg


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
