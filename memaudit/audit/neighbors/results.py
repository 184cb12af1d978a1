"""What a search for neighbors found, and how.

Legend: B queries, K neighbors, R radii within which images are duplicates.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SearchStatistics:
    """How the searches behind a result went.

    `distinct_nearest` may search twice for a query, and with flips each orientation is a search.
    Between features nothing is certified.
    """

    backend: str
    """What made the shortlists: "faiss-cpu", "faiss-cuda" or "torch-cuda"."""
    num_searches: int = 0
    num_certified: int = 0
    """Searches whose first shortlist was proven to hold the answer."""
    num_widened: int = 0
    """Searches that needed a longer shortlist, which was proven."""
    num_brute_forced: int = 0
    """Searches that took all N distances."""
    num_candidates: int = 0
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
    """[B, K]: Σ (x − y)² over the pixel values 0…255, int64; or between features, float64."""
    statistics: SearchStatistics


@dataclass(frozen=True)
class DistinctNeighbors:
    """The two nearest training images, and for each radius the nearest outside the first one's
    duplicates.
    """

    index: np.ndarray
    """int64 [B, 2]."""
    squared_distance: np.ndarray
    """[B, 2], int64, or float64 between features."""
    index_distinct: np.ndarray
    """int64 [R, B]; -1 where every training image is a duplicate of the nearest one."""
    squared_distance_distinct: np.ndarray
    """[R, B], of the same type; -1 likewise."""
    statistics: SearchStatistics
