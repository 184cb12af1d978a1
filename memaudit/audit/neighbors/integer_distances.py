"""Squared distances between images as exact integers.

S(x, y) = Σ (x − y)² over the D = C·H·W pixel values. Floats carry the sums because processors are
fastest with them. Blocks are so short that every partial sum is an integer of at most 2²⁴, which
float32 holds exactly; blocks are added in float64 or int64. Factors have at most 8 bits, so that
products stay exact even if torch is told to multiply in TF32 or bfloat16.

A key S·N + index is one integer that orders images by distance, ties to the lower index. As
S < D·2¹⁶, keys stay below 2⁶³ for training sets under 128 TiB.

Legend: B queries, N training images, M pairs, D pixel values per image, K neighbors, R radii.
"""

from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

DIFFERENCE_BLOCK = 256  # 256 · 255² < 2²⁴
PRODUCT_BLOCK = 1024  # 1024 · 128² = 2²⁴, for pixel values less 128
CPU_BLOCK_BYTES = 4 << 20  # a block of float32 rows that fits in the cache
CUDA_BLOCK_BYTES = 256 << 20

FARTHEST = np.iinfo(np.int64).max  # the key of an image that must not be found


def row_blocks(num_rows: int, num_columns: int, device: torch.device) -> Iterator[slice]:
    """Cut rows into slices so that float32 [rows, num_columns] is a block of suitable size."""
    block_bytes = CPU_BLOCK_BYTES if device.type == "cpu" else CUDA_BLOCK_BYTES
    rows = max(1, block_bytes // (4 * num_columns))
    for start in range(0, num_rows, rows):
        yield slice(start, min(start + rows, num_rows))


def to_device(images: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Images as a uint8 tensor to read from; they may be memory-mapped, or not writable."""
    if isinstance(images, Tensor):
        return images.to(device)
    return torch.from_numpy(np.require(images, requirements="W")).to(device)


def to_float(images: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Pixel values 0…255 as a float32 tensor that shares no memory with the images."""
    return to_device(images, device).to(torch.float32)


def pair_distances(
    x: np.ndarray,
    y: np.ndarray | Tensor,
    x_index: np.ndarray,
    y_index: np.ndarray,
    *,
    device: torch.device,
) -> np.ndarray:
    """S(x[i], y[j]) for M pairs (i, j).

    Args:
        x, y: images, uint8 [B, D] and [N, D]; may be memory-mapped, or y on the device.
        x_index, y_index: int64 [M] each.
        device: where to compute.

    Returns:
        int64 [M].
    """
    D = x.shape[1]
    num_blocks = D // DIFFERENCE_BLOCK
    whole = num_blocks * DIFFERENCE_BLOCK
    result = np.empty(len(x_index), dtype=np.int64)
    for part in row_blocks(len(x_index), 2 * D, device):  # x and y
        squares = to_float(x[x_index[part]], device)
        squares.sub_(to_device(y[y_index[part]], device)).square_()
        sums = squares[:, :whole].view(len(squares), num_blocks, DIFFERENCE_BLOCK).sum(2)
        total = sums.to(torch.int64).sum(1) + squares[:, whole:].sum(1).to(torch.int64)
        result[part] = total.cpu().numpy()
    return result


def nearest_by_brute_force(
    x: np.ndarray, images: np.ndarray | Tensor, k: int, *, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest training images, from all B·N distances, ties to the lower index.

    Args:
        x: queries, uint8 [B, D].
        images: uint8 [N, D]; may be memory-mapped, or on the device.
        k: 1 … N.
        device: where to compute.

    Returns:
        index int64 [B, k] and squared distance int64 [B, k], in ascending order.
    """
    best = torch.empty(len(x), 0, dtype=torch.int64, device=device)
    for keys in _all_keys([x], images, device):
        keys = torch.cat([best, keys], 1)
        best = keys.topk(min(k, keys.shape[1]), largest=False).values
    return split_keys(best.cpu().numpy(), len(images))


def nearest_distinct_by_brute_force(
    x: Sequence[np.ndarray],
    first: Sequence[np.ndarray],
    images: np.ndarray | Tensor,
    limits: Sequence[int],
    *,
    device: torch.device,
    leave_out_equal: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest training image y to each x with S(first, y) > limit, for R limits.

    Args:
        x: queries in one or more orientations, uint8 [B, D] each; the smaller S counts.
        first: images whose duplicates do not count, in the same orientations.
        images: uint8 [N, D]; may be memory-mapped, or on the device.
        limits: the largest S of a duplicate, R values.
        device: where to compute.
        leave_out_equal: whether images that equal x do not count either.

    Returns:
        index int64 [B, R] and squared distance int64 [B, R], ties to the lower index; -1 if all
        images are duplicates.
    """
    best = torch.full((len(x[0]), len(limits)), FARTHEST, device=device)
    for keys, (_, apart) in zip(
        _all_keys(x, images, device), all_distances(first, images, device), strict=True
    ):
        if leave_out_equal:
            keys = keys.masked_fill(keys < len(images), FARTHEST)  # S = 0
        nearest = [keys.masked_fill(apart <= limit, FARTHEST).amin(1) for limit in limits]
        best = torch.minimum(best, torch.stack(nearest, 1))
    return split_keys(best.cpu().numpy(), len(images))


def split_keys(keys: np.ndarray, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """index and S of keys S·N + index, int64; both are -1 where the key is FARTHEST."""
    squared_distance, index = np.divmod(keys, num_images)
    none = keys == FARTHEST
    return np.where(none, -1, index), np.where(none, -1, squared_distance)


def squared_norms(x: Tensor) -> Tensor:
    """‖x‖² of the rows, float64 [B]; exact if x holds integers and the sums stay below 2⁵³."""
    return x.to(torch.float64, copy=True).square_().sum(1)


def all_distances(
    x: Sequence[np.ndarray], images: np.ndarray | Tensor, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """S between every query and the images, block by block: which images, and int64 [B, n].

    Args:
        x: queries in one or more orientations, uint8 [B, D] each; the smallest S counts.
        images: uint8 [N, D]; may be memory-mapped, or on the device.
        device: where to compute.
    """
    B, D = x[0].shape
    centered = [to_float(rows, device).sub_(128) for rows in x]
    norm = squared_norms(centered[0])  # the same in every orientation
    for part in row_blocks(len(images), max(B, D), device):
        y = to_float(images[part], device).sub_(128)
        squared_norm_sum = norm[:, None] + squared_norms(y)
        S = [(squared_norm_sum - 2 * _product(rows, y)).to(torch.int64) for rows in centered]
        yield part, reduce(torch.minimum, S)


def _product(x: Tensor, y: Tensor) -> Tensor:
    """x·y of all pairs, exact, float64 [B, n]; x and y are pixel values less 128, float32."""
    product = torch.zeros(len(x), len(y), dtype=torch.float64, device=x.device)
    blocks = zip(torch.split(x, PRODUCT_BLOCK, 1), torch.split(y, PRODUCT_BLOCK, 1), strict=True)
    for x_block, y_block in blocks:
        product += x_block @ y_block.T
    return product


def _all_keys(
    x: Sequence[np.ndarray], images: np.ndarray | Tensor, device: torch.device
) -> Iterator[Tensor]:
    """Keys for every query and the images, block by block; int64 [B, n]."""
    for part, S in all_distances(x, images, device):
        yield S * len(images) + torch.arange(part.start, part.stop, device=device)
