"""Each generated image beside its nearest training images, and whether it is a copy.

The rule, at a threshold t: memorized iff ‖x − NN1‖ < t·‖x − NN2‖. The published rule takes the
second nearest training image as NN2; the distinct one the nearest that is no duplicate of NN1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from memaudit.audit.memorization.rule import memorized
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.results import DistinctNeighbors, SearchStatistics
from memaudit.progress import Progress, silent

SEARCH_BATCH = 1024
"""Queries searched at a time: enough for the matrix product, little enough to show progress."""
RADII = (0.0, 4.0, 8.0, 16.0)
"""Duplicate radii, RMS gray levels, that every image is searched at besides the one asked for."""
THRESHOLDS = (Fraction(1, 5), Fraction(1, 4), Fraction(1, 3), Fraction(2, 5), Fraction(1, 2))
"""Thresholds that the sensitivity table shows besides the one asked for."""


@dataclass(frozen=True)
class Matches:
    """One row a generated image. Indices count in the training set.

    Squared distances are sums of squared differences of the 8-bit pixels, int64; in a feature space
    float64.
    """

    index: np.ndarray
    """int64 [M, 2]: the two nearest training images, ties to the lower index."""
    squared_distance: np.ndarray
    """[M, 2]"""
    radii: tuple[float, ...]
    """R duplicate radii in RMS gray levels, ascending; 0 and `duplicate_rms` are among them."""
    index_distinct: np.ndarray
    """int64 [R, M]: the nearest that is no duplicate of the first within each radius; -1 where
    there is none."""
    squared_distance_distinct: np.ndarray
    """[R, M]; -1 beside an index of -1."""
    threshold: Fraction
    """t, as asked for."""
    duplicate_rms: float
    """The radius asked for."""
    statistics: SearchStatistics | None = None
    """How the search went; None for matches read from a file."""

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice) -> "Matches":
        """Some of the rows."""
        return Matches(
            self.index[rows],
            self.squared_distance[rows],
            self.radii,
            self.index_distinct[:, rows],
            self.squared_distance_distinct[:, rows],
            self.threshold,
            self.duplicate_rms,
            self.statistics,
        )

    @staticmethod
    def joined(parts: Sequence["Matches"]) -> "Matches":
        """The rows of all parts, which were judged alike."""
        statistics = [part.statistics for part in parts if part.statistics is not None]
        return Matches(
            np.concatenate([part.index for part in parts]),
            np.concatenate([part.squared_distance for part in parts]),
            parts[0].radii,
            np.concatenate([part.index_distinct for part in parts], axis=1),
            np.concatenate([part.squared_distance_distinct for part in parts], axis=1),
            parts[0].threshold,
            parts[0].duplicate_rms,
            sum(statistics[1:], start=statistics[0]) if statistics else None,
        )

    @property
    def nn1(self) -> np.ndarray:
        """int64 [M]: the nearest training image."""
        return self.index[:, 0]

    @property
    def nn2(self) -> np.ndarray:
        """int64 [M]: the second nearest."""
        return self.index[:, 1]

    @property
    def nn2_distinct(self) -> np.ndarray:
        """int64 [M]: the nearest that is no duplicate of nn1 within `duplicate_rms`; -1 if none."""
        return self.index_distinct[self._radius(self.duplicate_rms)]

    @property
    def squared_distance1(self) -> np.ndarray:
        """[M]"""
        return self.squared_distance[:, 0]

    @property
    def squared_distance2(self) -> np.ndarray:
        """[M]"""
        return self.squared_distance[:, 1]

    @property
    def squared_distance2_distinct(self) -> np.ndarray:
        """[M]; -1 beside an index of -1."""
        return self.squared_distance_distinct[self._radius(self.duplicate_rms)]

    @cached_property
    def memorized_paper(self) -> np.ndarray:
        """bool [M]: by the published rule, which misses copies of duplicated training images."""
        return self.memorized(None, self.threshold)

    @cached_property
    def memorized_distinct(self) -> np.ndarray:
        """bool [M]: with the second neighbor outside the first one's duplicates."""
        return self.memorized(self.duplicate_rms, self.threshold)

    @cached_property
    def distance_ratio(self) -> np.ndarray:
        """float64 [M]: d1/d2 (ℓ2), d2 as `memorized_distinct` takes it; 1 where both are 0."""
        d1, d2 = self.squared_distance1, self._second(self.duplicate_rms)
        return np.sqrt(np.divide(d1, d2, out=np.ones(len(d1)), where=d2 > 0))

    @property
    def num_degenerate(self) -> int:
        """Images at distance 0 from both neighbors: the published rule cannot call them copies."""
        return int(((self.squared_distance1 == 0) & (self.squared_distance2 == 0)).sum())

    def memorized(self, duplicate_rms: float | None, threshold: Fraction) -> np.ndarray:
        """bool [M], by the distinct rule at one of `radii`, or with None by the published rule.

        Where every training image is a duplicate of the nearest, the published rule decides.
        """
        return memorized(self.squared_distance1, self._second(duplicate_rms), threshold)

    def _second(self, duplicate_rms: float | None) -> np.ndarray:
        if duplicate_rms is None:
            return self.squared_distance2
        distinct = self.squared_distance_distinct[self._radius(duplicate_rms)]
        return np.where(distinct < 0, self.squared_distance2, distinct)

    def _radius(self, duplicate_rms: float) -> int:
        return self.radii.index(duplicate_rms)


@dataclass(frozen=True)
class Leak:
    """A training image that the source copies."""

    index: int
    name: str
    hits: int
    """Number of generated images that are copies of it."""
    best: int
    """Row of its closest copy among the generated images."""
    squared_distance: int | float
    """Of that copy."""
    rows: tuple[int, ...]
    """Rows of all its copies, closest first."""


def match(
    index: ImageSearch,
    generated: np.ndarray,
    *,
    threshold: Fraction = Fraction(1, 3),
    duplicate_rms: float = 8.0,
    progress: Progress = silent,
) -> Matches:
    """Search the neighbors of `generated` (uint8 [M, C, H, W], M ≥ 1) and judge every image."""
    task, total = "Finding nearest training images", len(generated)
    radii = tuple(sorted({*RADII, float(duplicate_rms)}))
    parts = []
    for batch in _batches(generated, SEARCH_BATCH):
        near: DistinctNeighbors = index.distinct_nearest(batch, duplicate_rms=radii)
        parts.append(
            Matches(
                near.index,
                near.squared_distance,
                radii,
                near.index_distinct,
                near.squared_distance_distinct,
                threshold,
                float(duplicate_rms),
                near.statistics,
            )
        )
        progress(task, min(total, len(parts) * SEARCH_BATCH), total)
    return Matches.joined(parts)


def find_leaks(matches: Matches, names: Sequence[str] | Mapping[int, str]) -> tuple[Leak, ...]:
    """Training images that are the first neighbor of a copy, most copied first.

    Args:
        matches: of the generated images.
        names: of the training images, by index.
    """
    copies = np.flatnonzero(matches.memorized_distinct)
    closest_first = copies[np.argsort(matches.squared_distance1[copies], kind="stable")]
    rows_of: dict[int, list[int]] = {}
    for row in closest_first:
        rows_of.setdefault(int(matches.nn1[row]), []).append(int(row))
    leaks = [
        Leak(
            index=index,
            name=names[index],
            hits=len(rows),
            best=rows[0],
            squared_distance=matches.squared_distance1[rows[0]].item(),
            rows=tuple(rows),
        )
        for index, rows in rows_of.items()
    ]
    return tuple(sorted(leaks, key=lambda leak: (-leak.hits, leak.squared_distance, leak.index)))


def _batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(images), size):
        yield images[start : start + size]
