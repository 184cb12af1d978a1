"""Exact products of images with anything, as int8 matrix products with int32 sums.

Pixel values less 128 are int8. Any other number is split into digits of 8 bits, v = Σ_k 256^k d_k
with d_k in -128 … 127, whose products with the images are sums of integers: without rounding, in
any order, on any device, whatever the caller allows for float32. Processors with VNNI or AMX and
GPUs from compute capability 7.5 make them several times as fast as float32 products.

Legend: B rows, n images, D pixel values per image, K digits.
"""

import sys
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

LARGEST_SUM = 131_000
"""Most products of two int8 numbers whose sum int32 holds: below 2³¹ / 2¹⁴."""
CUDA_MULTIPLE = 8
"""cuBLAS multiplies int8 matrices whose sizes this divides, with more than CUDA_ROWS rows."""
CUDA_ROWS = 16


def as_int8(pixels: Tensor) -> Tensor:
    """Pixel values, uint8, less 128; int8."""
    return pixels.bitwise_xor(128).view(torch.int8)


def has_fast_int8(device: torch.device) -> bool:
    """Whether int8 products are faster than float32 products on the device, and right."""
    return _has_fast_int8(device.type, device.index)


@cache
def _has_fast_int8(kind: str, index: int | None) -> bool:
    if sys.byteorder != "little":  # digits are read as bytes
        return False
    if kind == "cpu":
        supported = getattr(torch.cpu, "_is_vnni_supported", None)
        return supported is not None and bool(supported())
    if kind != "cuda":
        return False
    # An old GPU or library refuses; and what a new one answers is worth a look.
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randint(-128, 128, size, dtype=torch.int8, generator=generator)
        for size in ((17, 70), (30, 70))
    )
    device = torch.device(kind) if index is None else torch.device(kind, index)
    try:
        found = int8_product(x.to(device), y.to(device)).cpu()
    except (RuntimeError, NotImplementedError):
        return False
    return bool((found == x.long() @ y.long().T).all())


def int8_product(x: Tensor, y: Tensor) -> Tensor:
    """x·y of all pairs, exact.

    Args:
        x: int8 [B, D].
        y: int8 [n, D].

    Returns:
        int32 [B, n], or int64 where D is above LARGEST_SUM.
    """
    if x.shape[1] <= LARGEST_SUM:
        return _product(x, y)
    total = torch.zeros(len(x), len(y), dtype=torch.int64, device=x.device)
    for start in range(0, x.shape[1], LARGEST_SUM):
        columns = slice(start, start + LARGEST_SUM)
        total += _product(x[:, columns].contiguous(), y[:, columns].contiguous())
    return total


def int8_sum(weights: Tensor, y: Tensor) -> Tensor:
    """Σ_i w_i y_i for each row of weights, exact.

    Args:
        weights: int8 [B, n], n ≤ LARGEST_SUM.
        y: int8 [n, D].

    Returns:
        int32 [B, D].
    """
    if y.device.type != "cuda":
        return torch._int_mm(weights, y)
    return _product(weights, y.T.contiguous())  # cuBLAS wants both along the sum


def to_digits(integers: Tensor, num_digits: int) -> Tensor:
    """Integers as digits d_k in -128 … 127, an integer being Σ_k 256^k d_k.

    Args:
        integers: int32 or int64 [B, n], at most Σ_k 127·256^k in absolute value.
        num_digits: 1 … 4 for int32, 1 … 8 for int64.

    Returns:
        int8 [num_digits · B, n]: first d_0 of all rows, then d_1, …
    """
    num_bytes = integers.element_size()
    bias = int.from_bytes(b"\x80" * num_bytes, "little", signed=True)
    # With 128 added to each digit, none is negative and digits are bytes.
    digits = (integers + bias).bitwise_xor_(bias).view(torch.int8)
    digits = digits.view(*integers.shape, num_bytes)[..., :num_digits]
    return digits.movedim(-1, 0).reshape(num_digits * len(integers), -1)


def from_digits(products: Tensor, num_digits: int) -> Tensor:
    """Σ_k 256^k p_k of the products of digits, integers [K · B, n] → float64 [B, n]."""
    parts = products.to(torch.float64).reshape(num_digits, -1)
    total = parts.T @ _place_values(num_digits, parts.device)  # faster than adding them in turn
    return total.view(-1, products.shape[1])


@cache
def _place_values(num_digits: int, device: torch.device) -> Tensor:
    """256^k; float64 [num_digits]."""
    exponents = torch.arange(num_digits, dtype=torch.float64, device=device)
    return torch.pow(256.0, exponents)


def _product(x: Tensor, y: Tensor) -> Tensor:
    if x.device.type != "cuda":
        return torch._int_mm(x, y.T)
    (B, D), n = x.shape, len(y)
    more_rows = max(CUDA_ROWS + 1 - B, 0)
    more_rows += -(B + more_rows) % CUDA_MULTIPLE
    x = pad(x, (0, -D % CUDA_MULTIPLE, 0, more_rows))
    y = pad(y, (0, -D % CUDA_MULTIPLE, 0, -n % CUDA_MULTIPLE))
    return torch._int_mm(x, y.T)[:B, :n]
