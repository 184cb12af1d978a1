"""Images as rows of int8 on a device: kept there if they fit, or streamed to it block by block."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from memaudit.models.integer_products import as_int8

COPY_BYTES = 64 << 20
"""Bytes of a block that is copied to a GPU at a time; two are pinned in the machine's memory."""


class DeviceRows:
    """Pixel values less 128 of N images, int8 [N, D]."""

    def __init__(
        self,
        pixels: np.ndarray,
        device: torch.device,
        *,
        order: np.ndarray | None = None,
        resident_bytes: int | None = None,
    ) -> None:
        """Copy the images to the device, unless they are too many.

        Args:
            pixels: uint8 [N, D]; may be memory-mapped, which is never copied as a whole but to the
                device.
            device: where the rows are wanted.
            order: positions of the images, int64 [N]; by default as they are.
            resident_bytes: up to this size the images are kept on the device; by default half of
                the free memory of a GPU.
        """
        self._pixels = pixels
        self._order = order
        self._device = device
        if resident_bytes is None:
            resident_bytes = 0
            if device.type == "cuda":
                resident_bytes = torch.cuda.mem_get_info(device)[0] // 2
        self._resident: Tensor | None = None
        if pixels.size <= resident_bytes:
            resident = torch.empty(pixels.shape, dtype=torch.int8, device=device)
            size = max(1, COPY_BYTES // pixels.shape[1])
            for block, rows in self.blocks(slice(0, len(pixels)), size):
                resident[block] = rows
            self._resident = resident

    def __len__(self) -> int:
        return len(self._pixels)

    @property
    def are_resident(self) -> bool:
        """Whether the rows are kept on the device."""
        return self._resident is not None

    def blocks(self, part: slice, size: int) -> Iterator[tuple[slice, Tensor]]:
        """`part` in slices of at most `size` rows, each with its rows, int8 [n, D]."""
        if self._resident is None and self._device.type == "cuda":
            size = min(size, max(1, COPY_BYTES // self._pixels.shape[1]))
        blocks = [
            slice(start, min(start + size, part.stop))
            for start in range(part.start, part.stop, size)
        ]
        if self._resident is not None:
            rows: Iterable[Tensor] = (self._resident[block] for block in blocks)
        elif self._order is None:
            rows = self._read(blocks)
        else:
            rows = self._read([self._order[block] for block in blocks])
        yield from zip(blocks, rows, strict=True)

    def take(self, index: Tensor) -> Tensor:
        """The rows at the positions `index`, int64 [M] → int8 [M, D]."""
        if self._resident is not None:
            return self._resident[index]
        positions = index.cpu().numpy()
        (rows,) = self._read([positions if self._order is None else self._order[positions]])
        return rows

    def _read(self, places: Iterable[slice | np.ndarray]) -> Iterator[Tensor]:
        """The rows at each of the places."""
        if self._device.type == "cuda":
            yield from self._send(places)
            return
        for place in places:
            pixels = self._pixels[place]
            rows = torch.empty(pixels.shape, dtype=torch.uint8)
            np.bitwise_xor(pixels, 128, out=rows.numpy())
            yield rows.view(torch.int8).to(self._device)

    def _send(self, places: Iterable[slice | np.ndarray]) -> Iterator[Tensor]:
        """Through two pinned buffers: one is filled while the other is on its way to the GPU."""
        pinned: list[Tensor] = [torch.empty(0, dtype=torch.uint8)] * 2
        sent = [torch.cuda.Event(), torch.cuda.Event()]  # type: ignore[no-untyped-call]
        copying = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        for number, place in enumerate(places):
            rows, turn = self._pixels[place], number % 2
            sent[turn].synchronize()
            if pinned[turn].shape != rows.shape:
                pinned[turn] = torch.empty(rows.shape, dtype=torch.uint8).pin_memory()
            np.copyto(pinned[turn].numpy(), rows)
            with torch.cuda.stream(copying):
                on_device = pinned[turn].to(self._device, non_blocking=True)
                sent[turn].record(copying)
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(sent[turn])
            on_device.record_stream(computing)
            yield as_int8(on_device)
