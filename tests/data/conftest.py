"""Small pictures to store in every form, and a cache that no other test sees."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.images import Encode
from PIL import Image

from memaudit.data import sources


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MEMAUDIT_CACHE", str(folder))
    return folder


@pytest.fixture
def pixels() -> np.ndarray:
    """Six RGB images, uint8 [6, 3, 8, 8]."""
    return np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), np.uint8)


@pytest.fixture
def gray_pixels() -> np.ndarray:
    """Six gray images, uint8 [6, 1, 8, 8]."""
    return np.random.default_rng(1).integers(0, 256, (6, 1, 8, 8), np.uint8)


@pytest.fixture
def encode() -> Encode:
    """Encodes pixels, as PNG by default."""

    def encode(image: np.ndarray | Image.Image, form: str = "PNG", **options: Any) -> bytes:
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        file = io.BytesIO()
        image.save(file, form, **options)
        return file.getvalue()

    return encode


@pytest.fixture
def photo() -> Image.Image:
    """Smooth in places and noisy in others, of odd height and width."""
    rng = np.random.default_rng(2)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8)).resize((67, 45))
    noise = rng.integers(-20, 21, (45, 67, 3))
    return Image.fromarray(np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8))


@pytest.fixture
def folder(
    tmp_path: Path, pixels: np.ndarray, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Six images in class folders, large enough for the cache."""
    monkeypatch.setattr(sources, "MAPPED_FROM", 500)
    for i, image in enumerate(pixels):
        file = tmp_path / "set" / f"class {i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(image))
    return tmp_path / "set"
