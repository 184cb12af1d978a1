"""A tensor as it lies in a file: announced, checked against the bytes present, read when asked.

Nothing is allocated for what a file merely announces.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from memaudit.errors import CheckpointError

MAX_DIMENSIONS = 8


@dataclass(frozen=True)
class StoredTensor:
    """A tensor inside `storage`, whose bytes are those of the file."""

    dtype: torch.dtype
    storage: memoryview = field(repr=False)
    """uint8: the bytes of the whole storage."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """In elements."""
    offset: int = 0
    """First element, counted in elements."""

    def __post_init__(self) -> None:
        numbers = (*self.shape, *self.stride, self.offset)
        if len(self.shape) != len(self.stride) or len(self.shape) > MAX_DIMENSIONS:
            raise CheckpointError(
                f"a tensor announces {len(self.shape)} sizes and {len(self.stride)} strides; "
                f"as many of both, at most {MAX_DIMENSIONS}, are needed."
            )
        if not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise CheckpointError("a tensor announces a size, stride or offset that is no count.")
        present = len(self.storage) // self.dtype.itemsize
        last = sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if self.num_elements and last + 1 != self.num_elements:
            raise CheckpointError(
                f"a tensor of shape {list(self.shape)} has strides {list(self.stride)}, which "
                "leave gaps or repeat elements; no checkpoint needs that."
            )
        if self.num_elements and self.offset + self.num_elements > present:
            raise CheckpointError(
                f"a tensor of shape {list(self.shape)} needs {self.offset + self.num_elements} "
                f"elements, but its storage holds {present}: the file is cut short or was altered."
            )

    @classmethod
    def contiguous(
        cls, dtype: torch.dtype, storage: memoryview, shape: Sequence[int]
    ) -> "StoredTensor":
        """A tensor in C order from the start of `storage`."""
        if len(shape) > MAX_DIMENSIONS or not all(type(n) is int for n in shape):
            raise CheckpointError(
                f"a tensor announces {len(shape)} sizes, or one that is no count."
            )
        stride = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        return cls(dtype, storage, tuple(shape), tuple(stride))

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    def read(self) -> Tensor:
        """A copy of the tensor, in the dtype it is stored in, on the CPU."""
        if not self.num_elements:
            return torch.empty(self.shape, dtype=self.dtype)
        start = self.offset * self.dtype.itemsize
        stop = start + self.num_elements * self.dtype.itemsize
        # Copied as bytes: a file need not align its tensors.
        flat = torch.frombuffer(self.storage[start:stop], dtype=torch.uint8).clone()
        return flat.view(self.dtype).as_strided(self.shape, self.stride).contiguous()


def read_tensors(tensors: Mapping[str, StoredTensor], *, num_bytes: int) -> dict[str, Tensor]:
    """Copies of `tensors`, by name; together they may not need more than `num_bytes`.

    A file could otherwise announce one storage as thousands of tensors.
    """
    needed = sum(t.num_elements * t.dtype.itemsize for t in tensors.values())
    if needed > num_bytes:
        raise CheckpointError(
            f"the weights need {needed:,} bytes, but the file has {num_bytes:,}: tensors that "
            "share their storage are not read."
        )
    return {name: tensor.read() for name, tensor in tensors.items()}
