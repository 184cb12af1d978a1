"""The form of the training images that a model knows, where the truth is planted."""

import numpy as np
import pytest
import torch
from PIL import Image

from memaudit.audit.denoising.preprocessing import ISOMETRIES, check_preprocessing
from memaudit.data.images import ImageSet
from memaudit.models.optimum.closed_form import ClosedFormOptimum

SIZE = 16


def pictures(num_images: int = 40, size: int = 4 * SIZE, seed: int = 0) -> np.ndarray:
    """Rectangles of random colors on a gradient, with fine noise: edges, colors and detail."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, size)
    images = np.empty((num_images, 3, size, size))
    for image in images:
        image[:] = rng.uniform(0, 255, (3, 1, 1)) * t[:, None] + rng.uniform(0, 60, (3, 1, 1))
        for _ in range(8):
            top, left = rng.integers(0, size, 2)
            height, width = rng.integers(4, size // 2, 2)
            image[:, top : top + height, left : left + width] = rng.uniform(0, 255, (3, 1, 1))
    images += rng.normal(0, 20, images.shape)
    return images.clip(0, 255).astype(np.uint8)


def resized(images: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
    return np.stack(
        [
            np.asarray(Image.fromarray(image.transpose(1, 2, 0)).resize((SIZE, SIZE), resampling))
            for image in images
        ]
    ).transpose(0, 3, 1, 2)


ORIGINALS = pictures()
TRAINED = ImageSet.from_array(resized(ORIGINALS, Image.Resampling.LANCZOS), source="train")


def learned(images: np.ndarray) -> ClosedFormOptimum:
    """A model that knows these images, and others like them."""
    return ClosedFormOptimum(images)


def test_images_as_they_were_for_training_fit_best():
    found = check_preprocessing(learned(TRAINED.images), TRAINED)
    assert found.best is None and found.num_images == 24
    assert {variant.name for variant in found.variants} == set(ISOMETRIES)
    assert all(variant.change > 1 for variant in found.variants)


@pytest.mark.parametrize("name", ISOMETRIES)
def test_the_form_that_the_model_knows_is_found(name: str):
    transform, reason = ISOMETRIES[name]
    images = transform(torch.from_numpy(np.array(TRAINED.images)).float())
    known = images.abs() if name != "inverted values" else 255 + images
    found = check_preprocessing(learned(known.to(torch.uint8).numpy()), TRAINED)
    assert found.best == name
    assert found.variants[0].p_value < 1e-3 and found.variants[0].change < 0.5
    assert name in found.message and reason in found.message


def test_a_model_that_knows_both_mirror_images_is_not_told_from_one_that_knows_one():
    both = np.concatenate([TRAINED.images, TRAINED.images[..., ::-1]])
    found = check_preprocessing(learned(both), TRAINED)
    assert found.best is None
    mirrored = next(v for v in found.variants if v.name == "mirrored")
    assert mirrored.change == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("seed", range(3))
def test_other_images_of_the_same_kind_are_not_said_to_be_prepared_wrongly(seed: int):
    """A model of other training images: no form is its own."""
    other = resized(pictures(seed=seed + 1), Image.Resampling.LANCZOS)
    assert check_preprocessing(learned(other), TRAINED).best is None


def test_images_without_any_direction_are_not_said_to_be_turned():
    noise = np.random.default_rng(0).integers(0, 256, (80, 3, 8, 8), np.uint8)
    assert check_preprocessing(learned(noise[:40]), ImageSet.from_array(noise[40:])).best is None


def test_one_image_repeated_is_one_image():
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), np.uint8)
    data = ImageSet.from_array(noise[:1].repeat(24, axis=0))
    found = check_preprocessing(learned(noise[:1, ::-1].copy()), data)
    assert found.best is None and found.variants[0].name == "reversed channels"
    assert found.variants[0].change < 0.5


@pytest.mark.parametrize("num_images", [1, 2])
@pytest.mark.parametrize("value", [0, 128])
def test_few_images_and_images_of_one_color_tell_nothing(num_images: int, value: int):
    data = ImageSet.from_array(np.full((num_images, 1, 8, 8), value, np.uint8))
    found = check_preprocessing(learned(data.images), data, originals=data)
    assert found.best is None
    assert "reversed channels" not in {variant.name for variant in found.variants}


def test_images_that_are_not_square_are_tried_without_turning_them():
    wide = np.ascontiguousarray(TRAINED.images[:, :, :12])
    given = ImageSet.from_array(wide[..., ::-1], source="train")
    originals = ImageSet.from_array(np.ascontiguousarray(ORIGINALS[:, :, :48, ::-1]))
    found = check_preprocessing(learned(wide), given, originals=originals)
    assert found.best == "mirrored"
    tried = {variant.name for variant in found.variants}
    assert "transposed" not in tried and "turned left" not in tried
    assert "center crop of 42x56 of 48x64 pixels" in tried


@pytest.mark.parametrize(
    ("name", "resampling"),
    [
        ("nearest filter", Image.Resampling.NEAREST),
        ("bilinear filter", Image.Resampling.BILINEAR),
        ("box filter", Image.Resampling.BOX),
    ],
)
def test_the_filter_that_the_model_knows_is_found(name: str, resampling: Image.Resampling):
    originals = ImageSet.from_array(ORIGINALS)
    found = check_preprocessing(
        learned(resized(ORIGINALS, resampling)), TRAINED, originals=originals
    )
    assert found.best == name


def test_the_crop_that_the_model_knows_is_found():
    originals = ImageSet.from_array(ORIGINALS)
    cropped = resized(ORIGINALS[:, :, 4:-4, 4:-4], Image.Resampling.LANCZOS)
    found = check_preprocessing(learned(cropped), TRAINED, originals=originals)
    assert found.best == "center crop of 56 of 64 pixels"
    kept = check_preprocessing(learned(TRAINED.images), TRAINED, originals=originals)
    assert kept.best is None
