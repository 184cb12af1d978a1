"""Squared distances between images as exact integers.

S(x, y) = Σ (x − y)² over the D = C·H·W pixel values. Where the machine is fast at int8 products,
all distances come from them. Elsewhere, and for single pairs, floats carry the sums because
processors are fastest with them. Blocks are so short that every partial sum is an integer of at
most 2²⁴, which float32 holds exactly; blocks are added in float64 or int64. Factors have at most 8
bits, so that products stay exact even if torch is told to multiply in TF32 or bfloat16.

A key S·N + index is one integer that orders images by distance, ties to the lower index. As
S < D·2¹⁶, keys stay below 2⁶³ for training sets under 128 TiB.

Legend: B queries, N training images, M pairs, D pixel values per image, K neighbors, R radii.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import numpy as np
import torch
from torch import Tensor

from memaudit.models.device_rows import DeviceRows
from memaudit.models.integer_products import as_int8, has_fast_int8, int8_product

DIFFERENCE_BLOCK = 256  # 256 · 255² < 2²⁴
PRODUCT_BLOCK = 1024  # 1024 · 128² = 2²⁴, for pixel values less 128
CPU_BLOCK_BYTES = 4 << 20  # a block of float32 rows that fits in the cache
CUDA_BLOCK_BYTES = 256 << 20
CPU_ROW_BYTES, CUDA_ROW_BYTES = 2 << 20, 256 << 20  # int8 rows that all queries are compared with
CPU_DISTANCES, CUDA_DISTANCES = 1 << 20, 1 << 26  # that are held at a time
LARGEST_INT32_DIMENSION = 33_025  # up to here S ≤ 255²·D is below 2³¹

FARTHEST = np.iinfo(np.int64).max  # the key of an image that must not be found


def row_blocks(num_rows: int, num_columns: int, device: torch.device) -> Iterator[slice]:
    """Cut rows into slices so that float32 [rows, num_columns] is a block of suitable size."""
    block_bytes = CPU_BLOCK_BYTES if device.type == "cpu" else CUDA_BLOCK_BYTES
    rows = max(1, block_bytes // (4 * num_columns))
    for start in range(0, num_rows, rows):
        yield slice(start, min(start + rows, num_rows))


def to_device(images: np.ndarray, device: torch.device) -> Tensor:
    """Images as a uint8 tensor to read from; they may be memory-mapped, or not writable."""
    return torch.from_numpy(np.require(images, requirements="W")).to(device)


def to_float(images: np.ndarray, device: torch.device) -> Tensor:
    """Pixel values 0…255 as a float32 tensor that shares no memory with the images."""
    return to_device(images, device).to(torch.float32)


def send(array: np.ndarray, device: torch.device) -> Tensor:
    """An array on the device; a GPU is not waited for."""
    tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


class TrainingRows:
    """Training images to compare with: on a GPU if they fit in half of its free memory."""

    def __init__(self, pixels: np.ndarray, device: torch.device) -> None:
        """Copy them to a GPU, or remember where they are.

        Args:
            pixels: uint8 [N, D]; may be memory-mapped.
            device: where to compare.
        """
        self.pixels = pixels
        self.device = device
        self.rows = DeviceRows(pixels, device)

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def squared_norm(self) -> Tensor:
        """‖y − 128‖², int64 [N]."""
        norm = torch.empty(len(self), dtype=torch.int64, device=self.device)
        for block, y in self.rows.blocks(slice(0, len(self)), self._block_size(1)):
            norm[block] = _squared_norm(y)
        return norm

    def blocks(self, num_queries: int) -> Iterator[tuple[slice, Tensor]]:
        """The images in slices, each with its rows less 128, int8 [n, D]."""
        return self.rows.blocks(slice(0, len(self)), self._block_size(num_queries))

    def _block_size(self, num_queries: int) -> int:
        is_cpu = self.device.type == "cpu"
        num_bytes = CPU_ROW_BYTES if is_cpu else CUDA_ROW_BYTES
        distances = CPU_DISTANCES if is_cpu else CUDA_DISTANCES
        size: int = min(num_bytes // self.pixels.shape[1], distances // num_queries)
        return max(1, size)


def pair_distances(
    x: np.ndarray,
    y: np.ndarray | TrainingRows,
    x_index: np.ndarray,
    y_index: np.ndarray,
    *,
    device: torch.device,
) -> np.ndarray:
    """S(x[i], y[j]) for M pairs (i, j).

    Args:
        x: images, uint8 [B, D]; may be memory-mapped.
        y: images, uint8 [N, D], may be memory-mapped; or training images on the device.
        x_index, y_index: int64 [M] each.
        device: where to compute.

    Returns:
        int64 [M].
    """
    if isinstance(y, TrainingRows) and y.rows.are_resident:
        used, x_index = np.unique(x_index, return_inverse=True)
        rows = as_int8(send(x[used], device))
        pairs = send(np.stack([x_index, y_index]), device)
        parts = [
            _summed_squares(rows[pairs[0, part]].float().sub_(y.rows.take(pairs[1, part])))
            for part in row_blocks(len(x_index), 3 * x.shape[1], device)
        ]
        whole = torch.cat(parts) if parts else pairs[0]
        return whole.cpu().numpy()
    pixels = y.pixels if isinstance(y, TrainingRows) else y
    result = np.empty(len(x_index), dtype=np.int64)
    for part in row_blocks(len(x_index), 2 * x.shape[1], device):  # x and y
        difference = to_float(x[x_index[part]], device)
        difference.sub_(to_device(pixels[y_index[part]], device))
        result[part] = _summed_squares(difference).cpu().numpy()
    return result


def _summed_squares(difference: Tensor) -> Tensor:
    """Σ over each row of the squares of integers within ±255, float32 [M, D], which is spent."""
    num_blocks = difference.shape[1] // DIFFERENCE_BLOCK
    whole = num_blocks * DIFFERENCE_BLOCK
    squares = difference.square_()
    sums = squares[:, :whole].view(len(squares), num_blocks, DIFFERENCE_BLOCK).sum(2)
    return sums.to(torch.int64).sum(1) + squares[:, whole:].sum(1).to(torch.int64)


def nearest_by_brute_force(
    x: np.ndarray, images: TrainingRows, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest training images, from all B·N distances, ties to the lower index.

    Args:
        x: queries, uint8 [B, D].
        images: the training images; the result is computed on their device.
        k: 1 … N.

    Returns:
        index int64 [B, k] and squared distance int64 [B, k], in ascending order.
    """
    best: Tensor | None = None
    for part, S in all_distances([x], images):
        if best is not None and best.shape[1] == k and S.device.type == "cpu":
            # Few queries have a neighbor in a later block; of equal distances, an earlier one wins.
            (hit,) = (S.amin(1) < best[:, -1] // len(images)).nonzero(as_tuple=True)
            if len(hit):
                best[hit] = _smallest(torch.cat([best[hit], _keys(S[hit], part, images)], 1), k)
            continue
        keys = _keys(S, part, images)
        best = _smallest(keys if best is None else torch.cat([best, keys], 1), k)
    assert best is not None
    return split_keys(best.cpu().numpy(), len(images))


def _smallest(keys: Tensor, k: int) -> Tensor:
    """The k smallest of each row, or all, in ascending order."""
    return keys.topk(min(k, keys.shape[1]), largest=False).values


@dataclass(frozen=True)
class DistinctQuery:
    """Which training image y is nearest to each x, of those with S(first, y) > limit?"""

    x: Sequence[np.ndarray]
    """Queries in one or more orientations, uint8 [B, D] each; the smaller distance counts."""
    first: Sequence[np.ndarray]
    """Images whose duplicates do not count, in the same orientations."""
    limits: Sequence[int]
    """The largest S of a duplicate, R values."""
    leave_out_equal: bool = False
    """Whether images that equal x do not count either."""
    but: np.ndarray | None = None
    """One training image per query that does not count, int64 [B]."""
    groups: np.ndarray | None = None
    """The groups of the training images, int64 [N]."""
    left_out: np.ndarray | None = None
    """Groups whose images do not count, int64 [B, G]."""

    def take(self, queries: np.ndarray) -> "DistinctQuery":
        """The same question for some of the queries, int64 [b]."""

        def some(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[queries]

        return replace(
            self,
            x=[rows[queries] for rows in self.x],
            first=[rows[queries] for rows in self.first],
            but=some(self.but),
            left_out=some(self.left_out),
        )

    def never_counted(self, part: slice) -> np.ndarray | None:
        """Which of these training images do not count whatever their distance: bool [B, n]."""
        found = None
        if self.but is not None:
            found = self.but[:, None] == np.arange(part.start, part.stop)
        if self.groups is not None and self.left_out is not None:
            groups = self.groups[part]
            for column in self.left_out.T:
                among = column[:, None] == groups
                found = among if found is None else found | among
        return found


def nearest_distinct_by_brute_force(
    query: DistinctQuery, images: TrainingRows
) -> tuple[np.ndarray, np.ndarray]:
    """Answer a query for each of its limits, from all distances.

    Args:
        query: what is searched for.
        images: the training images; the result is computed on their device.

    Returns:
        index int64 [B, R] and squared distance int64 [B, R], ties to the lower index; -1 if all
        images are duplicates.
    """
    limits = query.limits
    best = torch.full((len(query.x[0]), len(limits)), FARTHEST, device=images.device)
    for (part, S), (_, apart) in zip(
        all_distances(query.x, images), all_distances(query.first, images), strict=True
    ):
        keys = _keys(S, part, images)
        if query.leave_out_equal:
            keys = keys.masked_fill(keys < len(images), FARTHEST)  # S = 0
        never = query.never_counted(part)
        if never is not None:
            keys = keys.masked_fill(send(never, images.device), FARTHEST)
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


def all_distances(x: Sequence[np.ndarray], images: TrainingRows) -> Iterator[tuple[slice, Tensor]]:
    """S between every query and the images, block by block: which images, and int [B, n].

    Args:
        x: queries in one or more orientations, uint8 [B, D] each; the smallest S counts.
        images: the training images; the result is computed on their device.
    """
    B, D = x[0].shape
    orientations = [as_int8(send(rows, images.device)) for rows in x]
    norm = _squared_norm(orientations[0])  # the same in every orientation
    in_integers = has_fast_int8(images.device)
    dtype = torch.int32 if in_integers and D <= LARGEST_INT32_DIMENSION else torch.int64
    norm, norm_y = norm.to(dtype), images.squared_norm.to(dtype)
    if not in_integers:
        floats = [rows.float() for rows in orientations]
    for part, y in images.blocks(B):
        if in_integers:
            products = [int8_product(rows, y).to(dtype) for rows in orientations]
        else:
            y = y.float()
            products = [_float_product(rows, y).to(dtype) for rows in floats]
        product = reduce(torch.maximum, products)
        yield part, product.mul_(-2).add_(norm_y[part]).add_(norm[:, None])


def _squared_norm(rows: Tensor) -> Tensor:
    """‖x‖² of rows of int8; int64 [B]."""
    return rows.to(torch.int32).square_().sum(1)


def _float_product(x: Tensor, y: Tensor) -> Tensor:
    """x·y of all pairs, exact, float64 [B, n]; x and y are pixel values less 128, float32."""
    product = torch.zeros(len(x), len(y), dtype=torch.float64, device=x.device)
    blocks = zip(torch.split(x, PRODUCT_BLOCK, 1), torch.split(y, PRODUCT_BLOCK, 1), strict=True)
    for x_block, y_block in blocks:
        product += x_block @ y_block.T
    return product


def _keys(S: Tensor, part: slice, images: TrainingRows) -> Tensor:
    """Keys of the images `part` at distances S, [B, n]; int64."""
    keys = S.to(torch.int64, copy=True).mul_(len(images))
    return keys.add_(torch.arange(part.start, part.stop, device=S.device))
