"""Training images as one array, and the one pair of conversions between bytes and numbers.

At rest images are uint8 [N, C, H, W] in 0…255; networks see float32 in [-1, 1].
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from memaudit.errors import DataError


@dataclass(frozen=True)
class ImageSet:
    """Images with their names, and labels where there are any."""

    images: np.ndarray
    """uint8 [N, C, H, W]; memory-mapped when large."""
    names: Sequence[str]
    """One name an image: its path inside the source, or `file[index]`. Traces a leak to a file."""
    labels: np.ndarray | None = None
    """int64 [N], each in 0 … num_classes - 1, or None."""
    class_names: tuple[str, ...] = ()
    """One name a class, or empty where the source names none."""
    source: str = "memory"
    """Where the images came from, as the user wrote it."""
    indices: np.ndarray | None = field(default=None, repr=False)
    """int64 [N]: positions in the whole source, where this is a part of it."""

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise DataError(
                f"{self.source} holds {self.images.dtype} {list(self.images.shape)}; images must "
                "be uint8 [N, C, H, W]."
            )
        if self.images.shape[1] not in (1, 3):
            raise DataError(
                f"{self.source} has {self.images.shape[1]} channels; gray (1) or RGB (3) is needed."
            )
        num_images = len(self.images)
        if len(self.names) != num_images:
            raise DataError(f"{self.source} has {num_images} images but {len(self.names)} names.")
        if self.labels is not None and len(self.labels) != num_images:
            raise DataError(f"{self.source} has {num_images} images but {len(self.labels)} labels.")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, C, H, W = self.images.shape
        return C, H, W

    @cached_property
    def num_classes(self) -> int:
        """Number of classes: 0 without labels."""
        if self.labels is None or not len(self.labels):
            return 0
        return max(int(self.labels.max()) + 1, len(self.class_names))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the shape and the pixels in order; names and labels are not part of it."""
        digest = hashlib.sha256(f"uint8 {list(self.images.shape)}\n".encode())
        # 16 MiB at a time: the images may be a map of a file larger than memory.
        rows = max(1, (16 << 20) // max(1, self.images[:1].nbytes))
        for start in range(0, len(self.images), rows):
            digest.update(np.ascontiguousarray(self.images[start : start + rows]).data)
        return digest.hexdigest()

    def take(self, indices: np.ndarray) -> "ImageSet":
        """The images at `indices` (int64 [M]), in that order, with names and labels."""
        indices = np.asarray(indices, dtype=np.int64)
        origin = indices if self.indices is None else self.indices[indices]
        return replace(
            self,
            images=self.images[indices],
            names=[self.names[i] for i in indices],
            labels=None if self.labels is None else self.labels[indices],
            indices=origin,
        )


def uint8_to_float(images: Tensor) -> Tensor:
    """uint8 0…255 of any shape → float32 in [-1, 1]: x = u / 127.5 - 1."""
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, got {images.dtype}")
    return images.to(torch.float32) / 127.5 - 1


def float_to_uint8(x: Tensor) -> Tensor:
    """Floating x of any shape, data in [-1, 1] → uint8: u = floor(clip(127.5·x + 128, 0, 255)).

    The published pipeline rounds so before it measures. -1 → 0, 0 → 128, 1 → 255.
    """
    if not x.is_floating_point():
        raise ValueError(f"x must be floating, got {x.dtype}")
    return (x * 127.5 + 128).clip(0, 255).to(torch.uint8)
