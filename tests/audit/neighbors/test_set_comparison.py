"""Two sets are compared image by image."""

import numpy as np
import pytest
from PIL import Image

from memaudit.audit.neighbors.set_comparison import SetComparison, compare_sets
from memaudit.data.images import ImageSet

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(3, 252, (60, 3, 8, 8), np.uint8)


def as_set(pixels: np.ndarray) -> ImageSet:
    return ImageSet(pixels, [f"{i}.png" for i in range(len(pixels))])


def compared(first: np.ndarray, second: np.ndarray) -> SetComparison:
    return compare_sets(as_set(first), as_set(second), duplicate_rms=3.0)


def test_a_set_is_itself() -> None:
    found = compared(PIXELS, PIXELS.copy())
    assert found.is_same and found.first.num_equal == 60 and not found.first.alone
    assert found.summary == "They are the same images in the same order."


def test_the_order_is_told_apart_from_the_images() -> None:
    found = compared(PIXELS, PIXELS[::-1])
    assert not found.is_same and found.first.num_equal == found.second.num_equal == 60
    assert found.summary == "They are the same images in another order."


def test_every_kind_of_image_is_counted_once() -> None:
    other = PIXELS.copy()
    other[:5] += 1  # nearly equal
    other[5:9] = other[5:9, :, :, ::-1]  # mirrored
    other[9:12] = 255 - other[9:12]  # others
    found = compared(PIXELS, other)
    assert (found.first.num_equal, found.first.num_near, found.first.num_mirrored) == (48, 5, 4)
    assert found.first.alone == found.second.alone == (9, 10, 11)
    assert [(pair.first, pair.second, pair.rms) for pair in found.near] == [
        (i, i, 1.0) for i in range(5)
    ]
    assert [pair.second for pair in found.mirrored] == [5, 6, 7, 8]
    assert found.num_sampled == 3 and found.num_prepared_otherwise == 0
    assert found.summary == "They have a part of their images in common."


@pytest.mark.parametrize(
    ("first", "second", "summary"),
    [
        (PIXELS[:30], PIXELS, "The first set is a part of the second."),
        (PIXELS, PIXELS[:30], "The second set is a part of the first."),
        (PIXELS, np.concatenate([PIXELS, PIXELS[:5]]), "same images, some more than once."),
        (PIXELS[[0, 0, 1]], PIXELS[[0, 1, 1]], "They are the same images, some more than once."),
        (PIXELS, PIXELS ^ 1, "They are the same images, some nearly equal."),
        (PIXELS, PIXELS[..., ::-1], "They are the same images, some mirrored."),
        (PIXELS[:30], PIXELS[30:], "They have no image in common."),
        (PIXELS[:, :1], PIXELS[30:, :, :6, :6], "They have no image in common."),
        (PIXELS[:1], PIXELS[1:2], "They have no image in common."),
    ],
)
def test_what_follows_is_said_in_a_sentence(
    first: np.ndarray, second: np.ndarray, summary: str
) -> None:
    assert compared(first, second).summary.endswith(summary)


def photographs(number: int) -> list[Image.Image]:
    """Smooth pictures of 96 by 64 pixels."""
    coarse = RNG.integers(0, 256, (number, 6, 9, 3), np.uint8)
    return [Image.fromarray(each).resize((96, 64), Image.Resampling.BICUBIC) for each in coarse]


def prepared(pictures: list[Image.Image], share: float, size: int) -> np.ndarray:
    """The centers of pictures, of `share` of their height, as uint8 [N, 3, size, size]."""
    side = 64 * share
    box = ((96 - side) / 2, (64 - side) / 2, (96 + side) / 2, (64 + side) / 2)
    made = [each.resize((size, size), Image.Resampling.LANCZOS, box=box) for each in pictures]
    return np.stack([np.asarray(each).transpose(2, 0, 1) for each in made])


@pytest.mark.parametrize(("share", "size"), [(0.875, 32), (1.0, 48), (0.85, 24)])
def test_another_crop_or_resolution_is_known(share: float, size: int) -> None:
    pictures = photographs(40)
    one, other = prepared(pictures, 1.0, 32), prepared(pictures, share, size)
    for first, second in ((one, other), (other, one)):
        found = compared(first, second)
        assert found.first.num_equal == 0 and found.num_prepared_otherwise >= 38
        assert "the same pictures, prepared otherwise" in found.summary
    assert "no image in common" in compared(one[:20], other[20:]).summary
