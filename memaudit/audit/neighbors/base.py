"""What the pixel and the feature index have in common.

A search finds the k nearest training images, or the two nearest and the nearest one that is not a
duplicate of the first. Duplicates are judged in pixels whatever the search compares, so that a
radius in gray levels means the same everywhere.

With `flips`, the distance to a training image is the smaller of those to it and to its mirror
image. A horizontally flipped query finds the latter in the same index: S'(x, y) = min(S(x, y),
S(flip x, y)).

With `groups` (all images of a person, a video, a product), what is not a duplicate must also belong
to another group than the first neighbor: the slices of one patient are near each other without
being duplicates, and a copy of one of them lies about as near to the next.

Legend: B queries, N training images, D pixel values per image, K neighbors, R radii.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from memaudit.audit.neighbors.integer_distances import DistinctQuery, TrainingRows, pair_distances
from memaudit.audit.neighbors.results import DistinctNeighbors, Neighbors, SearchStatistics
from memaudit.audit.neighbors.threads import map_parts
from memaudit.audit.neighbors.units import Space, largest_squared_distance
from memaudit.errors import ConfigError, DataError
from memaudit.models.devices import exact_device

if TYPE_CHECKING:
    from memaudit.audit.neighbors.rules.rule import RuleSearch

QUERY_PART = 1024
BRUTE_FORCE_PART, CUDA_BRUTE_FORCE_PART = 512, 4096
QUERY_BYTES = 64 << 20  # limits the parts if images are large
MORE_NEIGHBORS = 16  # among them, nearly every query finds one that is not a duplicate
MOST_NEIGHBORS = 128  # among them, one of another group, unless groups are large
OTHER_GROUPS = 4  # neighbors of other groups, among which nearly every query finds a distinct one
LARGEST_DIMENSION = 2**22  # the error bounds are proven up to here


class ImageSearch(ABC):
    """Nearest neighbors among N training images."""

    exact: bool
    """Whether neighbors and distances are proven, or only as good as float arithmetic."""
    backend: str
    """What makes the shortlists, "faiss-cpu", "faiss-cuda", or for features also "torch-cpu" or
    "torch-cuda"; or what takes their place: "products-cpu" or "products-cuda"."""

    rules: "tuple[RuleSearch, ...]" = ()
    """Further rules, ready to judge images against the same training images."""

    def __init__(
        self,
        images: np.ndarray,
        *,
        device: str | torch.device,
        flips: bool,
        groups: np.ndarray | None = None,
    ) -> None:
        """Check and keep what every search needs.

        Args:
            images: training images, uint8 [N, C, H, W], N ≥ 1; may be memory-mapped.
            device: "cuda" to search on a GPU; on others the CPU searches.
            flips: whether a training image also counts as its mirror image.
            groups: int64 [N]: images with the same number belong together; None: each is its own.

        Raises:
            DataError: there are no images, they are too large, or not uint8 [N, C, H, W].
            ConfigError: the device is "cuda", but there is no GPU.
            ValueError: groups are not one integer per image.
        """
        _check_images("Training", images)
        if not len(images):
            raise DataError("There are no training images to search.")
        self.device = exact_device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device is cuda, but this machine shows no CUDA GPU; use cpu.")
        self.images = images
        self.flips = flips
        self.groups = groups
        if groups is not None and (groups.dtype != np.int64 or groups.shape != (len(images),)):
            raise ValueError(
                f"groups are {groups.dtype} {list(groups.shape)}; int64 [{len(images)}] is needed"
            )
        self._rows = images.reshape(len(images), -1)
        if self._rows.shape[1] > LARGEST_DIMENSION:
            raise DataError(
                f"Training images are {list(images.shape)}, {self._rows.shape[1]} values each; the "
                f"search is proven for up to {LARGEST_DIMENSION}. Use a lower resolution."
            )

    @property
    @abstractmethod
    def space(self) -> Space:
        """What the squared distances mean."""

    @property
    def passes_over_groups(self) -> bool:
        """Whether `_search` can leave groups out of a shortlist, however many images they have."""
        return False

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Memory that the index takes besides the training images."""

    def nearest(self, queries: np.ndarray | Tensor, k: int) -> Neighbors:
        """The k nearest training images, ties to the lower index.

        Args:
            queries: uint8 [B, C, H, W].
            k: 1 … N.

        Raises:
            DataError: queries do not have the training images' shape.
            ValueError: k is out of range.

        Examples:
            >>> from memaudit.audit.neighbors.pixel_index import NeighborIndex
            >>> gray = np.array([0, 100, 200], dtype=np.uint8)
            >>> index = NeighborIndex(np.broadcast_to(gray[:, None, None, None], (3, 1, 2, 2)))
            >>> found = index.nearest(np.full((1, 1, 2, 2), 101, dtype=np.uint8), k=2)
            >>> found.index.tolist(), found.squared_distance.tolist()
            ([[1, 2]], [[4, 39204]])
        """
        x = self._query_rows(queries)
        if not 1 <= k <= len(self.images):
            raise ValueError(f"k must be 1 … {len(self.images)}, the training images; got {k}")
        return self._nearest(x, k)

    def distinct_nearest(
        self, queries: np.ndarray | Tensor, *, duplicate_rms: Sequence[float | Fraction]
    ) -> DistinctNeighbors:
        """The two nearest training images, and the nearest that is not a duplicate of the first.

        A duplicate of the nearest image y₁ is any training image y within a radius of it in gray
        levels, the root mean square over D values: S(y₁, y) ≤ radius²·D, compared exactly.

        With groups, the nearest in another group than y₁; where all that are in one are duplicates,
        the nearest that is not, whatever its group. So groups never bring a second neighbor nearer.

        Args:
            queries: uint8 [B, C, H, W].
            duplicate_rms: radii in gray levels, each ≥ 0; at 0, only exact copies are duplicates.
                One search answers all of them.

        Raises:
            DataError: queries do not have the training images' shape, or N < 2.
            ValueError: a radius is negative or not finite, or none is given.
        """
        num_images, *image_shape = self.images.shape
        if num_images < 2:
            raise DataError("The training set holds 1 image. A second neighbor needs at least 2.")
        if not duplicate_rms:
            raise ValueError("duplicate_rms holds no radius; at least 1 is needed")
        limits = [largest_squared_distance(radius, image_shape) for radius in duplicate_rms]
        x = self._query_rows(queries)
        index, S, statistics = self._widening(
            x,
            (2, MORE_NEIGHBORS),
            limits,
            lambda missing, near: np.ones(near.shape, dtype=bool),
            own=None,
        )
        missing = np.flatnonzero((index < 0).any(1))
        if len(missing):
            index[missing, 2:], S[missing, 2:], more = self._distinct_among_all(
                x[missing], index[missing, 0], limits
            )
            statistics += more
        return self._distinct_neighbors(index, S, duplicate_rms, statistics)

    def leave_one_out(
        self, positions: np.ndarray, *, duplicate_rms: Sequence[float | Fraction]
    ) -> DistinctNeighbors:
        """`distinct_nearest` of training images, each among those that differ from it in a pixel.

        With groups, those of its own group do not count either.

        Args:
            positions: int64 [B], positions in the training set.
            duplicate_rms: radii in gray levels, each ≥ 0.

        Returns:
            The neighbors of those images that have at least two such others, in their order.

        Raises:
            ValueError: a radius is negative or not finite, or none is given.
        """
        limits = [
            largest_squared_distance(radius, self.images.shape[1:]) for radius in duplicate_rms
        ]
        x = self._rows[positions]
        own = None if self.groups is None else self.groups[positions]

        def others(rows: np.ndarray, near: np.ndarray) -> np.ndarray:
            counted: np.ndarray = self._pixel_distances(x[rows], near) > 0
            if own is not None and self.groups is not None:
                counted &= self.groups[near] != own[rows, None]
            return counted

        # Each image finds itself.
        index, S, statistics = self._widening(x, (3, 1 + MORE_NEIGHBORS), limits, others, own=own)

        def nearest_of_all(rows: np.ndarray, but: np.ndarray | None) -> None:
            nonlocal statistics
            column = 0 if but is None else 1
            found = self._search_all(
                DistinctQuery(
                    self._orientations(x[rows]),
                    self._orientations(x[rows]),
                    [0],
                    but=but,
                    groups=self.groups,
                    left_out=None if own is None else own[rows, None],
                )
            )
            index[rows, column], S[rows, column] = found[0][:, 0], found[1][:, 0]
            statistics += found[2]

        lonely = np.flatnonzero((index[:, :2] < 0).any(1))  # many images equal them
        if len(lonely):
            nearest_of_all(lonely, None)
            some = lonely[index[lonely, 0] >= 0]
            if len(some):
                nearest_of_all(some, index[some, 0])
        judged = np.flatnonzero((index[:, :2] >= 0).all(1))
        missing = judged[(index[judged] < 0).any(1)]
        if len(missing):
            index[missing, 2:], S[missing, 2:], more = self._distinct_among_all(
                x[missing],
                index[missing, 0],
                limits,
                own=None if own is None else own[missing],
                leave_out_equal=True,
            )
            statistics += more
        found = self._distinct_neighbors(index[judged], S[judged], duplicate_rms, statistics)
        return replace(found, judged=judged)

    def _widening(
        self,
        x: np.ndarray,
        steps: tuple[int, ...],
        limits: Sequence[int],
        counted: Callable[[np.ndarray, np.ndarray], np.ndarray],
        *,
        own: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray, SearchStatistics]:
        """Search ever more neighbors, until those wanted are among them or there are many.

        Args:
            x: queries, uint8 [B, D].
            steps: neighbors to search for, first and then.
            limits: the largest S of a duplicate, one per radius.
            counted: (which queries [b], their neighbors [b, k]) → which of these count, bool.
            own: groups of the queries, int64 [B], none of whose images counts; None without any.

        Returns:
            index and distance as from `_two_and_distinct`, [B, 2 + R]; and how the searches went.
        """
        index = np.full((len(x), 2 + len(limits)), -1, dtype=np.int64)
        S = np.full(index.shape, -1, dtype=np.int64 if self.space.exact else np.float64)
        statistics = SearchStatistics(self.backend)
        if self.groups is not None:  # a group may have many images, which are near each other
            steps = steps[:1] if self.passes_over_groups else (*steps, MOST_NEIGHBORS)
        for k in steps:
            missing = np.flatnonzero((index < 0).any(1))
            if len(missing) or not len(x):
                near = self._nearest(x[missing], min(k, len(self.images)))
                index[missing], S[missing] = self._two_and_distinct(
                    near, counted(missing, near.index), limits
                )
                statistics += near.statistics
        if self.groups is None or not self.passes_over_groups:
            return index, S, statistics

        def elsewhere(rows: np.ndarray, left_out: np.ndarray) -> tuple[np.ndarray, Neighbors]:
            """Neighbors outside some groups, of those rows for which they are proven."""
            nonlocal statistics
            near = self._nearest(x[rows], min(OTHER_GROUPS, len(self.images)), left_out)
            statistics += near.statistics
            proven = (near.index >= 0).all(1)
            near = Neighbors(near.index[proven], near.squared_distance[proven], near.statistics)
            return rows[proven], near

        missing = np.flatnonzero((index[:, :2] < 0).any(1))
        if len(missing) and own is not None:
            rows, near = elsewhere(missing, own[missing, None])
            index[rows], S[rows] = self._two_and_distinct(near, counted(rows, near.index), limits)
        missing = np.flatnonzero((index[:, :2] >= 0).all(1) & (index < 0).any(1))
        if len(missing):
            group = self.groups[index[missing, 0]]
            left_out = group[:, None] if own is None else np.stack([group, own[missing]], 1)
            rows, near = elsewhere(missing, left_out)
            index[rows, 2:], S[rows, 2:] = self._first_apart(
                near, index[rows, 0], counted(rows, near.index), limits
            )
        return index, S, statistics

    def _distinct_among_all(
        self,
        x: np.ndarray,
        first: np.ndarray,
        limits: Sequence[int],
        *,
        own: np.ndarray | None = None,
        leave_out_equal: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, SearchStatistics]:
        """The nearest outside the first one's duplicates and group, from all N distances.

        Args:
            x: queries, uint8 [B, D].
            first: their nearest images, int64 [B].
            limits: the largest S of a duplicate, one per radius.
            own: groups of the queries, int64 [B], which do not count either.
            leave_out_equal: whether images that equal a query do not count either.

        Returns:
            index and distance, [B, R], -1 where every image is a duplicate; and how it went.
        """
        query = DistinctQuery(
            self._orientations(x),
            self._orientations(self._rows[first]),
            limits,
            leave_out_equal=leave_out_equal,
        )
        if self.groups is None:
            return self._search_all(query)
        near = self.groups[first, None]
        left_out = near if own is None else np.stack([own, self.groups[first]], 1)
        query = replace(query, groups=self.groups, left_out=left_out)
        index, S, statistics = self._search_all(query)
        alone = np.flatnonzero((index < 0).any(1))
        if len(alone):  # no other group has one
            query = replace(query, left_out=None if own is None else own[:, None]).take(alone)
            anywhere, distance, more = self._search_all(query)
            none = index[alone] < 0
            index[alone] = np.where(none, anywhere, index[alone])
            S[alone] = np.where(none, distance, S[alone])
            statistics += more
        return index, S, statistics

    def _search_all(self, query: DistinctQuery) -> tuple[np.ndarray, np.ndarray, SearchStatistics]:
        """`_search_all_distinct` part by part."""
        num_queries = len(query.x[0])
        index, S = self._map(
            lambda part: self._search_all_distinct(query.take(part)),
            np.arange(num_queries),
            self._brute_force_part,
        )
        statistics = SearchStatistics(
            self.backend, num_searches=num_queries, num_brute_forced=num_queries
        )
        return index, S, statistics

    def _distinct_neighbors(
        self,
        index: np.ndarray,
        S: np.ndarray,
        duplicate_rms: Sequence[float | Fraction],
        statistics: SearchStatistics,
    ) -> DistinctNeighbors:
        """What is found, from index and distance [B, 2 + R]."""
        return DistinctNeighbors(
            tuple(duplicate_rms),
            index[:, :2],
            S[:, :2],
            index[:, 2:].T,
            S[:, 2:].T,
            statistics,
            num_values=self._num_values,
        )

    @property
    def _num_values(self) -> int | None:
        return self.space.num_values if self.space.exact else None

    @abstractmethod
    def _search(self, x: np.ndarray, k: int, left_out: np.ndarray | None = None) -> Neighbors:
        """The k nearest training images, not mirrored, of queries uint8 [B, D].

        Args:
            x: queries, uint8 [B, D].
            k: 1 … N.
            left_out: groups whose images do not count, int64 [B, G], only where the search
                `passes_over_groups`. Then a query has -1 in all places if its neighbors were not
                proven.
        """

    @abstractmethod
    def _search_all_distinct(self, query: DistinctQuery) -> tuple[np.ndarray, np.ndarray]:
        """Answer a query for each of its limits, from all N distances.

        Returns:
            index int64 [B, R] and squared distance [B, R]; -1 if every image is a duplicate.
        """

    @cached_property
    def _training(self) -> TrainingRows:
        """Training images to compare with: on the GPU if they fit in half of its free memory."""
        return TrainingRows(self._rows, self.device)

    @property
    def _brute_force_part(self) -> int:
        """Most queries that are compared with all images at a time.

        More on a GPU, to which all images may be sent again for each part.
        """
        return CUDA_BRUTE_FORCE_PART if self.device.type == "cuda" else BRUTE_FORCE_PART

    def _query_rows(self, queries: np.ndarray | Tensor) -> np.ndarray:
        """Queries as uint8 [B, D], checked against the training images."""
        array = queries.numpy(force=True) if isinstance(queries, Tensor) else queries
        _check_images("Generated", array)
        if array.shape[1:] != self.images.shape[1:]:
            raise DataError(
                f"Generated images are {list(array.shape)} but the training images are "
                f"{list(self.images.shape)}. Pass training images of the same shape."
            )
        return array.reshape(len(array), self._rows.shape[1])

    def _orientations(self, rows: np.ndarray) -> list[np.ndarray]:
        """Images uint8 [B, D], and with `flips` their mirror images, too."""
        if not self.flips:
            return [rows]
        mirrored = rows.reshape(-1, *self.images.shape[1:])[..., ::-1].copy()
        return [rows, mirrored.reshape(rows.shape)]

    def _nearest(self, x: np.ndarray, k: int, left_out: np.ndarray | None = None) -> Neighbors:
        """The k nearest training images of queries uint8 [B, D], in either orientation; `left_out`
        as for `_search`."""
        found = [self._search(rows, k, left_out) for rows in self._orientations(x)]
        if len(found) == 1:
            return found[0]
        both = _nearer_of_both(*found)
        unproven = np.any([(each.index < 0).any(1) for each in found], axis=0)
        both.index[unproven], both.squared_distance[unproven] = -1, -1
        return both

    def _two_and_distinct(
        self, near: Neighbors, counted: np.ndarray, limits: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """index and distance of the two nearest that count, and of the nearest outside the first
        one's duplicates; -1 where it is not among those found; [B, 2 + R].

        Args:
            near: the nearest found.
            counted: which of them count, bool [B, k].
            limits: the largest S of a duplicate, one per radius.
        """
        first = counted.argmax(1)
        others = counted & (np.arange(counted.shape[1]) > first[:, None])
        nearest = np.take_along_axis(near.index, first[:, None], 1)  # [B, 1]
        apart = counted
        if self.groups is not None:
            apart = counted & (self.groups[near.index] != self.groups[nearest])
        two = _first_of(near, np.stack([counted, others], 1))
        distinct = self._first_apart(near, nearest[:, 0], apart, limits)
        return np.concatenate([two[0], distinct[0]], 1), np.concatenate([two[1], distinct[1]], 1)

    def _first_apart(
        self, near: Neighbors, first: np.ndarray, counted: np.ndarray, limits: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """index and distance of the nearest that counts and is not a duplicate of another image.

        Args:
            near: the nearest found.
            first: the other image of each query, int64 [B].
            counted: which of the nearest count, bool [B, k].
            limits: the largest S of a duplicate, one per radius.

        Returns:
            [B, R] each; -1 where it is not among those found.
        """
        S = self._pixel_distances(self._rows[first], near.index)
        return _first_of(near, counted[:, None] & (S[:, None] > np.array(limits)[:, None]))

    def _pixel_distances(self, rows: np.ndarray, index: np.ndarray) -> np.ndarray:
        """S in pixels between each row and k training images, int64 [B, k], mirrored if `flips`."""
        B, k = index.shape

        def apart(part: np.ndarray) -> tuple[np.ndarray]:
            pair = np.repeat(np.arange(len(part)), k), index[part].ravel()
            S = [
                pair_distances(x, self._training, *pair, device=self.device)
                for x in self._orientations(rows[part])
            ]
            return (np.minimum.reduce(S).reshape(-1, k),)

        (S,) = self._map(apart, np.arange(B), QUERY_PART)
        return S

    def _map(
        self,
        function: Callable[[np.ndarray], tuple[np.ndarray, ...]],
        queries: np.ndarray,
        largest: int,
    ) -> tuple[np.ndarray, ...]:
        """What the function returns for parts of the queries, concatenated."""
        largest = max(1, min(largest, QUERY_BYTES // self._rows.shape[1]))
        return map_parts(function, queries, largest=largest, device=self.device)


def _first_of(near: Neighbors, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """index and distance of the nearest that is wanted, bool [B, R, k], or -1; [B, R] each."""
    rank, some = wanted.argmax(2), np.any(wanted, 2)
    return (
        np.where(some, np.take_along_axis(near.index, rank, 1), -1),
        np.where(some, np.take_along_axis(near.squared_distance, rank, 1), -1),
    )


def _nearer_of_both(straight: Neighbors, mirrored: Neighbors) -> Neighbors:
    """The k nearest by the smaller of two distances; an image found in both counts once."""
    k = straight.index.shape[1]
    index = np.concatenate([straight.index, mirrored.index], 1)
    squared_distance = np.concatenate([straight.squared_distance, mirrored.squared_distance], 1)

    def in_order(*keys: np.ndarray) -> None:
        nonlocal index, squared_distance
        order = np.lexsort(keys, axis=1)  # the last key counts first
        index = np.take_along_axis(index, order, 1)
        squared_distance = np.take_along_axis(squared_distance, order, 1)

    in_order(squared_distance, index)
    found_nearer = np.zeros(index.shape, dtype=bool)
    found_nearer[:, 1:] = index[:, 1:] == index[:, :-1]
    in_order(index, squared_distance, found_nearer)
    return Neighbors(
        index[:, :k], squared_distance[:, :k], straight.statistics + mirrored.statistics
    )


def _check_images(whose: str, images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(
            f"{whose} images are {images.dtype} {list(images.shape)}; uint8 [N, C, H, W] is needed."
        )
