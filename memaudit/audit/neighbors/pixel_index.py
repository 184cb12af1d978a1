"""The true nearest training images, whatever the backend, batch size, thread count or device.

FAISS makes a shortlist by the distances of short projections, which are lower bounds. The images of
the shortlist that may belong to the result are compared in integers, and the last bound, less its
float error, proves that no other image can belong to it. A query without a proof is searched again
with a longer shortlist, and finally by brute force. docs/neighbors.md has the proof. Where FAISS is
not installed, or does not see the GPU, all distances are computed in integers, and nothing is
projected.
"""

from copy import copy
from functools import partial

import numpy as np
import torch

from memaudit.audit.neighbors.base import QUERY_PART, ImageSearch
from memaudit.audit.neighbors.integer_distances import (
    FARTHEST,
    DistinctQuery,
    nearest_by_brute_force,
    nearest_distinct_by_brute_force,
    pair_distances,
    split_keys,
)
from memaudit.audit.neighbors.projection import ProjectedImages, project_images
from memaudit.audit.neighbors.results import Neighbors, SearchStatistics
from memaudit.audit.neighbors.units import Space, pixel_space
from memaudit.audit.neighbors.vector_search import (
    LONGEST_SHORTLIST,
    VectorSearch,
    faiss_serves,
    open_vector_search,
)
from memaudit.progress import Progress, silent

SHORTLIST = 128
WIDENING = 8


class NeighborIndex(ImageSearch):
    """Exact nearest neighbors in ℓ2 among N training images; distances are int64."""

    exact = True

    def __init__(
        self,
        images: np.ndarray,
        *,
        device: str | torch.device = "cpu",
        flips: bool = False,
        groups: np.ndarray | None = None,
        memory_limit: int | None = None,
        by_products: bool | None = None,
        progress: Progress = silent,
    ) -> None:
        """Prepare the search.

        Args:
            images: training images, uint8 [N, C, H, W], N ≥ 1; may be memory-mapped.
            device: "cpu", or "cuda" to search on a GPU.
            flips: whether a training image also counts as its mirror image.
            groups: int64 [N]: images with the same number belong together; None: each is its own.
            memory_limit: most bytes that the index may take. A limit shortens the projections,
                which makes searches slower but not less exact.
            by_products: whether to compute all distances for every query, without an index; None:
                where FAISS is missing. The result is the same.
            progress: told how many images have been indexed.

        Raises:
            DataError: there are no images, they are too large, or not uint8 [N, C, H, W].
            ConfigError: the device is "cuda", but there is no GPU; or the index takes more memory
                than the limit.
        """
        super().__init__(images, device=device, flips=flips, groups=groups)
        self.projected: ProjectedImages | None = None
        self._search_vectors: VectorSearch | None = None
        if by_products is None:
            by_products = not faiss_serves(self.device)
        if by_products:
            self.backend = f"products-{self.device.type}"
            return
        self.projected = project_images(
            self._rows, device=self.device, memory_limit=memory_limit, progress=progress
        )
        self.backend, self._search_vectors = open_vector_search(self.projected.vectors, self.device)

    @property
    def space(self) -> Space:
        return pixel_space(self.images.shape[1:])

    @property
    def passes_over_groups(self) -> bool:
        return self.projected is not None

    @property
    def num_bytes(self) -> int:
        return 8 * len(self._rows) if self.projected is None else self.projected.num_bytes

    def without_flips(self) -> "NeighborIndex":
        """The same index without mirror images and further rules; it shares the projections."""
        plain = copy(self)
        plain.flips = False
        plain.rules = ()
        return plain

    def search_part(self, x: np.ndarray, k: int) -> Neighbors:
        """The k nearest of rows uint8 [B, D], not mirrored: a part of a larger search."""
        return self._search(x, k)

    def search_part_distinct(self, query: DistinctQuery) -> tuple[np.ndarray, np.ndarray]:
        """As `_search_all_distinct`: a part of a larger search."""
        return self._search_all_distinct(query)

    def _search(self, x: np.ndarray, k: int, left_out: np.ndarray | None = None) -> Neighbors:
        index = np.empty((len(x), k), dtype=np.int64)
        squared_distance = np.empty((len(x), k), dtype=np.int64)
        num_candidates = 0
        shortlist = max(SHORTLIST, 4 * k)
        attempts = (shortlist, WIDENING * shortlist) if self.projected is not None else ()
        answered_by = np.full(len(x), len(attempts))
        for attempt, width in enumerate(attempts):
            todo = np.flatnonzero(answered_by > attempt)
            if not len(todo) or width >= len(self._rows) or width > LONGEST_SHORTLIST:
                break
            index[todo], squared_distance[todo], proven, checked = self._map(
                partial(self._search_shortlist, x, k, width, left_out), todo, QUERY_PART
            )
            answered_by[todo[proven]] = attempt
            num_candidates += int(checked.sum())
        todo = np.flatnonzero(answered_by == len(attempts))
        if left_out is not None:
            index[todo], squared_distance[todo] = -1, -1
        elif len(todo):
            index[todo], squared_distance[todo] = self._map(
                lambda part: nearest_by_brute_force(x[part], self._training, k),
                todo,
                self._brute_force_part,
            )
        statistics = SearchStatistics(
            self.backend,
            num_searches=len(x),
            num_certified=int((answered_by == 0).sum()) if attempts else 0,
            num_widened=int((answered_by[answered_by < len(attempts)] > 0).sum()),
            num_brute_forced=0 if left_out is not None else len(todo),
            num_candidates=num_candidates,
        )
        return Neighbors(index, squared_distance, statistics)

    def _search_all_distinct(self, query: DistinctQuery) -> tuple[np.ndarray, np.ndarray]:
        return nearest_distinct_by_brute_force(query, self._training)

    def _search_shortlist(
        self, x: np.ndarray, k: int, width: int, left_out: np.ndarray | None, part: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Search the queries x[part], uint8 [B, D], with a shortlist of `width` images each.

        Images of the groups that are left out, int64 [len(x), G], take places on the shortlist, but
        are not compared.

        Returns:
            index and squared distance [B, k], whether they are proven [B], and the number of
            distances computed [B].
        """
        assert self.projected is not None and self._search_vectors is not None
        t, norm = self.projected.projection(x[part])
        float_bound, shortlist = self._search_vectors(t, width)
        error = self.projected.bound_error(norm)
        bound = float_bound.astype(np.float64) - error[:, None]  # ≤ S, ascending

        # The first 2k give a limit; every image that may lie within it is compared.
        keys = np.full(shortlist.shape, FARTHEST)
        counted = np.ones(shortlist.shape, dtype=bool)
        if left_out is not None and self.groups is not None:
            groups = self.groups[shortlist]
            for column in left_out[part].T:
                counted &= groups != column[:, None]
        first = counted & (counted.cumsum(1) <= 2 * k)
        keys[first] = self._keys(x, part, first, shortlist)
        limit = np.partition(keys, k - 1)[:, k - 1 : k] // len(self._rows)
        within = counted & (bound <= limit) & ~first
        keys[within] = self._keys(x, part, within, shortlist)
        nearest = np.sort(np.partition(keys, k - 1)[:, :k])
        index, squared_distance = split_keys(nearest, len(self._rows))

        proven = bound[:, -1] > squared_distance[:, -1]  # strictly: an equal one could come first
        proven &= index[:, -1] >= 0  # or fewer than k of the shortlist count
        return index, squared_distance, proven, (first | within).sum(1)

    def _keys(
        self, x: np.ndarray, part: np.ndarray, mask: np.ndarray, shortlist: np.ndarray
    ) -> np.ndarray:
        """Keys of the shortlisted images in the mask, for the queries x[part]; int64 [M]."""
        query, column = np.nonzero(mask)
        index = shortlist[query, column]
        S = pair_distances(x, self._training, part[query], index, device=self.device)
        keys: np.ndarray = S * len(self._rows) + index
        return keys
