"""Slices of medical volumes: what NIfTI and DICOM have in common."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.data.images import check_shape
from memaudit.data.preparation import CLIPPED, DEEP
from memaudit.data.readers.deep_images import num_clipped, to_bytes
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.number_arrays import Window
from memaudit.data.room import check_memory
from memaudit.errors import DataError

MAX_VOLUME = 8 << 30
"""Most bytes of the numbers of one volume."""


@dataclass(frozen=True)
class Volume:
    """One volume, not read yet."""

    name: str
    shape: tuple[int, ...]
    """(slices, height, width), or (slices, height, width, 3) in RGB."""
    read: Callable[[], np.ndarray]
    """Gives the numbers, float or integer, of that shape; bytes in RGB."""
    group: str
    """The person or volume that its slices belong to."""
    window: Window | None = None
    """The numbers that become 0 and 255, as the file says."""
    is_bytes: bool = False
    """Whether its numbers are bytes that need no window."""
    is_inverted: bool = False
    """Whether larger numbers are darker."""

    @property
    def in_color(self) -> bool:
        """Whether its slices are RGB."""
        return len(self.shape) == 4


def slice_contents(
    volumes: Sequence[Volume], source: str, *, window: Window | None, group_kind: str
) -> Contents:
    """The slices of volumes as gray or RGB images, with the groups that the volumes name.

    Args:
        volumes: in their order.
        source: the path as the user wrote it.
        window: the numbers that become 0 and 255; by default what each volume says.
        group_kind: what a group is: `patient`.

    Raises:
        DataError: slices of several sizes, or numbers without a window.
    """
    if not volumes:
        raise DataError(f"{source} holds no images.")
    first = volumes[0]
    for volume in volumes:
        if volume.shape[1:] != first.shape[1:]:
            raise DataError(
                f"{source}: {volume.name} has slices of {list(volume.shape[1:])}, and {first.name} "
                f"of {list(first.shape[1:])}. All images must have one size: resample the volumes "
                "as the model's trainer did."
            )
        if window is None and volume.window is None and not volume.is_bytes:
            low, high = _extremes(volume)
            raise DataError(
                f"{source}: {volume.name} holds numbers from {low:.6g} to {high:.6g}, and images "
                "have bytes. Say which numbers become 0 and 255: {window} LOW,HIGH.",
                field="window",
            )
    C = 3 if first.in_color else 1
    check_shape((1, C, *first.shape[1:3]), source)
    depths = [volume.shape[0] for volume in volumes]
    check_memory(200 * sum(depths), f"Naming the {sum(depths):,} images of {source}")
    names = [
        f"{volume.name}[{i}]" if volume.shape[0] > 1 else volume.name
        for volume in volumes
        for i in range(volume.shape[0])
    ]
    kinds: Counter[str] = Counter()
    groups = [v.group for v in volumes for _ in range(v.shape[0])]

    def batches(rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        ends = np.cumsum([0, *depths])
        wanted = np.arange(ends[-1]) if rows is None else rows
        kinds.clear()
        for volume, start, end in zip(volumes, ends, ends[1:], strict=False):
            inside = wanted[(wanted >= start) & (wanted < end)] - start
            if len(inside):
                numbers = checked(volume)[inside]
                if window is not None and not volume.in_color:
                    kinds[DEEP] += len(numbers)
                    kinds[CLIPPED] += num_clipped(numbers, window)
                images = _as_bytes(volume, numbers, window, source)
                yield images.transpose(0, 3, 1, 2) if volume.in_color else images[:, None]

    shape = (sum(depths), C, first.shape[1], first.shape[2])
    used = {volume.window for volume in volumes if volume.window is not None}
    notes: tuple[str, ...] = ()
    if window is None and used:
        windows = ", ".join(f"{low:g} to {high:g}" for low, high in sorted(used)[:3])
        more = f" and {len(used) - 3} more" if len(used) > 3 else ""
        notes = (f"{source}: the windows of the files were used: {windows}{more}.",)
    return Contents(
        source,
        shape,
        names,
        batches,
        groups=groups,
        group_kind=group_kind,
        notes=notes,
        kinds=kinds,
    )


def _as_bytes(
    volume: Volume, numbers: np.ndarray, window: Window | None, source: str
) -> np.ndarray:
    used = window or volume.window
    if used is None or volume.in_color:
        images = numbers.astype(np.uint8)
    else:
        images = to_bytes(numbers, used, f"{source}: {volume.name}")
    return 255 - images if volume.is_inverted else images


def checked(volume: Volume) -> np.ndarray:
    """The numbers of a volume, which have the shape that was announced."""
    numbers = volume.read()
    if numbers.shape != volume.shape:
        raise DataError(
            f"{volume.name} announces {list(volume.shape)} and holds {list(numbers.shape)}."
        )
    return numbers


def _extremes(volume: Volume) -> tuple[float, float]:
    numbers = checked(volume)
    if not math.prod(numbers.shape):
        raise DataError(f"{volume.name} holds no images.")
    return float(numbers.min()), float(numbers.max())
