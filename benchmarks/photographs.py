"""Synthetic images for benchmarks, where no photographs are at hand.

Random fields with the power spectrum of photographs: amplitude 1/f^1.3, contrast that differs
between images, and channels that mostly agree.
"""

from functools import cache

import numpy as np
from scipy.fft import idctn


def random_fields(num_images: int, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """uint8 [N, *shape], shape being (C, H, W)."""
    rng = np.random.default_rng(seed)
    C, H, W = shape
    frequency = np.hypot(*np.meshgrid(np.arange(H), np.arange(W), indexing="ij"))
    amplitude = (np.maximum(frequency, 0.7) ** -1.3).astype(np.float32)
    gray = _normal_numbers(rng, num_images, H * W).reshape(num_images, 1, H, W)
    color = _normal_numbers(rng, num_images, C * H * W).reshape(num_images, C, H, W)
    field = idctn((gray + 0.3 * color) * amplitude, axes=(2, 3), norm="ortho")
    contrast = rng.lognormal(np.log(900), 0.4, (num_images, 1, 1, 1)).astype(np.float32)
    images: np.ndarray = np.clip(field * contrast + 120, 0, 255).astype(np.uint8)
    return images


@cache
def _normal_table() -> np.ndarray:
    """float32 [2²⁴], the same everywhere."""
    return np.random.default_rng(0).standard_normal(2**24, dtype=np.float32)


def _normal_numbers(rng: np.random.Generator, num_rows: int, num_columns: int) -> np.ndarray:
    """Take rows from random places of a table, ten times as fast as new numbers."""
    starts = rng.integers(0, 2**24 - num_columns, num_rows)
    return np.stack([_normal_table()[start : start + num_columns] for start in starts])
