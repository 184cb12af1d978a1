"""The true nearest training images, whatever the backend, batch size, thread count or device.

FAISS makes a shortlist by distances of short projections, which are lower bounds. Those of the
shortlist that may belong to the result are compared in integers, and the last bound, less its float
error, proves that nothing outside can belong to it. What is not proven is searched again with a
longer shortlist, at last by brute force. docs/neighbors.md has the proof.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial

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
from memaudit.audit.found import DistinctNeighbors, Neighbors, SearchStatistics
from memaudit.audit.parallel import map_parts, one_thread
from memaudit.audit.projection import Projection, nearest_projections
from memaudit.errors import ConfigError, DataError
from memaudit.progress import Progress, silent

QUERY_PART = 1024
BRUTE_FORCE_PART = 512
QUERY_BYTES = 64 << 20  # of pixels in a part, where images are large
INDEX_PART = 2048
INDEX_STEP = 65_536  # images between two reports of progress
SHORTLIST = 128
WIDENING = 8
MORE_NEIGHBORS = 16  # among which nearly every query finds one that is no duplicate
LONGEST_SHORTLIST = 2048  # FAISS on a GPU selects no more
LARGEST_DIMENSION = 2**22  # the error bounds hold up to here

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""(t(x) float32 [B, R], K) → squared distances, float [B, K], ascending, and index int64 [B, K]."""


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
            DataError: images are not uint8 [N, C, H, W], too large, or there are none.
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
        with one_thread():
            self._projection = Projection(self._rows, device=self.device)
        projected = np.empty((len(images), self._projection.width), dtype=np.float32)
        norms = np.empty(len(images))
        for start in range(0, len(images), INDEX_STEP):
            step = np.arange(start, min(start + INDEX_STEP, len(images)))
            projected[step], norms[step] = map_parts(
                lambda part: self._projection(self._rows[part[0] : part[-1] + 1]),
                step,
                largest=INDEX_PART,
                device=self.device,
            )
            progress("Indexing training images", start + len(step), len(images))
        self._largest_norm = float(norms.max())
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
        self, queries: np.ndarray | Tensor, *, duplicate_rms: Sequence[float | Fraction]
    ) -> DistinctNeighbors:
        """The two nearest training images, and the nearest outside the first one's duplicates.

        A duplicate of the nearest image y₁ is any training image y within a radius of it in grey
        levels, root mean square over D values: S(y₁, y) ≤ radius²·D, compared exactly.

        Args:
            queries: uint8 [B, C, H, W].
            duplicate_rms: radii in grey levels, each ≥ 0; at 0 only exact copies are duplicates.
                All are answered by one search.

        Raises:
            DataError: queries are not of the training images' shape, or N < 2.
            ValueError: a radius is negative or not finite, or there is none.
        """
        num_images, D = self._rows.shape
        if num_images < 2:
            raise DataError("The training set holds 1 image. A second neighbor needs at least 2.")
        limits = duplicate_limits(duplicate_rms, D)
        x = self._query_rows(queries)
        found = self._nearest(x, 2)
        statistics = found.statistics
        index, squared_distance = self._first_distinct(found, limits)

        missing = np.flatnonzero((index < 0).any(1))
        if len(missing):
            near = self._nearest(x[missing], min(MORE_NEIGHBORS, num_images))
            index[missing], squared_distance[missing] = self._first_distinct(near, limits)
            statistics += near.statistics

        missing = np.flatnonzero((index < 0).any(1))
        if len(missing):
            index[missing], squared_distance[missing] = self._map(
                partial(self._search_all_distinct, x, found.index[:, 0], limits),
                missing,
                BRUTE_FORCE_PART,
            )
            statistics += SearchStatistics(
                self.backend, num_searches=len(missing), num_brute_forced=len(missing)
            )
        return DistinctNeighbors(
            found.index, found.squared_distance, index.T, squared_distance.T, statistics
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
            todo = np.flatnonzero(answered_by > attempt)
            if not len(todo) or width >= len(self._rows) or width > LONGEST_SHORTLIST:
                break
            index[todo], squared_distance[todo], proven, checked = self._map(
                partial(self._search_shortlist, x, k, width), todo, QUERY_PART
            )
            answered_by[todo[proven]] = attempt
            num_candidates += int(checked.sum())
        todo = np.flatnonzero(answered_by == len(attempts))
        if len(todo):
            index[todo], squared_distance[todo] = self._map(
                partial(self._search_all, x, k), todo, BRUTE_FORCE_PART
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

    def _first_distinct(
        self, near: Neighbors, limits: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest found with S > limit to the first found; index and S, or -1; [B, R]."""
        B, k = near.index.shape

        def apart(part: np.ndarray) -> tuple[np.ndarray]:
            first = np.repeat(near.index[part, 0], k)
            S = pair_distances(
                self._rows, self._rows, first, near.index[part].ravel(), device=self.device
            )
            return (S.reshape(-1, k),)

        (S,) = self._map(apart, np.arange(B), QUERY_PART)
        is_distinct = S[:, None] > np.array(limits)[:, None]  # [B, R, k]
        rank = is_distinct.argmax(2)
        some = is_distinct.any(2)
        return (
            np.where(some, np.take_along_axis(near.index, rank, 1), -1),
            np.where(some, np.take_along_axis(near.squared_distance, rank, 1), -1),
        )

    def _map(
        self,
        function: Callable[[np.ndarray], tuple[np.ndarray, ...]],
        queries: np.ndarray,
        largest: int,
    ) -> tuple[np.ndarray, ...]:
        """What the function returns for parts of the queries, put together."""
        largest = max(1, min(largest, QUERY_BYTES // self._rows.shape[1]))
        return map_parts(function, queries, largest=largest, device=self.device)

    def _search_shortlist(
        self, x: np.ndarray, k: int, width: int, part: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Search the queries x[part], uint8 [B, D], by a shortlist of `width` each.

        Returns:
            index and squared distance [B, k], whether they are proven to be right [B], and how many
            distances were computed [B].
        """
        t, norm = self._projection(x[part])
        float_bound, shortlist = self._search(t, width)
        error = self._projection.bound_error(norm, self._largest_norm)
        bound = float_bound.astype(np.float64) - error[:, None]  # ≤ S, ascending

        # The first 2k give a limit; all that may lie within it are compared.
        keys = np.full(shortlist.shape, FARTHEST)
        first = np.zeros(shortlist.shape, dtype=bool)
        first[:, : 2 * k] = True
        keys[first] = self._keys(x, part, first, shortlist)
        limit = np.partition(keys[:, : 2 * k], k - 1)[:, k - 1 : k] // len(self._rows)
        within = (bound <= limit) & ~first
        keys[within] = self._keys(x, part, within, shortlist)
        nearest = np.sort(np.partition(keys, k - 1)[:, :k])
        index, squared_distance = split_keys(nearest, len(self._rows))

        proven = bound[:, -1] > squared_distance[:, -1]  # strictly: an equal one could come first
        return index, squared_distance, proven, (first | within).sum(1)

    def _keys(
        self, x: np.ndarray, part: np.ndarray, mask: np.ndarray, shortlist: np.ndarray
    ) -> np.ndarray:
        """Keys of the queries x[part] and the images of their shortlists in the mask, int64 [M]."""
        query, column = np.nonzero(mask)
        index = shortlist[query, column]
        S = pair_distances(x, self._rows, part[query], index, device=self.device)
        return S * len(self._rows) + index

    def _search_all(self, x: np.ndarray, k: int, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return nearest_by_brute_force(x[part], self._rows, k, device=self.device)

    def _search_all_distinct(
        self, x: np.ndarray, first: np.ndarray, limits: Sequence[int], part: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return nearest_distinct_by_brute_force(
            x[part], self._rows[first[part]], self._rows, limits, device=self.device
        )


def duplicate_limits(duplicate_rms: Sequence[float | Fraction], D: int) -> list[int]:
    """The largest S between duplicates for each radius in grey levels: ⌊radius²·D⌋, exactly.

    Raises:
        ValueError: a radius is negative or not finite, or there is none.
    """
    if not duplicate_rms or not all(0 <= radius < math.inf for radius in duplicate_rms):
        raise ValueError(f"duplicate_rms must be radii ≥ 0 and finite, got {duplicate_rms}")
    largest = D * 255**2  # of all images
    return [min(math.floor(Fraction(radius) ** 2 * D), largest) for radius in duplicate_rms]


def _open_search(projected: np.ndarray, device: torch.device) -> tuple[str, Search]:
    """The backend's name, and the search for the nearest of `projected`, float32 [N, R]."""
    if device.type == "cpu":

        def search_cpu(t: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            faiss.omp_set_num_threads(1)  # of the calling thread: parts run side by side
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
