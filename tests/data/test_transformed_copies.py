"""Transformed copies: each against its definition, at any size, gray and RGB."""

import io

import numpy as np
import pytest
from PIL import Image

from memaudit.data.transformed_copies import transformations

SHAPES = [(3, 32, 32), (1, 32, 32), (3, 2, 2), (1, 2, 2), (3, 8, 8), (1, 5, 9), (3, 1, 1)]


def draw(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make(key: str, images: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    by_key = {each.key: each for each in transformations(images.shape[1:])}
    others = draw(images.shape, seed=9) if others is None else others
    return by_key[key].apply(images, others, np.random.default_rng(1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_copy_is_an_image_of_the_same_shape_and_the_original_stays(shape):
    images, others = draw((5, *shape)), draw((5, *shape), seed=9)
    before = images.copy()
    kinds = transformations(shape)
    assert len({kind.key for kind in kinds}) == len(kinds)
    for kind in kinds:
        copies = kind.apply(images, others, np.random.default_rng(1))
        assert (copies.dtype, copies.shape) == (np.uint8, images.shape), kind.key
        assert np.array_equal(copies, images) == (kind.key == "exact"), kind.key
    assert np.array_equal(images, before)


def test_lengths_are_in_proportion_to_the_resolution():
    phrases = {
        size: {each.key: each.phrase for each in transformations((3, size, size))}
        for size in (8, 32, 128)
    }
    assert phrases[32]["shift-1"] == "shifted by 1 pixel"
    assert phrases[32]["shift-2"] == "shifted by 2 pixels"
    assert phrases[128]["shift-1"] == "shifted by 4 pixels"
    assert phrases[8]["shift-1"] == "shifted by 1 pixel"
    assert [phrases[size]["crop"] for size in (8, 32, 128)] == [
        "cropped to 7×7 and enlarged",
        "cropped to 28×28 and enlarged",
        "cropped to 112×112 and enlarged",
    ]
    assert phrases[128]["corner"] == "with a corner of 48×48 replaced"
    assert "gray" in phrases[8] and "gray" not in {each.key for each in transformations((1, 8, 8))}


def test_noise_has_the_level_it_is_named_for():
    """On mid gray nothing is clipped: RMS = √(σ² + 1/12), the rounding's variance."""
    flat = np.full((40, 3, 32, 32), 128, dtype=np.uint8)
    for levels in (4, 8, 16, 24):
        difference = make(f"noise-{levels}", flat).astype(float) - 128
        assert np.sqrt((difference**2).mean()) == pytest.approx(
            np.hypot(levels, 12**-0.5), rel=0.01
        )


def test_jpeg_is_what_pil_saves():
    for C, mode in ((1, "L"), (3, "RGB")):
        images = draw((2, C, 16, 16))
        copies = make("jpeg-30", images)
        for image, copy in zip(images, copies, strict=True):
            file = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0).squeeze(), mode).save(file, "JPEG", quality=30)
            expected = np.asarray(Image.open(file))
            assert np.array_equal(np.atleast_3d(expected).transpose(2, 0, 1), copy)


def test_moves_repeat_the_edge_and_mirrors_turn_around():
    row = np.array([10, 20, 30, 40], dtype=np.uint8)
    images = np.broadcast_to(row, (1, 1, 4, 4)).copy()
    assert make("shift-1", images)[0, 0, 0].tolist() == [10, 10, 20, 30]
    assert make("shift-2", images)[0, 0, 0].tolist() == [10, 10, 10, 20]
    assert make("mirror", images)[0, 0, 0].tolist() == [40, 30, 20, 10]


def test_a_crop_of_a_flat_image_is_flat_and_of_a_bright_frame_has_none():
    framed = np.full((1, 3, 32, 32), 100, dtype=np.uint8)
    assert np.array_equal(make("crop", framed), framed)
    framed[..., :2, :] = framed[..., -2:, :] = framed[..., :2] = framed[..., -2:] = 255
    assert (make("crop", framed) == 100).all()


def test_tones_change_as_named():
    images = draw((4, 3, 8, 8))
    brighter = make("brighter", images).astype(int)
    assert np.array_equal(brighter, np.minimum(images.astype(int) + 20, 255))
    gray = make("gray", images)
    luma = [np.asarray(Image.fromarray(each.transpose(1, 2, 0)).convert("L")) for each in images]
    assert np.abs(gray.astype(int) - np.stack(luma)[:, None]).max() <= 1
    low = make("contrast", images).astype(float)
    deviation = images - images.mean((1, 2, 3), keepdims=True)
    assert np.abs(low - images.mean((1, 2, 3), keepdims=True) - 0.8 * deviation).max() <= 0.51


def test_parts_come_from_the_other_image():
    images, others = np.full((1, 1, 32, 32), 10, np.uint8), np.full((1, 1, 32, 32), 110, np.uint8)
    corner = make("corner", images, others)
    assert (corner[..., :12, :12] == 110).all() and (corner == 110).sum() == 144
    half = make("half", images, others)
    assert (half[..., :16] == 10).all() and (half[..., 16:] == 110).all()
    assert (make("blend-20", images, others) == 30).all()
    assert (make("blend-50", images, others) == 60).all()
