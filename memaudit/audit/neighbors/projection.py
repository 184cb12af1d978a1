"""Short vectors whose distances are proven lower bounds of the distances between images.

With v = x − m for a fixed integer image m, and P of orthonormal rows,

    t(x) = [P v, ‖v − Pᵀ P v‖]    and    ‖t(x) − t(y)‖ ≤ ‖x − y‖

by the triangle inequality in the complement of P's rows. Any P is valid; the principal components
of the training images make the bound sharp. docs/neighbors.md derives every error bound used here.

Legend: B queries, N training images, D pixel values per image, R numbers in t(x).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memaudit.audit.neighbors.integer_distances import row_blocks, squared_norms, to_float
from memaudit.audit.neighbors.threads import map_parts, one_thread
from memaudit.errors import ConfigError
from memaudit.progress import Progress, silent

LARGEST_WIDTH = 256
SHORTEST_WIDTH = 16  # below it, hardly any query is proven without brute force
SHRINKAGE = 6  # R = D / 6 below that: measured on MNIST and on CIFAR-10 at 16 and 32 pixels
SMALLEST_DIMENSION = 300  # up to here, the pixels themselves are short enough
SAMPLE_SIZE = 2048
SAMPLE_VALUES = 2**27  # in all images of the sample together; matters if images are large
INDEX_PART = 2048
INDEX_STEP = 65_536  # images between two reports of progress
COLUMN_BLOCK = 4096  # columns over which float32 sums integers up to 2²⁴
LARGEST_FACTOR = 255  # entries of 8 bits multiply exactly even in bfloat16
LARGEST_ERROR = 1e-8  # with a larger one, the rows are not a basis worth having

SINGLE_ROUNDOFF = 2.0**-24
DOUBLE_ROUNDOFF = 2.0**-53


@dataclass(frozen=True)
class Projection:
    """The map x → t(x), which without a basis is v itself."""

    center: Tensor
    """m, float32 [D], integers."""
    basis: "Basis | None"

    @property
    def width(self) -> int:
        """R, the numbers in t(x)."""
        return len(self.center) if self.basis is None else len(self.basis.rows) + 1

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project images.

        Args:
            images: uint8 [B, D]; may be memory-mapped.

        Returns:
            t(x), float32 [B, R], and ‖v‖, float64 [B].
        """
        t = np.empty((len(images), self.width), dtype=np.float32)
        norm = np.empty(len(images), dtype=np.float64)
        device = self.center.device
        for part in row_blocks(len(images), images.shape[1], device):
            v = to_float(images[part], device).sub_(self.center)
            squared_norm = squared_norms(v)
            t[part] = self._shorten(v, squared_norm).cpu().numpy()
            norm[part] = squared_norm.sqrt_().cpu().numpy()
        return t, norm

    def bound_error(self, norm_x: np.ndarray, norm_y: float) -> np.ndarray:
        """How far a float32 ‖t(x) − t(y)‖² may lie above the true ‖x − y‖².

        (γ(R + 4) + 2τ + τ²)·(‖v_x‖ + ‖v_y‖)², with γ(n) = n·u / (1 − n·u) and u = 2⁻²⁴. It holds
        however the products are ordered, expanded or fused.

        Args:
            norm_x: ‖v‖ of the queries, float64 [B].
            norm_y: the largest ‖v‖ of the training images.

        Returns:
            float64 [B].
        """
        tau = 0.0 if self.basis is None else self.basis.relative_error
        return (_gamma(self.width + 4, SINGLE_ROUNDOFF) + 2 * tau + tau**2) * (norm_x + norm_y) ** 2

    def _shorten(self, v: Tensor, squared_norm: Tensor) -> Tensor:
        if self.basis is None:
            return v
        rows = self.basis.rows
        z = torch.zeros(len(v), len(rows), dtype=torch.float64, device=v.device)
        for v_block, row_block in zip(
            torch.split(v, COLUMN_BLOCK, 1), torch.split(rows, COLUMN_BLOCK, 1), strict=True
        ):
            z += v_block @ row_block.T  # integers, exactly
        p = z @ self.basis.whitening
        residual = (squared_norm - p.square().sum(1)).clamp_(min=0).sqrt_()
        return torch.cat([p, residual[:, None]], 1).to(torch.float32)


@dataclass(frozen=True)
class Basis:
    """Orthonormal rows P = Wᵀ A, as integer rows and the matrix that whitens them."""

    rows: Tensor
    """A: float32 [R - 1, D], integers within ±255."""
    whitening: Tensor
    """W: float64 [R - 1, R - 1], from the Gram matrix of A."""
    relative_error: float
    """τ: the computed t(x) is within τ·‖v‖ of the exact one, before FAISS subtracts anything."""


def fit_projection(images: np.ndarray, width: int, *, device: torch.device) -> Projection:
    """Fit P to a sample of the images.

    Args:
        images: uint8 [N, D]; may be memory-mapped.
        width: R, ≤ D. If no basis is good enough, the projection has none, and R = D.
        device: where to compute.
    """
    num_images, D = images.shape
    size = _sample_size(num_images, D)
    picked = np.linspace(0, num_images - 1, size).astype(np.int64)
    sample = to_float(images[picked], device)
    center = sample.mean(0).round_()
    if width == D:
        return Projection(center, basis=None)
    return Projection(center, _fit_basis(sample.sub_(center), center, width - 1))


def _fit_basis(v: Tensor, center: Tensor, num_rows: int) -> Basis | None:
    """The principal rows of the sample v, float32 [n, D]; None if they are not accurate enough."""
    D = v.shape[1]
    rows = _principal_rows(v, num_rows)

    # Cauchy–Schwarz bounds every partial sum of a·v by ‖a‖·‖v‖, which must not exceed 2²⁴;
    # rounding lengthens a row by at most √D / 2.
    farthest = torch.maximum(center, 255 - center).to(torch.float64).square_()
    radius = max(float(part.sum()) for part in torch.split(farthest, COLUMN_BLOCK)) ** 0.5
    scale = 0.999 * 2.0**24 / radius - D**0.5 / 2
    scales = (LARGEST_FACTOR / rows.abs().amax(1, keepdim=True)).clamp_(max=scale)
    A = (rows * scales).round_()

    gram = torch.zeros(len(A), len(A), dtype=torch.float64, device=v.device)
    for block in torch.split(A, COLUMN_BLOCK, 1):
        gram += block.to(torch.float64) @ block.to(torch.float64).T  # integers, exactly
    L, failed = torch.linalg.cholesky_ex(gram)
    identity = torch.eye(len(A), dtype=torch.float64, device=v.device)
    W = torch.linalg.solve_triangular(L, identity, upper=False).T

    condition = _infinity_norm(gram) * _infinity_norm(W) * _infinity_norm(W.T)
    error = _infinity_norm(W.T @ gram @ W - identity)
    error += 2 * _gamma(2 * len(A), DOUBLE_ROUNDOFF) * condition
    exact = float(gram.diagonal().max()) ** 0.5 * radius <= 2.0**24
    if failed or not exact or not error < LARGEST_ERROR:
        return None
    return Basis(A, W, relative_error=2 * math.sqrt(error) + 2 * SINGLE_ROUNDOFF)


@dataclass(frozen=True)
class ProjectedImages:
    """The projections of N training images, and the map that made them."""

    projection: Projection
    vectors: np.ndarray
    """t(y), float32 [N, R]."""
    largest_norm: float
    """The largest ‖v‖ of a training image."""

    @property
    def num_bytes(self) -> int:
        """Memory of the vectors and the projection."""
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
    """Fit a projection to the training images and apply it to all of them.

    Args:
        images: uint8 [N, D]; may be memory-mapped.
        device: where to compute.
        memory_limit: the largest `ProjectedImages.num_bytes` allowed, or None.
        progress: told how many images have been projected.

    Raises:
        ConfigError: even the shortest projections take more memory than the limit.
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
    """R: the most that pays off, or else the most within the limit, or the least that is useful."""
    widest = D if D <= SMALLEST_DIMENSION else min(LARGEST_WIDTH, D // SHRINKAGE)
    shortest = min(SHORTEST_WIDTH, widest)
    for width in range(widest, shortest, -1):
        if memory_limit is None or num_index_bytes(num_images, D, width) <= memory_limit:
            return width
    return shortest


def num_index_bytes(num_images: int, D: int, width: int) -> int:
    """Memory of an index: N vectors, the center, and the basis if there is one."""
    num_rows = width - 1 if width < D else 0
    return 4 * num_images * width + 4 * D + num_rows * (4 * D + 8 * num_rows)


def num_making_bytes(num_images: int, D: int, width: int) -> int:
    """Most memory that making an index takes, the images aside: its vectors, the sample as floats,
    and, with a basis, three arrays of its size at a time (measured)."""
    num_rows = width - 1 if width < D else 0
    return 4 * (num_images * width + _sample_size(num_images, D) * D + 3 * num_rows * D)


def _sample_size(num_images: int, D: int) -> int:
    return min(num_images, SAMPLE_SIZE, SAMPLE_VALUES // D)


def _principal_rows(v: Tensor, num_rows: int) -> Tensor:
    """Orthonormal rows that nearly span the first principal components of v; [num_rows, D].

    One step of randomized subspace iteration (Halko et al., arXiv:0909.4061, Algorithm 4.4).
    """
    generator = torch.Generator().manual_seed(0)
    sketch = torch.randn(len(v), num_rows, generator=generator).to(v.device)
    Q = torch.linalg.qr(v.T @ sketch).Q
    rows: Tensor = torch.linalg.qr(v.T @ (v @ Q)).Q.T
    return rows


def _gamma(n: int, roundoff: float) -> float:
    """γ(n) = n·u / (1 − n·u), the relative error of n roundings (Higham)."""
    return n * roundoff / (1 - n * roundoff)


def _infinity_norm(matrix: Tensor) -> float:
    """Largest absolute row sum."""
    return float(matrix.abs().sum(1).max())
