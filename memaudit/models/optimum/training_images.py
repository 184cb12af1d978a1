"""Training images as rows of whole numbers, and their products with noisy images and weights.

Products are made in integers where the device is fast at them: then log-weights are exact up to a
stated bound, and so are sums. Elsewhere they are made in float32.

Legend: R rows of a batch, n training images of a block, D = C·H·W.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from memaudit.models.device_rows import DeviceRows
from memaudit.models.integer_products import (
    LARGEST_SUM,
    from_digits,
    has_fast_int8,
    int8_product,
    int8_sum,
    to_digits,
)

CPU_BLOCK_BYTES, CUDA_BLOCK_BYTES = 6 << 20, 256 << 20
"""Bytes of images that are worked on at a time: what a processor's cache holds, or what fills a
GPU."""
CUDA_PRODUCT_BYTES, PRODUCT_BYTES = 1 << 30, 64
"""Bytes of products with a block, in all and of an image and row: digits and what they become."""
ROW_MULTIPLE = 16
"""More than a few rows that this does not divide make a float32 product up to twice as slow."""
DOUBLE_ROUNDOFF = 2.0**-53
MOST_DIGITS = 7
"""More would exceed what float64 holds of x itself."""


class Precision(NamedTuple):
    """How x is rounded to digits, and what becomes of log-weights by that."""

    num_digits: int
    error: float
    """The largest error of a log-weight."""


class Digits(NamedTuple):
    """Rows x ≈ scale · Σ_k 256^k d_k."""

    digits: Tensor
    """int8 [K · R, D]: first d_0 of all rows, then d_1, …"""
    scale: Tensor
    """float64 [R, 1], powers of 2."""
    of_center: Tensor
    """float64 [R, 1]: Σ_k 256^k d_k times the mean image less 128."""


class TrainingImages:
    """Gray levels of the training images minus a mean image of whole numbers."""

    def __init__(
        self, images: np.ndarray, order: np.ndarray, device: torch.device, resident_bytes: int
    ) -> None:
        pixels = images.reshape(len(images), -1)
        self._device = device
        self.in_integers = has_fast_int8(device)
        """Whether products are made in integers."""
        self.center = torch.from_numpy(pixels.mean(0, dtype=np.float64).round()).to(device)
        """float64 [D]: the mean image, rounded."""
        self._float_center = (self.center - 128).float()
        self.half_squared_norm = torch.empty(len(order), dtype=torch.float64, device=device)
        """float64 [N]: ‖yᵢ‖²/2, exact."""

        self._rows = DeviceRows(
            pixels,
            device,
            order=order,
            resident_bytes=None if device.type == "cuda" else resident_bytes,
        )
        self._floats: Tensor | None = None
        if not self.in_integers and 4 * pixels.size <= resident_bytes:
            self._floats = torch.empty(pixels.shape, device=device)
        for block, rows in self.blocks(slice(0, len(order))):
            y = self._centered(rows)
            self.half_squared_norm[block] = y.double().square_().sum(1) / 2
            if self._floats is not None:
                self._floats[block] = y
        self.largest_norm = math.sqrt(2 * float(self.half_squared_norm.max()))
        """The largest ‖yᵢ‖."""

    def __len__(self) -> int:
        return len(self.half_squared_norm)

    @property
    def rows_per_block(self) -> int:
        """Images that are worked on at a time."""
        num_bytes = CPU_BLOCK_BYTES if self._device.type == "cpu" else CUDA_BLOCK_BYTES
        rows = num_bytes // ((1 if self.in_integers else 4) * len(self.center))
        return max(1, min(rows, LARGEST_SUM))

    @property
    def bytes_per_logit(self) -> int:
        """Memory of a log-weight, and of the weight that is made from it."""
        return 12 if self.in_integers else 4

    def blocks(self, part: slice, *, num_rows: int = 1) -> Iterator[tuple[slice, Tensor]]:
        """`part` in slices, each with its rows less 128, int8 [n, D].

        Args:
            part: which images.
            num_rows: rows of the batch whose products with a block are held on a GPU.
        """
        size = min(self.rows_per_block, max(1, CUDA_PRODUCT_BYTES // (PRODUCT_BYTES * num_rows)))
        return self._rows.blocks(part, size)

    def float_blocks(self, part: slice) -> Iterator[tuple[slice, Tensor]]:
        """`part` in slices, each with its rows less the mean image, float32 [n, D]."""
        if self._floats is None:
            for block, rows in self.blocks(part):
                yield block, self._centered(rows)
            return
        size = self.rows_per_block
        for start in range(part.start, part.stop, size):
            block = slice(start, min(start + size, part.stop))
            yield block, self._floats[block]

    def take(self, index: Tensor) -> Tensor:
        """The rows `index`, int64 [M], less the mean image; float64 [M, D]."""
        if self._floats is not None:
            return self._floats[index].double()
        return self._rows.take(index).to(torch.float64).sub_(self.center - 128)

    def _centered(self, rows: Tensor) -> Tensor:
        return rows.float().sub_(self._float_center)

    def precision(self, largest_quotient: float, tolerance: float) -> Precision:
        """How x is rounded so that no log-weight is off by more than the tolerance.

        What K digits leave of x, at most 2^-(8K - 2)·max|x| in each of D values, has a product with
        yᵢ of at most √D·‖yᵢ‖ times that. To it comes the rounding of float64.

        Args:
            largest_quotient: of a row, max|x| / σ².
            tolerance: the error.
        """
        num_values = len(self.center)
        largest = largest_quotient * math.sqrt(num_values) * self.largest_norm
        digits = math.ceil((math.log2(max(largest / tolerance, 1)) + 2) / 8)
        num_digits = min(max(1, digits), MOST_DIGITS)
        share = 2.0 ** (2 - 8 * num_digits) + (num_values + 8) * DOUBLE_ROUNDOFF
        return Precision(num_digits, largest * share)

    def to_digits(self, x: Tensor, largest: Tensor, num_digits: int) -> Digits:
        """Rows x, float64 [R, D], the largest of whose |x| are given, [R], rounded to digits."""
        # |x| < 2^exponent, and x·2^(8K − 2 − exponent) is within the reach of K digits.
        _, exponent = torch.frexp(largest[:, None])
        exponent = exponent.sub(8 * num_digits - 2).clamp(min=-1000)
        scale = torch.ldexp(torch.ones_like(x[:, :1]), exponent)
        rounded = (x / scale).round_()
        of_center = rounded @ (self.center - 128)
        integers = rounded.to(torch.int32 if num_digits <= 4 else torch.int64)
        return Digits(to_digits(integers, num_digits), scale, of_center[:, None])

    def exact_logits(self, x: Digits, y: Tensor, block: slice, variance: Tensor) -> Tensor:
        """ℓ of the images `block`, whose rows are y; float64 [R, n]."""
        products = int8_product(x.digits, y)
        logits = from_digits(products, len(products) // len(variance)).sub_(x.of_center)
        logits.mul_(x.scale / variance[:, None])
        return logits.addr_(-1 / variance, self.half_squared_norm[block])

    def mean(
        self, blocks: Iterable[tuple[Tensor, Tensor]], mass: Tensor, num_digits: int
    ) -> Tensor:
        """Σ w_i y_i / Σ w_i, float64 [R, D].

        Args:
            blocks: rows less 128, int8 [n, D], each with its weights, 0 … 1, float32 [R, n].
            mass: Σ w_i, float64 [R].
            num_digits: of the weights; see `weight_digits`.
        """
        total = sum_of_blocks(blocks, num_digits)
        one = 2.0 ** (8 * num_digits - 2)
        return torch.addcmul(128 - self.center, total, 1 / (one * mass[:, None]))


def weight_digits(num_images: int, mass: float, tolerance: float) -> int:
    """Digits of weights whose rounding moves their mean by no more than the tolerance.

    Args:
        num_images: how many weights there are.
        mass: their sum, if the largest is 1.
        tolerance: as a share of the images' range.
    """
    bits = math.log2(num_images / (mass * tolerance))
    return min(max(1, math.ceil((bits + 1) / 8)), MOST_DIGITS)


def sum_of_blocks(blocks: Iterable[tuple[Tensor, Tensor]], num_digits: int) -> Tensor:
    """2^(8K - 2)·Σ w_i y_i, float64 [R, D], without rounding but that of the weights to K digits.

    Args:
        blocks: rows y, int8 [n, D], each with its weights, 0 … 1, float32 [R, n].
        num_digits: of the weights.
    """
    one = 2.0 ** (8 * num_digits - 2)
    total: Tensor | None = None
    pending: Tensor | None = None
    num_pending = 0
    for y, weights in blocks:
        if pending is not None and num_pending + len(y) > LARGEST_SUM:
            total = _plus(total, pending, num_digits)
            pending, num_pending = None, 0
        if num_digits <= 4:
            integers = weights.mul(one).round_().to(torch.int32)
        else:
            integers = weights.to(torch.float64).mul_(one).round_().to(torch.int64)
        sums = int8_sum(to_digits(integers, num_digits), y)
        pending = sums if pending is None else pending.add_(sums)
        num_pending += len(y)
    assert pending is not None
    return _plus(total, pending, num_digits)


def _plus(total: Tensor | None, sums: Tensor, num_digits: int) -> Tensor:
    added = from_digits(sums, num_digits)
    return added if total is None else total.add_(added)
