"""Training images as rows of whole numbers, converted once or block by block."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

BLOCK_BYTES = 8 << 20
"""Bytes of float32 images that are worked on at a time: what a processor's cache holds."""


class TrainingImages:
    """Rows of whole numbers in float32: gray levels of the training images minus a mean image."""

    def __init__(
        self, images: np.ndarray, order: np.ndarray, device: torch.device, resident_bytes: int
    ) -> None:
        self._pixels = images.reshape(len(images), -1)
        self._order = order
        self._device = device
        self._resident: Tensor | None = None
        self.center = torch.from_numpy(self._pixels.mean(0, dtype=np.float64).round()).to(device)
        """float64 [D]: the mean image, rounded."""
        self.half_squared_norm = torch.empty(len(order), dtype=torch.float64, device=device)
        """float64 [N]: ‖yᵢ‖²/2, exact."""

        resident = None
        if 4 * self._pixels.size <= resident_bytes:
            resident = torch.empty(self._pixels.shape, device=device)
        for block, y in self.blocks(slice(0, len(order))):
            self.half_squared_norm[block] = y.double().square_().sum(1) / 2
            if resident is not None:
                resident[block] = y
        self._resident = resident
        self.largest_norm = math.sqrt(2 * float(self.half_squared_norm.max()))
        """The largest ‖yᵢ‖."""

    def __len__(self) -> int:
        return len(self._order)

    @property
    def rows_per_block(self) -> int:
        """Images that are worked on at a time."""
        return max(1, BLOCK_BYTES // (4 * self._pixels.shape[1]))

    def blocks(self, part: slice) -> Iterator[tuple[slice, Tensor]]:
        """`part` in slices, each with its rows, float32 [n, D]."""
        size = self.rows_per_block
        for start in range(part.start, part.stop, size):
            block = slice(start, min(start + size, part.stop))
            if self._resident is not None:
                yield block, self._resident[block]
            else:
                yield block, self._read(self._order[block])

    def take(self, index: Tensor) -> Tensor:
        """The rows `index`, int64 [M] → float32 [M, D]."""
        if self._resident is not None:
            return self._resident[index]
        return self._read(self._order[index.cpu().numpy()])

    def _read(self, index: np.ndarray) -> Tensor:
        images = torch.from_numpy(self._pixels[index]).to(self._device)
        return images.float() - self.center.float()
