"""Sets of images in tests, in the types that tests need."""

from collections.abc import Callable

from memaudit.data.images import ImageSet

Encode = Callable[..., bytes]
"""(pixels uint8 [C, H, W] or a PIL image, form, options) → the bytes of an image file."""


def labels_of(images: ImageSet) -> list[int]:
    """The labels of a set that must have some."""
    assert images.labels is not None
    return [int(label) for label in images.labels]
