"""Squared distances between images as exact integers.

S(x, y) = Σ (x − y)² over the D = C·H·W pixel values. Floats carry the sums because processors are
fastest at them, in blocks so short that every partial sum is an integer below 2²⁴, which float32
holds exactly; blocks are added in float64 or int64.

Legend: B queries, N training images, M pairs, D pixel values an image, K neighbors.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

DIFFERENCE_BLOCK = 256  # 256 · 255² < 2²⁴
PRODUCT_BLOCK = 1024  # 1024 · 128² = 2²⁴, pixel values less 128
BLOCK_BYTES = 32 << 20  # of float32 at a time


def blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Cut rows of `num_columns` float32 into slices that fit a bounded buffer."""
    rows = max(1, BLOCK_BYTES // (4 * max(1, num_columns)))
    for start in range(0, num_rows, rows):
        yield slice(start, min(start + rows, num_rows))


def pair_distances(x: np.ndarray, y: np.ndarray, *, device: torch.device) -> np.ndarray:
    """S(x_m, y_m) for M pairs.

    Args:
        x, y: uint8 [M, D].
        device: where to compute.

    Returns:
        int64 [M].
    """
    num_pairs, D = x.shape
    result = np.empty(num_pairs, dtype=np.int64)
    whole = D - D % DIFFERENCE_BLOCK
    for part in blocks(num_pairs, D):
        difference = _float(x[part], device).sub_(_float(y[part], device)).square_()
        sums = difference[:, :whole].unflatten(1, (-1, DIFFERENCE_BLOCK)).sum(2)
        total = sums.to(torch.int64).sum(1) + difference[:, whole:].sum(1).to(torch.int64)
        result[part] = total.cpu().numpy()
    return result


def nearest_by_brute_force(
    queries: np.ndarray, images: np.ndarray, k: int, *, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest training images by all B·N distances, ties to the lower index.

    Args:
        queries: uint8 [B, D].
        images: uint8 [N, D], which may be memory-mapped.
        k: 1 … N.
        device: where to compute.

    Returns:
        index int64 [B, k] and squared distance int64 [B, k], in ascending order.
    """
    B, D = queries.shape
    x = _float(queries, device).sub_(128)
    x_norm = _squared_norms(x)
    index = np.empty((B, 0), dtype=np.int64)
    squared_distance = np.empty((B, 0), dtype=np.int64)
    for part in blocks(len(images), max(D, 2 * B)):
        y = _float(images[part], device).sub_(128)
        product = torch.zeros(B, len(y), dtype=torch.float64, device=device)
        for start in range(0, D, PRODUCT_BLOCK):
            stop = start + PRODUCT_BLOCK
            product += x[:, start:stop] @ y[:, start:stop].T
        exact = x_norm[:, None] + _squared_norms(y) - 2 * product  # [B, n]
        # One integer orders by (distance, index): below 2⁶³ while D · n < 2⁴⁷.
        key = exact.to(torch.int64) * len(y) + torch.arange(len(y), device=device)
        best = key.topk(min(k, len(y)), largest=False).values.cpu().numpy()
        squared_distance, index = smallest(
            np.hstack([squared_distance, best // len(y)]),
            np.hstack([index, best % len(y) + part.start]),
            k,
        )
    return index, squared_distance


def smallest(
    squared_distance: np.ndarray, index: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k smallest of each row by (squared distance, index), ascending; int64 [B, M] → [B, k]."""
    order = np.lexsort((index, squared_distance), axis=1)[:, :k]
    return np.take_along_axis(squared_distance, order, 1), np.take_along_axis(index, order, 1)


def _float(images: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(images)).to(device).to(torch.float32)


def _squared_norms(x: Tensor) -> Tensor:
    """‖x‖² of integer rows, float64 [B]: float64 holds every sum below 2⁵³ exactly."""
    return x.to(torch.float64).square_().sum(1)
