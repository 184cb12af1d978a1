"""Sets of images in tests, in the types that tests need."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from memaudit.data.images import ImageSet

Encode = Callable[..., bytes]
"""(pixels uint8 [C, H, W] or a PIL image, form, options) → the bytes of an image file."""


def labels_of(images: ImageSet) -> list[int]:
    """The labels of a set that must have some."""
    assert images.labels is not None
    return [int(label) for label in images.labels]


def smooth_images(num_images: int, size: int, seed: int) -> np.ndarray:
    """Color gradients, uint8 [N, 3, size, size]: as little alike as photographs are."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 255, (num_images, 3, 2, 2))
    t = np.linspace(0, 1, size)
    rows = corners[:, :, :1] * (1 - t[:, None]) + corners[:, :, 1:] * t[:, None]
    images = rows[..., :1] * (1 - t) + rows[..., 1:] * t
    return images.round().astype(np.uint8)


def write_files(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write files as a zip or a folder, as the suffix says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return path
