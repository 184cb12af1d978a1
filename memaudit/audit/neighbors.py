"""The true nearest training images, whatever the backend, batch size, thread count or device.

FAISS makes a shortlist by distances of short projections, which are lower bounds. Those of the
shortlist that may belong to the result are compared in integers, and the last bound, less its float
error, proves that nothing outside can belong to it. What is not proven is searched again with a
longer shortlist, at last by brute force. docs/neighbors.md has the proof.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import faiss
import numpy as np
import torch
from torch import Tensor

from memaudit.audit.exact import (
    FARTHEST,
    nearest_by_brute_force,
    nearest_distinct_by_brute_force,
    pair_distances,
    split_keys,
)
from memaudit.audit.projection import Projection, nearest_projections
from memaudit.errors import ConfigError, DataError
from memaudit.progress import Progress, silent

QUERY_BLOCK = 2048
BRUTE_FORCE_BLOCK = 512
QUERY_BYTES = 64 << 20  # of pixels at a time, where images are large
INDEX_BLOCK = 8192
SHORTLIST = 128
WIDENING = 8
MORE_NEIGHBORS = 16  # among which nearly every query finds one that is no duplicate
LONGEST_SHORTLIST = 2048  # FAISS on a GPU selects no more
LARGEST_DIMENSION = 2**22  # the error bounds hold up to here

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""(t(x) float32 [B, R], K) → squared distances, float [B, K], ascending, and index int64 [B, K]."""


@dataclass(frozen=True)
class SearchStatistics:
    """How the searches behind a result went; `distinct_nearest` may search twice for a query."""

    backend: str
    """What made the shortlists: "faiss-cpu", "faiss-cuda" or "torch-cuda"."""
    num_searches: int
    num_certified: int
    """Searches whose first shortlist was proven to hold the answer."""
    num_widened: int
    """Searches that needed a longer shortlist, which was proven."""
    num_brute_forced: int
    """Searches that took all N distances."""
    num_candidates: int
    """Distances computed in integers for shortlisted images."""

    def __add__(self, other: "SearchStatistics") -> "SearchStatistics":
        return SearchStatistics(
            self.backend,
            self.num_searches + other.num_searches,
            self.num_certified + other.num_certified,
            self.num_widened + other.num_widened,
            self.num_brute_forced + other.num_brute_forced,
            self.num_candidates + other.num_candidates,
        )


@dataclass(frozen=True)
class Neighbors:
    """The k nearest training images of each query, nearest first, ties to the lower index."""

    index: np.ndarray
    """int64 [B, K], positions in the training set."""
    squared_distance: np.ndarray
    """int64 [B, K]: Σ (x − y)² over the pixel values 0…255."""
    statistics: SearchStatistics


@dataclass(frozen=True)
class DistinctNeighbors:
    """The two nearest training images, and the nearest that is no duplicate of the first."""

    index: np.ndarray
    """int64 [B, 2]."""
    squared_distance: np.ndarray
    """int64 [B, 2]."""
    index_distinct: np.ndarray
    """int64 [B]; -1 where every training image is a duplicate of the nearest one."""
    squared_distance_distinct: np.ndarray
    """int64 [B]; -1 likewise."""
    statistics: SearchStatistics


class NeighborIndex:
    """Exact nearest neighbors among N training images."""

    def __init__(
        self,
        images: np.ndarray,
        *,
        device: str | torch.device = "cpu",
        progress: Progress = silent,
    ) -> None:
        """Prepare the search.

        Args:
            images: training images, uint8 [N, C, H, W], N ≥ 1; may be memory-mapped.
            device: "cpu", or "cuda" to search on a GPU.
            progress: told how many images are indexed.

        Raises:
            DataError: images are not uint8 [N, C, H, W], or there are none.
            ConfigError: a GPU is asked for where there is none.
        """
        _check_images("Training", images)
        if not len(images):
            raise DataError("There are no training images to search.")
        self.device = torch.device(device)
        if self.device.type not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu or cuda, got {device}")
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device is cuda, but this machine shows no CUDA GPU; use cpu.")
        self.images = images
        self._rows = images.reshape(len(images), -1)
        if self._rows.shape[1] > LARGEST_DIMENSION:
            raise DataError(
                f"Training images are {list(images.shape)}, {self._rows.shape[1]} values each; the "
                f"search is proven up to {LARGEST_DIMENSION}. Use a lower resolution."
            )
        self._projection = Projection(self._rows, device=self.device)
        projected = np.empty((len(images), self._projection.width), dtype=np.float32)
        self._largest_norm = 0.0
        for start in range(0, len(images), INDEX_BLOCK):
            part = slice(start, start + INDEX_BLOCK)
            projected[part], norm = self._projection(self._rows[part])
            self._largest_norm = max(self._largest_norm, float(norm.max()))
            progress("Indexing training images", min(part.stop, len(images)), len(images))
        self.backend, self._search = _open_search(projected, self.device)

    def nearest(self, queries: np.ndarray | Tensor, k: int) -> Neighbors:
        """The k nearest training images in ℓ2, ties to the lower index.

        Args:
            queries: uint8 [B, C, H, W].
            k: 1 … N.

        Raises:
            DataError: queries are not of the training images' shape.
            ValueError: k is out of range.
        """
        x = self._query_rows(queries)
        if not 1 <= k <= len(self.images):
            raise ValueError(f"k must be 1 … {len(self.images)}, the training images; got {k}")
        return self._nearest(x, k)

    def distinct_nearest(
        self, queries: np.ndarray | Tensor, *, duplicate_rms: float | Fraction = 8
    ) -> DistinctNeighbors:
        """The two nearest training images, and the nearest outside the first one's duplicates.

        A duplicate of the nearest image y₁ is any training image y within `duplicate_rms` grey
        levels of it, root mean square over D values: S(y₁, y) ≤ duplicate_rms²·D, compared exactly.

        Args:
            queries: uint8 [B, C, H, W].
            duplicate_rms: radius in grey levels, ≥ 0; at 0 only exact copies are duplicates.

        Raises:
            DataError: queries are not of the training images' shape, or N < 2.
            ValueError: duplicate_rms is negative or not finite.
        """
        num_images, D = self._rows.shape
        if num_images < 2:
            raise DataError("The training set holds 1 image. A second neighbor needs at least 2.")
        if not 0 <= duplicate_rms < math.inf:
            raise ValueError(f"duplicate_rms must be ≥ 0 and finite, got {duplicate_rms}")
        limit = min(math.floor(Fraction(duplicate_rms) ** 2 * D), D * 255**2)
        x = self._query_rows(queries)
        found = self._nearest(x, 2)
        first = found.index[:, 0]
        statistics = found.statistics
        index, squared_distance = self._first_distinct(found, limit)

        missing = np.flatnonzero(index < 0)
        if len(missing):
            near = self._nearest(x[missing], min(MORE_NEIGHBORS, num_images))
            index[missing], squared_distance[missing] = self._first_distinct(near, limit)
            statistics += near.statistics

        missing = np.flatnonzero(index < 0)
        for part in self._parts(missing, BRUTE_FORCE_BLOCK):
            index[part], squared_distance[part] = nearest_distinct_by_brute_force(
                x[part], self._rows[first[part]], self._rows, limit, device=self.device
            )
        statistics += SearchStatistics(
            self.backend,
            num_searches=len(missing),
            num_certified=0,
            num_widened=0,
            num_brute_forced=len(missing),
            num_candidates=0,
        )
        return DistinctNeighbors(
            found.index, found.squared_distance, index, squared_distance, statistics
        )

    def _query_rows(self, queries: np.ndarray | Tensor) -> np.ndarray:
        """Queries as uint8 [B, D], checked against the training images."""
        array = queries.numpy(force=True) if isinstance(queries, Tensor) else queries
        _check_images("Generated", array)
        if array.shape[1:] != self.images.shape[1:]:
            raise DataError(
                f"Generated images are {list(array.shape)} but the training images are "
                f"{list(self.images.shape)}. Pass training images of the generated ones' shape."
            )
        return array.reshape(len(array), self._rows.shape[1])

    def _nearest(self, x: np.ndarray, k: int) -> Neighbors:
        """The k nearest training images of queries uint8 [B, D]."""
        index = np.empty((len(x), k), dtype=np.int64)
        squared_distance = np.empty((len(x), k), dtype=np.int64)
        num_candidates = 0
        shortlist = max(SHORTLIST, 4 * k)
        attempts = (shortlist, WIDENING * shortlist)
        answered_by = np.full(len(x), len(attempts))
        for attempt, width in enumerate(attempts):
            if width >= len(self._rows) or width > LONGEST_SHORTLIST:
                break
            for part in self._parts(np.flatnonzero(answered_by > attempt), QUERY_BLOCK):
                index[part], squared_distance[part], proven, checked = self._try(x[part], k, width)
                answered_by[part[proven]] = attempt
                num_candidates += checked
        for part in self._parts(np.flatnonzero(answered_by == len(attempts)), BRUTE_FORCE_BLOCK):
            index[part], squared_distance[part] = nearest_by_brute_force(
                x[part], self._rows, k, device=self.device
            )
        num_certified, num_widened, num_brute_forced = np.bincount(answered_by, minlength=3)
        statistics = SearchStatistics(
            self.backend,
            num_searches=len(x),
            num_certified=int(num_certified),
            num_widened=int(num_widened),
            num_brute_forced=int(num_brute_forced),
            num_candidates=num_candidates,
        )
        return Neighbors(index, squared_distance, statistics)

    def _first_distinct(self, near: Neighbors, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest found with S > limit to the first found; index and S, or -1; int64 [B]."""
        B, k = near.index.shape
        first = np.repeat(near.index[:, 0], k)
        apart = pair_distances(
            self._rows, self._rows, first, near.index.ravel(), device=self.device
        )
        is_distinct = apart.reshape(B, k) > limit
        rows, rank = np.arange(B), is_distinct.argmax(1)
        some = is_distinct[rows, rank]
        return (
            np.where(some, near.index[rows, rank], -1),
            np.where(some, near.squared_distance[rows, rank], -1),
        )

    def _parts(self, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """Cut positions of queries into parts of `size`, or fewer where images are large."""
        size = max(1, min(size, QUERY_BYTES // self._rows.shape[1]))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def _try(
        self, x: np.ndarray, k: int, width: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Search uint8 [B, D] by a shortlist of `width`.

        Returns:
            index and squared distance [B, k], whether they are proven to be right [B], and the
            number of distances computed.
        """
        t, norm = self._projection(x)
        float_bound, shortlist = self._search(t, width)
        error = self._projection.bound_error(norm, self._largest_norm)
        bound = float_bound.astype(np.float64) - error[:, None]  # ≤ S, ascending

        # The first 2k give a limit; all that may lie within it are compared.
        keys = np.full(shortlist.shape, FARTHEST)
        first = np.zeros(shortlist.shape, dtype=bool)
        first[:, : 2 * k] = True
        keys[first] = self._keys(x, first, shortlist)
        limit = np.partition(keys[:, : 2 * k], k - 1)[:, k - 1 : k] // len(self._rows)
        within = (bound <= limit) & ~first
        keys[within] = self._keys(x, within, shortlist)
        nearest = np.sort(np.partition(keys, k - 1)[:, :k])
        index, squared_distance = split_keys(nearest, len(self._rows))

        proven = bound[:, -1] > squared_distance[:, -1]  # strictly: an equal one could come first
        return index, squared_distance, proven, int(first.sum() + within.sum())

    def _keys(self, x: np.ndarray, mask: np.ndarray, shortlist: np.ndarray) -> np.ndarray:
        """Keys of each query and the images of its shortlist that the mask picks, int64 [M]."""
        query, column = np.nonzero(mask)
        index = shortlist[query, column]
        S = pair_distances(x, self._rows, query, index, device=self.device)
        return S * len(self._rows) + index


def _open_search(projected: np.ndarray, device: torch.device) -> tuple[str, Search]:
    """The backend's name, and the search for the nearest of `projected`, float32 [N, R]."""
    if device.type == "cpu":

        def search_cpu(t: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            faiss.omp_set_num_threads(torch.get_num_threads())  # one setting for both
            return faiss.knn(t, projected, k)

        return "faiss-cpu", search_cpu
    if faiss.get_num_gpus():
        config = faiss.GpuIndexFlatConfig()
        config.device = device.index or 0
        config.use_cuvs = False  # the error bound is that of float32 products, as FAISS's own are
        resources = faiss.StandardGpuResources()
        index = faiss.GpuIndexFlatL2(resources, projected.shape[1], config)
        index.add(projected)
        return "faiss-cuda", index.search

    y = torch.from_numpy(projected).to(device)
    return "torch-cuda", lambda t, k: nearest_projections(torch.from_numpy(t).to(device), y, k)


def _check_images(whose: str, images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(
            f"{whose} images are {images.dtype} {list(images.shape)}; uint8 [N, C, H, W] is needed."
        )
