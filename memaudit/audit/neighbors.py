"""The true nearest training images, whatever the backend, batch size, thread count or device.

FAISS makes a shortlist, distances on it are recomputed in integers, and the bound that FAISS
returns, less its float error, proves that nothing outside the shortlist can belong to the result.
What is not proven is searched again with a longer shortlist, at last by brute force.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import faiss
import numpy as np
import torch
from torch import Tensor

from memaudit.audit.exact import nearest_by_brute_force, pair_distances, smallest
from memaudit.errors import ConfigError, DataError

QUERY_BLOCK = 1024
SHORTLIST = 64
WIDENING = 8
UNIT_ROUNDOFF = 2.0**-24


@dataclass(frozen=True)
class SearchStatistics:
    """How the searches behind a result went."""

    num_queries: int = 0
    num_certified: int = 0
    """Queries whose first shortlist was proven to hold the answer."""
    num_widened: int = 0
    """Queries that needed a longer shortlist, which was proven."""
    num_brute_forced: int = 0
    """Queries answered by all N distances."""
    num_candidates: int = 0
    """Integer distances computed for shortlisted images."""

    def __add__(self, other: "SearchStatistics") -> "SearchStatistics":
        return SearchStatistics(
            self.num_queries + other.num_queries,
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

    def __init__(self, images: np.ndarray, *, device: str | torch.device = "cpu") -> None:
        """Prepare the search.

        Args:
            images: training images, uint8 [N, C, H, W], N ≥ 1; may be memory-mapped.
            device: "cpu", or "cuda" to search on a GPU.

        Raises:
            DataError: images are not uint8 [N, C, H, W], or there are none.
            ConfigError: a GPU is asked for where there is none.
        """
        _check_images("Training", images)
        if not len(images):
            raise DataError("There are no training images to search.")
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device is cuda, but this machine shows no CUDA GPU; use cpu.")
        self.images = images
        self._rows = images.reshape(len(images), -1)
        self._centre = self._rows.mean(0, dtype=np.float64).round().astype(np.float32)
        self._projected = self._rows - self._centre
        self._largest_norm = float(np.sqrt((self._projected**2).sum(1, dtype=np.float64).max()))

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
        index = np.empty((len(x), k), dtype=np.int64)
        squared_distance = np.empty((len(x), k), dtype=np.int64)
        statistics = SearchStatistics()
        for start in range(0, len(x), QUERY_BLOCK):
            part = slice(start, start + QUERY_BLOCK)
            index[part], squared_distance[part], of_part = self._search(x[part], k)
            statistics += of_part
        return Neighbors(index, squared_distance, statistics)

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
        limit = math.floor(Fraction(duplicate_rms) ** 2 * D)
        x = self._query_rows(queries)
        found = self.nearest(queries, 2)
        statistics = found.statistics
        index_distinct = np.full(len(x), -1, dtype=np.int64)
        squared_distance_distinct = np.full(len(x), -1, dtype=np.int64)

        k, todo, index, squared_distance = 2, np.arange(len(x)), found.index, found.squared_distance
        while len(todo):
            first = np.repeat(index[:, 0], k)
            apart = pair_distances(
                self._rows[first], self._rows[index.ravel()], device=self.device
            ).reshape(-1, k)
            is_distinct = apart > limit
            done, column = is_distinct.any(1), is_distinct.argmax(1)
            rows = np.flatnonzero(done)
            index_distinct[todo[rows]] = index[rows, column[rows]]
            squared_distance_distinct[todo[rows]] = squared_distance[rows, column[rows]]
            todo = todo[~done]
            if k == num_images or not len(todo):
                break
            k = min(WIDENING * k, num_images)
            wider = self.nearest(np.asarray(queries)[todo], k)
            index, squared_distance = wider.index, wider.squared_distance
            statistics += wider.statistics
        return DistinctNeighbors(
            found.index,
            found.squared_distance,
            index_distinct,
            squared_distance_distinct,
            statistics,
        )

    def _query_rows(self, queries: np.ndarray | Tensor) -> np.ndarray:
        """Queries as uint8 [B, D], checked against the training images."""
        array = np.asarray(queries)
        _check_images("Generated", array)
        if array.shape[1:] != self.images.shape[1:]:
            raise DataError(
                f"Generated images are {list(array.shape)} but the training images are "
                f"{list(self.images.shape)}. Pass training images of the generated ones' shape."
            )
        return array.reshape(len(array), -1)

    def _search(self, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, SearchStatistics]:
        """The k nearest of queries x, uint8 [B, D]."""
        index = np.empty((len(x), k), dtype=np.int64)
        squared_distance = np.empty((len(x), k), dtype=np.int64)
        projected = x - self._centre
        norm = np.sqrt((projected**2).sum(1, dtype=np.float64))
        error = self._bound_error(norm)
        todo = np.arange(len(x))
        num_answered, num_candidates = [], 0
        for width in (max(SHORTLIST, 4 * k), WIDENING * max(SHORTLIST, 4 * k)):
            if not len(todo) or width >= len(self.images):
                num_answered.append(0)
                continue
            bound, shortlist = faiss.knn(projected[todo], self._projected, width)
            bound = bound - error[todo, None]  # ≤ S, in float64
            exact = np.full(shortlist.shape, np.iinfo(np.int64).max)
            exact[:, :k] = self._distances(x, todo, shortlist[:, :k])
            check = bound <= exact[:, :k].max(1, keepdims=True)
            check[:, :k] = False
            query, column = np.nonzero(check)
            exact[query, column] = pair_distances(
                x[todo[query]], self._rows[shortlist[query, column]], device=self.device
            )
            num_candidates += len(todo) * k + len(query)
            best_distance, best_index = smallest(exact, shortlist, k)
            proven = bound[:, -1] > best_distance[:, -1]
            index[todo[proven]] = best_index[proven]
            squared_distance[todo[proven]] = best_distance[proven]
            num_answered.append(int(proven.sum()))
            todo = todo[~proven]
        if len(todo):
            index[todo], squared_distance[todo] = nearest_by_brute_force(
                x[todo], self._rows, k, device=self.device
            )
        return (
            index,
            squared_distance,
            SearchStatistics(
                num_queries=len(x),
                num_certified=num_answered[0],
                num_widened=num_answered[1],
                num_brute_forced=len(todo),
                num_candidates=num_candidates,
            ),
        )

    def _distances(self, x: np.ndarray, todo: np.ndarray, index: np.ndarray) -> np.ndarray:
        """S between each query of todo and its images, index int64 [T, K] → int64 [T, K]."""
        query = np.repeat(todo, index.shape[1])
        return pair_distances(x[query], self._rows[index.ravel()], device=self.device).reshape(
            index.shape
        )

    def _bound_error(self, norm: np.ndarray) -> np.ndarray:
        """How far FAISS's float32 squared distances may be above the truth, float64 [B]."""
        n = self._projected.shape[1] + 4
        gamma = n * UNIT_ROUNDOFF / (1 - n * UNIT_ROUNDOFF)
        return gamma * (norm + self._largest_norm) ** 2


def _check_images(whose: str, images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(
            f"{whose} images are {images.dtype} {list(images.shape)}; uint8 [N, C, H, W] is needed."
        )
