"""All training images as short vectors: one streaming pass, within a limit of memory.

Legend: N training images, D pixel values an image, R numbers in a projection t(y).
"""

from dataclasses import dataclass

import numpy as np
import torch

from memaudit.audit.neighbors.projection import (
    LARGEST_WIDTH,
    SHRINKAGE,
    SMALLEST_DIMENSION,
    Projection,
    fit_projection,
)
from memaudit.audit.neighbors.threads import map_parts, one_thread
from memaudit.errors import ConfigError
from memaudit.progress import Progress, silent

SHORTEST_WIDTH = 16  # below it hardly a query is proven without brute force
INDEX_PART = 2048
INDEX_STEP = 65_536  # images between two reports of progress


@dataclass(frozen=True)
class ProjectedImages:
    """The projections of N training images, and what made them."""

    projection: Projection
    vectors: np.ndarray
    """t(y), float32 [N, R]."""
    largest_norm: float
    """The largest ‖v‖ of a training image."""

    @property
    def num_bytes(self) -> int:
        num_images, width = self.vectors.shape
        return num_index_bytes(num_images, len(self.projection.center), width)

    def bound_error(self, norm_x: np.ndarray) -> np.ndarray:
        """How far a float32 ‖t(x) − t(y)‖² may lie above ‖x − y‖²; see `Projection.bound_error`."""
        return self.projection.bound_error(norm_x, self.largest_norm)


def project_images(
    images: np.ndarray,
    *,
    device: torch.device,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> ProjectedImages:
    """Fit a projection to the training images and apply it to all.

    Args:
        images: uint8 [N, D]; may be memory-mapped.
        device: where to compute.
        memory_limit: most bytes of `ProjectedImages.num_bytes`, or None.
        progress: told how many images are done.

    Raises:
        ConfigError: the shortest projections take more memory than the limit.
    """
    num_images, D = images.shape
    with one_thread():
        width = projected_width(num_images, D, memory_limit)
        projection = fit_projection(images, width, device=device)
    needed = num_index_bytes(num_images, D, projection.width)
    if memory_limit is not None and needed > memory_limit:
        raise ConfigError(
            f"The index of {num_images:,} images of {D:,} values takes at least "
            f"{needed / 1e6:,.1f} MB, more than the memory limit of {memory_limit / 1e6:,.1f} MB. "
            "Raise the limit."
        )
    vectors = np.empty((num_images, projection.width), dtype=np.float32)

    def project(part: np.ndarray) -> tuple[np.ndarray]:
        rows = slice(part[0], part[-1] + 1)
        vectors[rows], norm = projection(images[rows])
        return (norm,)

    largest_norm = 0.0
    for start in range(0, num_images, INDEX_STEP):
        step = np.arange(start, min(start + INDEX_STEP, num_images))
        (norm,) = map_parts(project, step, largest=INDEX_PART, device=device)
        largest_norm = max(largest_norm, float(norm.max()))
        progress("Indexing training images", start + len(step), num_images)
    return ProjectedImages(projection, vectors, largest_norm)


def projected_width(num_images: int, D: int, memory_limit: int | None) -> int:
    """R: as long as pays, or as the limit allows, or the shortest that is of use."""
    widest = D if D <= SMALLEST_DIMENSION else min(LARGEST_WIDTH, D // SHRINKAGE)
    shortest = min(SHORTEST_WIDTH, widest)
    for width in range(widest, shortest, -1):
        if memory_limit is None or num_index_bytes(num_images, D, width) <= memory_limit:
            return width
    return shortest


def num_index_bytes(num_images: int, D: int, width: int) -> int:
    """Memory of an index: N vectors, the center, and rows and whitening if it shortens."""
    num_rows = width - 1 if width < D else 0
    return 4 * num_images * width + 4 * D + num_rows * (4 * D + 8 * num_rows)
