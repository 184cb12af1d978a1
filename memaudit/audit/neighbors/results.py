"""What a search for neighbors found, and how it went.

Legend: B queries, K neighbors, R radii within which images are duplicates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class SearchStatistics:
    """How the searches behind a result went.

    `distinct_nearest` may search twice for a query, and with flips each orientation is a search of
    its own. A search of features certifies nothing.
    """

    backend: str
    """What made the shortlists, "faiss-cpu", "faiss-cuda", or for features also "torch-cpu" or
    "torch-cuda"; or what took their place: "products-cpu" or "products-cuda"."""
    num_searches: int = 0
    num_certified: int = 0
    """Searches whose first shortlist provably held the answer."""
    num_widened: int = 0
    """Searches that needed a longer shortlist, which provably held it."""
    num_brute_forced: int = 0
    """Searches that computed all N distances."""
    num_candidates: int = 0
    """Distances of shortlisted images that were computed in integers."""

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
    """int64 [B, K]: positions in the training set."""
    squared_distance: np.ndarray
    """[B, K]: Σ (x − y)² over pixel values in 0…255, int64; between features float64."""
    statistics: SearchStatistics


@dataclass(frozen=True)
class DistinctNeighbors:
    """The two nearest training images of each query, and for each radius the nearest one that is
    not a duplicate of the first.
    """

    radii: tuple[float | Fraction, ...]
    """R radii in RMS gray levels, in the order in which they were asked for."""
    index: np.ndarray
    """int64 [B, 2]: positions in the training set, ties to the lower index."""
    squared_distance: np.ndarray
    """[B, 2]: Σ (x − y)² over pixel values in 0…255, int64; between features float64."""
    index_distinct: np.ndarray
    """int64 [R, B]; -1 if every training image is a duplicate of the nearest one."""
    squared_distance_distinct: np.ndarray
    """[R, B], of the type of `squared_distance`; -1 beside an index of -1."""
    statistics: SearchStatistics | None
    """How the search went; None for neighbors read from a file."""
    num_values: int | None = None
    """D, the values per image where distances are between pixels; None between features."""
    judged: np.ndarray | None = None
    """int64 [B]: which of the images that leave-one-out was asked for these are; None means all."""

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, queries: slice | np.ndarray) -> "DistinctNeighbors":
        """The neighbors of some of the queries; the statistics remain those of the whole search."""
        return replace(
            self,
            index=self.index[queries],
            squared_distance=self.squared_distance[queries],
            index_distinct=self.index_distinct[:, queries],
            squared_distance_distinct=self.squared_distance_distinct[:, queries],
            judged=None if self.judged is None else self.judged[queries],
        )

    @staticmethod
    def concatenate(parts: Sequence["DistinctNeighbors"]) -> "DistinctNeighbors":
        """The neighbors of all queries of several searches, at least one, for the same radii."""
        statistics = [part.statistics for part in parts if part.statistics is not None]
        return DistinctNeighbors(
            radii=parts[0].radii,
            index=np.concatenate([part.index for part in parts]),
            squared_distance=np.concatenate([part.squared_distance for part in parts]),
            index_distinct=np.concatenate([part.index_distinct for part in parts], axis=1),
            squared_distance_distinct=np.concatenate(
                [part.squared_distance_distinct for part in parts], axis=1
            ),
            statistics=sum(statistics[1:], start=statistics[0]) if statistics else None,
            num_values=parts[0].num_values,
        )


@dataclass(frozen=True)
class PreprocessingFacts:
    """What a report says of what an encoder was given."""

    mean: tuple[float, ...]
    """The encoder was given (u/255 − mean) / std for pixel values u: one number, or one per
    channel."""
    std: tuple[float, ...]
    resize: int | None
    """Pixels of the shorter edge that images were resized to, or None for their own size."""
    crop: int | None
    """Height and width that were cut from the middle, or None."""
    interpolation: str
    """How images were resized."""


@dataclass(frozen=True)
class EncoderFacts:
    """What a report says of the encoder whose features were compared."""

    name: str
    """A published name, the path of a program, or a function's name."""
    path: str | None
    """The file of the weights or of the program; None for a function."""
    sha256: str | None
    """SHA-256 of the file; None for a function."""
    is_program: bool
    """Whether it is code of the user's, not weights of a network that memaudit knows."""
    metric: str
    """Distance between features."""
    preprocessing: PreprocessingFacts | None
    """None for a function, which does its own."""


@dataclass(frozen=True)
class SearchFacts:
    """What a report says of how the nearest training images were found."""

    encoder: EncoderFacts | None
    """None where pixels were compared."""
    flips: bool
    """Whether mirror images of the training images were searched as well."""
    match: tuple[str, ...]
    """Rules by which images count as copies, `pixels` first; empty where whole images alone were
    compared."""
    num_bytes: int
    """Memory of the index."""
    statistics: SearchStatistics
