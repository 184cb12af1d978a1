"""Scans to report on."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from memaudit.audit.scan import ScanResult, scan
from memaudit.data.images import ImageSet


def smooth_images(num_images: int, size: int, seed: int) -> np.ndarray:
    """Colour gradients, uint8 [N, 3, size, size]: as little alike as photographs are."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 255, (num_images, 3, 2, 2))
    t = np.linspace(0, 1, size)
    rows = corners[:, :, :1] * (1 - t[:, None]) + corners[:, :, 1:] * t[:, None]
    images = rows[..., :1] * (1 - t) + rows[..., 1:] * t
    return images.round().astype(np.uint8)


@pytest.fixture(scope="session")
def make_result() -> Callable[..., ScanResult]:
    """A scan of `copies` exact copies and `others` new images against 60 training images.

    `sampled` gives them seeds from 100 on and a checkpoint that they are said to come from.
    """

    def make(
        copies: int = 20,
        others: int = 40,
        *,
        size: int = 16,
        name: str = "train/{:03d}.png",
        sampled: bool = False,
    ) -> ScanResult:
        images = smooth_images(60, size, seed=0)
        names = [name.format(i) for i in range(60)]
        train = ImageSet(images, names, source="train")
        generated = np.concatenate([images[:copies], smooth_images(others, size, seed=1)])
        keys = [f"generated/{i:03d}.png" for i in range(len(generated))]
        result = scan(ImageSet(generated, keys, source="generated"), train)
        if not sampled:
            return result
        seeds = tuple(range(100, 100 + len(generated)))
        checkpoint = {
            "kind": "checkpoint",
            "path": "model.safetensors",
            "sha256": "0" * 64,
            "format": "native",
            "config": {"class_name": "EDMPrecond", "sigma_max": float("inf")},
            "provenance": {},
        }
        config = replace(result.config, seeds=seeds)
        return replace(result, source=checkpoint, keys=seeds, config=config)

    return make
