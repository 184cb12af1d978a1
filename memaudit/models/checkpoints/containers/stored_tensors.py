"""Tensors as they lie in a file: announced, checked against the bytes present, read on request.

Nothing is allocated for what a file merely announces.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from memaudit.errors import CheckpointError

MAX_DIMENSIONS = 8


@dataclass
class Storage:
    """The flat memory behind one or more tensors."""

    dtype: torch.dtype
    num_elements: int
    """Number of elements that the file announces."""
    data: memoryview | None = field(default=None, repr=False)
    """Its bytes; None until their place in the file is known."""

    def fill(self, data: memoryview) -> None:
        """Say where the bytes are.

        Raises:
            CheckpointError: they are not as many as announced.
        """
        needed = self.num_elements * self.dtype.itemsize
        if len(data) != needed:
            raise CheckpointError(
                f"a storage of {self.num_elements:,} elements needs {needed:,} bytes, but "
                f"{len(data):,} are there: the file is cut short or was altered."
            )
        self.data = data


@dataclass(frozen=True)
class StoredTensor:
    """A tensor within a storage, without gaps or repeated elements.

    Raises:
        CheckpointError: its layout has gaps or repeats, or does not fit into the storage.
    """

    storage: Storage
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """Distance between neighbors along each axis, in elements."""
    offset: int = 0
    """Position of its first element in the storage."""

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.stride) or len(self.shape) > MAX_DIMENSIONS:
            raise CheckpointError(
                f"a tensor announces {len(self.shape)} sizes and {len(self.stride)} strides; "
                f"equally many, at most {MAX_DIMENSIONS}, are needed."
            )
        numbers = (*self.shape, *self.stride, self.offset)
        if not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise CheckpointError(
                "a tensor announces a size, stride or offset that is not a count."
            )
        if not self.num_elements:
            return
        last = sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if last + 1 != self.num_elements:
            raise CheckpointError(
                f"a tensor of shape {list(self.shape)} has strides {list(self.stride)}, which "
                "leave gaps or repeat elements; no checkpoint needs that."
            )
        end = self.offset + self.num_elements
        if end > self.storage.num_elements:
            raise CheckpointError(
                f"a tensor of shape {list(self.shape)} ends at element {end:,} of its storage, "
                f"which has {self.storage.num_elements:,}: the file was altered."
            )

    @classmethod
    def contiguous(
        cls, dtype: torch.dtype, shape: Sequence[int], data: memoryview
    ) -> "StoredTensor":
        """A tensor in C order whose elements are all of `data`."""
        if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
            raise CheckpointError("a tensor announces too many sizes, or one that is not a count.")
        storage = Storage(dtype, math.prod(shape))
        storage.fill(data)
        stride = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        return cls(storage, tuple(shape), tuple(stride))

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * self.storage.dtype.itemsize

    def read(self) -> Tensor:
        """A copy of the tensor, in the dtype it is stored in, on the CPU."""
        dtype, data = self.storage.dtype, self.storage.data
        assert data is not None
        if not self.num_elements:
            return torch.empty(self.shape, dtype=dtype)
        start = self.offset * dtype.itemsize
        # Copied as bytes, since a file need not align its tensors.
        flat = torch.frombuffer(data[start : start + self.num_bytes], dtype=torch.uint8).clone()
        return flat.view(dtype).as_strided(self.shape, self.stride).contiguous()


def read_tensors(tensors: Mapping[str, StoredTensor], *, num_bytes: int) -> dict[str, Tensor]:
    """Copies of `tensors`, by name.

    Raises:
        CheckpointError: together they need more than `num_bytes`. A file could otherwise announce
            one storage as thousands of tensors.
    """
    needed = sum(tensor.num_bytes for tensor in tensors.values())
    if needed > num_bytes:
        raise CheckpointError(
            f"the weights need {needed:,} bytes, but the file has {num_bytes:,}: tensors that "
            "share their storage are not read."
        )
    return {name: tensor.read() for name, tensor in tensors.items()}
