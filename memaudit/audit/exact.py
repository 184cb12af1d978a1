"""Squared distances between images as exact integers.

S(x, y) = Σ (x − y)² over the D = C·H·W pixel values. Floats carry the sums because processors are
fastest at them, in blocks so short that every partial sum is an integer of at most 2²⁴, which
float32 holds exactly; blocks are added in float64 or int64. Factors have at most 8 bits, so that
products stay exact even where torch is told to multiply in TF32 or bfloat16.

Legend: B queries, N training images, M pairs, D pixel values an image, K neighbors.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

DIFFERENCE_BLOCK = 256  # 256 · 255² < 2²⁴
PRODUCT_BLOCK = 1024  # 1024 · 128² = 2²⁴, of pixel values less 128
CPU_BLOCK_BYTES = 4 << 20  # a block of float32 rows that stays in the cache
CUDA_BLOCK_BYTES = 256 << 20

FARTHEST = np.iinfo(np.int64).max


def row_blocks(num_rows: int, num_columns: int, device: torch.device) -> Iterator[slice]:
    """Cut rows into slices of which float32 [rows, num_columns] is a block of fitting size."""
    block_bytes = CPU_BLOCK_BYTES if device.type == "cpu" else CUDA_BLOCK_BYTES
    rows = max(1, block_bytes // (4 * num_columns))
    for start in range(0, num_rows, rows):
        yield slice(start, min(start + rows, num_rows))


def to_float(images: np.ndarray, device: torch.device) -> Tensor:
    """Pixel values 0…255 as float32 on the device; `images` may be memory-mapped, read-only."""
    return torch.from_numpy(np.array(images)).to(device).to(torch.float32)


def pair_distances(
    x: np.ndarray,
    y: np.ndarray,
    x_index: np.ndarray,
    y_index: np.ndarray,
    *,
    device: torch.device,
) -> np.ndarray:
    """S(x[i], y[j]) for M pairs (i, j).

    Args:
        x, y: images, uint8 [B, D] and [N, D]; may be memory-mapped.
        x_index, y_index: int64 [M] each.
        device: where to compute.

    Returns:
        int64 [M].
    """
    D = x.shape[1]
    whole = D - D % DIFFERENCE_BLOCK
    result = np.empty(len(x_index), dtype=np.int64)
    for part in row_blocks(len(x_index), D, device):
        difference = to_float(x[x_index[part]], device) - to_float(y[y_index[part]], device)
        squares = difference.square_()
        sums = squares[:, :whole].unflatten(1, (-1, DIFFERENCE_BLOCK)).sum(2)
        total = sums.to(torch.int64).sum(1) + squares[:, whole:].sum(1).to(torch.int64)
        result[part] = total.cpu().numpy()
    return result


def nearest_by_brute_force(
    x: np.ndarray, images: np.ndarray, k: int, *, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest training images by all B·N distances, ties to the lower index.

    Args:
        x: queries, uint8 [B, D].
        images: uint8 [N, D]; may be memory-mapped.
        k: 1 … N.
        device: where to compute.

    Returns:
        index int64 [B, k] and squared distance int64 [B, k], in ascending order.
    """
    index = np.empty((len(x), 0), dtype=np.int64)
    squared_distance = np.empty((len(x), 0), dtype=np.int64)
    for start, S in _all_distances(x, images, device):
        n = S.shape[1]
        best = _keys(S).topk(min(k, n), largest=False).values.cpu().numpy()
        squared_distance, index = smallest(
            np.hstack([squared_distance, best // n]), np.hstack([index, best % n + start]), k
        )
    return index, squared_distance


def nearest_distinct_by_brute_force(
    x: np.ndarray, first: np.ndarray, images: np.ndarray, limit: int, *, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest training image y to each x with S(first, y) > limit, ties to the lower index.

    Args:
        x: queries, uint8 [B, D].
        first: images whose duplicates do not count, uint8 [B, D].
        images: uint8 [N, D]; may be memory-mapped.
        limit: the largest S of a duplicate.
        device: where to compute.

    Returns:
        index int64 [B] and squared distance int64 [B]; -1 where all images are duplicates.
    """
    index = np.full(len(x), -1, dtype=np.int64)
    squared_distance = np.full(len(x), FARTHEST)
    for (start, S), (_, apart) in zip(
        _all_distances(x, images, device), _all_distances(first, images, device), strict=True
    ):
        n = S.shape[1]
        best = _keys(S).masked_fill_(apart <= limit, FARTHEST).amin(1).cpu().numpy()
        closer = (best < FARTHEST) & (best // n < squared_distance)
        index[closer] = best[closer] % n + start
        squared_distance[closer] = best[closer] // n
    squared_distance[index < 0] = -1
    return index, squared_distance


def smallest(
    squared_distance: np.ndarray, index: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k smallest of each row by (squared distance, index), ascending; int64 [B, M] → [B, k]."""
    order = np.lexsort((index, squared_distance), axis=1)[:, :k]
    return np.take_along_axis(squared_distance, order, 1), np.take_along_axis(index, order, 1)


def squared_norms(x: Tensor) -> Tensor:
    """‖x‖² of the rows, float64 [B]; exact where x holds integers and the sum stays below 2⁵³."""
    return x.to(torch.float64, copy=True).square_().sum(1)


def _all_distances(
    x: np.ndarray, images: np.ndarray, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """Blocks of images: the first one's index, and S of every query to each; int64 [B, n]."""
    B, D = x.shape
    centred = to_float(x, device).sub_(128)
    norm = squared_norms(centred)
    for part in row_blocks(len(images), max(B, D), device):
        y = to_float(images[part], device).sub_(128)
        product = torch.zeros(B, len(y), dtype=torch.float64, device=device)
        for x_block, y_block in zip(
            centred.split(PRODUCT_BLOCK, 1), y.split(PRODUCT_BLOCK, 1), strict=True
        ):
            product += x_block @ y_block.T
        yield part.start, (norm[:, None] + squared_norms(y) - 2 * product).to(torch.int64)


def _keys(S: Tensor) -> Tensor:
    """One integer for (S, column), which orders rows with ties to the lower column; int64 [B, n].

    S < 2⁴⁰ and n ≤ 2²³ by the size of a block.
    """
    n = S.shape[1]
    return S * n + torch.arange(n, device=S.device)
