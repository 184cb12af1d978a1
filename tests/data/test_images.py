"""Images as one array: made from arrays in memory, and shown in one line."""

from typing import Any

import numpy as np
import pytest
import torch

from memaudit.data.images import ImageSet, float_to_uint8, uint8_to_float
from memaudit.errors import DataError


def test_every_layout_of_an_array_gives_the_same_images(
    pixels: np.ndarray, gray_pixels: np.ndarray
) -> None:
    for array in (pixels, pixels.transpose(0, 2, 3, 1)):
        np.testing.assert_array_equal(ImageSet.from_array(array).images, pixels)
    for array in (gray_pixels, gray_pixels.transpose(0, 2, 3, 1), gray_pixels[:, 0]):
        np.testing.assert_array_equal(ImageSet.from_array(array).images, gray_pixels)


def test_an_array_is_neither_copied_nor_locked(pixels: np.ndarray) -> None:
    images = ImageSet.from_array(pixels).images
    assert np.shares_memory(images, pixels) and pixels.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


def test_a_tensor_of_bytes_is_an_array(pixels: np.ndarray) -> None:
    images = ImageSet.from_array(torch.from_numpy(pixels))  # type: ignore[arg-type]
    np.testing.assert_array_equal(images.images, pixels)


def test_names_labels_and_source_are_kept(pixels: np.ndarray) -> None:
    images = ImageSet.from_array(pixels, labels=[0, 1, 2, 0, 1, 2], source="mine")
    assert list(images.names) == [f"mine[{i}]" for i in range(6)]
    assert images.labels is not None and images.labels.dtype == np.int64
    assert images.num_classes == 3 and images.source == "mine"
    assert ImageSet.from_array(pixels).names[5] == "array[5]"
    assert list(ImageSet.from_array(pixels, list("abcdef")).names) == list("abcdef")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((4, 3, 8, 3), np.uint8),
            r"array is uint8 \[4, 3, 8, 3\], which could be \[N, C, H, W\] with images of 3 "
            r"channels, 8 x 3 pixels, or \[N, H, W, C\] with images of 3 channels, 3 x 8 pixels",
        ),
        (
            np.zeros((8, 9, 3), np.uint8),
            r"could be 8 gray images of 9 x 3 pixels or one image of 8 x 9 pixels with 3 channels. "
            r"Say which with a fourth dimension: \[8, 1, 9, 3\] or \[1, 8, 9, 3\]",
        ),
        (np.zeros((3, 8, 9), np.uint8), r"3 gray images of 8 x 9 pixels or one RGB image of 8 x 9"),
        (
            np.zeros((8, 8, 50), np.uint8),  # MATLAB's order of axes
            r"8 gray images of 8 x 50 pixels or 50 gray images of 8 x 8 pixels along another axis. "
            r"Say which with a fourth dimension: \[8, 1, 8, 50\] is the former",
        ),
        (np.zeros((8, 50, 8), np.uint8), r"or 50 gray images of 8 x 8 pixels along another axis"),
        (np.zeros((4, 4, 8, 8), np.uint8), r"It must be \[N, H, W\], \[N, C, H, W\] or"),
        (np.zeros((4, 64), np.uint8), r"is uint8 \[4, 64\]. It must be"),
        (np.zeros((4, 3, 8, 8)), r"is float64 .*; images must be uint8 0…255. Convert x in \[-1, "),
        (np.zeros((4, 3, 8, 8), np.float32), r"x in \[0, 1\] with \(255 \* x\).round\(\)"),
        (np.zeros((4, 3, 8, 8), np.int64), "is int64 .*; images must be uint8"),
    ],
)
def test_an_array_that_is_not_images_is_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImageSet.from_array(array)


def test_names_and_labels_that_do_not_match_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(DataError, match="array has 6 images but 1 names"):
        ImageSet.from_array(pixels, ["a"])
    with pytest.raises(DataError, match="mine holds 6 images but 2 labels"):
        ImageSet.from_array(pixels, labels=[0, 1], source="mine")
    with pytest.raises(DataError, match="labels count from 0"):
        ImageSet.from_array(pixels, labels=[-1, 0, 0, 0, 0, 0])


def test_a_set_is_shown_in_one_line() -> None:
    large = np.broadcast_to(np.uint8(0), (50_000, 32, 32, 3))
    labels = np.arange(50_000) % 10
    images = ImageSet.from_array(large, labels=labels, source="cifar10.zip")
    assert repr(images) == (
        "ImageSet(50,000 images, 3 x 32 x 32, 10 classes, source='cifar10.zip')"
    )
    one = ImageSet.from_array(np.zeros((1, 8, 8), np.uint8), source="a" * 1000)
    assert repr(one).startswith("ImageSet(1 image, 1 x 8 x 8, no labels, source='aaa")
    assert len(repr(one)) < 200


def test_bytes_and_floats_are_converted_as_published() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    x = uint8_to_float(values)
    assert x[0] == -1 and x[255] == 1 and x.dtype == torch.float32
    assert torch.equal(float_to_uint8(x), values)
    assert float_to_uint8(torch.tensor([-2.0, 0.0, 2.0])).tolist() == [0, 128, 255]
    with pytest.raises(ValueError, match="images must be uint8, got torch.float32"):
        uint8_to_float(x)
    with pytest.raises(ValueError, match="x must be floating, got torch.uint8"):
        float_to_uint8(values)


@pytest.mark.parametrize("shape", [(2, 3, 0, 8), (2, 3, 8, 0), (2, 0, 8, 3)])
def test_images_without_pixels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="which show nothing|must be"):
        ImageSet.from_array(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, True], "holds the label True; integers are needed"),
        ([0, 1.0], "holds the label 1.0; integers are needed"),
        ([0, [1, 2]], "holds the label a list; integers are needed"),
        ([0, "cat"], "holds the label 'cat'; integers are needed"),
        ([0, 10**30], r"holds the label 10{30}; labels count from 0, and at most 1,000,000"),
        (np.array([0, 2**63], np.uint64), "holds the label 9223372036854775808"),
        ([0, 10**6], "at most 1,000,000 classes make sense here"),
    ],
)
def test_labels_that_number_no_class_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImageSet.from_array(np.zeros((2, 3, 8, 8), np.uint8), labels=labels)


def test_labels_may_be_numpys_integers_and_as_many_as_images() -> None:
    labels = [np.int8(0), np.uint64(999_999)]
    images = ImageSet.from_array(np.zeros((2, 3, 8, 8), np.uint8), labels=labels)
    assert images.num_classes == 10**6
