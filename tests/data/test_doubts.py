"""Images that cannot be what somebody meant are named; others are not."""

import numpy as np
import pytest

from memaudit.data.doubts import doubts_about
from memaudit.data.images import ImageSet

RNG = np.random.default_rng(0)
SHAPE = (5, 3, 8, 8)
PHOTOS = RNG.integers(0, 256, SHAPE, np.uint8)


@pytest.mark.parametrize(
    ("pixels", "signs"),
    [
        (RNG.random(SHAPE).round().astype(np.uint8), ["is 0 or 1, as if numbers in [0, 1]"]),
        (np.ones(SHAPE, np.uint8), ["is 0 or 1", "has a single color", "are equal"]),
        (
            RNG.choice([0, 1, 255], SHAPE).astype(np.uint8),
            ["is 0, 1 or 255, as if numbers in [-1, 1]"],
        ),
        (RNG.integers(2, 255, (5, 3, 1, 1)).repeat(64, 3).astype(np.uint8), ["a single color"]),
        (np.full(SHAPE, 7, np.uint8), ["has a single color", "are equal"]),
        (PHOTOS[[0] * 5], ["All 5 images in photos are equal"]),
        # Ordinary ones.
        (PHOTOS, []),
        (PHOTOS[:1], []),
        (255 * (PHOTOS > 127).astype(np.uint8), []),
        (PHOTOS[[0, 0, 0, 0, 1]], []),
        (PHOTOS // 16, []),
        (np.concatenate([np.zeros((40, 3, 8, 8), np.uint8), PHOTOS]), []),
    ],
)
def test_images_that_are_not_what_was_meant_are_named(pixels: np.ndarray, signs: list[str]) -> None:
    found = doubts_about(ImageSet(pixels, [""] * len(pixels), source="photos"))
    assert len(found) == len(signs)
    for text, sign in zip(found, signs, strict=True):
        assert sign in text and "photos" in text
