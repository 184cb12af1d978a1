"""Matches are made once from their neighbors, whatever parts these were searched in."""

import numpy as np
import pytest

from memaudit.audit.memorization import matches as module
from memaudit.audit.memorization.matches import Matches, match_images
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.results import DistinctNeighbors


@pytest.fixture
def index() -> NeighborIndex:
    return NeighborIndex(np.random.default_rng(0).integers(0, 256, (40, 1, 4, 4), dtype=np.uint8))


def assert_equal(found: DistinctNeighbors, expected: DistinctNeighbors) -> None:
    assert found.radii == expected.radii
    for name in ("index", "squared_distance", "index_distinct", "squared_distance_distinct"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_parts_of_a_search_give_what_one_search_gives(
    index: NeighborIndex, monkeypatch: pytest.MonkeyPatch
):
    images = index.images[::-1]
    whole = match_images(index, images)
    told = []
    monkeypatch.setattr(module, "SEARCH_BATCH", 7)
    parts = match_images(index, images, progress=lambda *step: told.append(step[1:3]))
    assert_equal(parts.neighbors, whole.neighbors)
    assert parts.neighbors.statistics == whole.neighbors.statistics
    assert told[0] == (7, 40) and told[-1] == (40, 40) and len(told) == 6


def test_neighbors_of_some_queries_are_those_rows(index: NeighborIndex):
    near = match_images(index, index.images).neighbors
    rows = DistinctNeighbors.concatenate([near[:3], near[3:3], near[np.arange(3, 40)]])
    assert_equal(rows, near)
    assert len(near[5:9]) == 4


def test_no_images_have_no_matches(index: NeighborIndex):
    assert len(match_images(index, index.images[:0])) == 0


def test_the_radii_searched_hold_the_one_that_judges(index: NeighborIndex):
    matches = match_images(index, index.images, Rule(duplicate_rms=5.5))
    assert matches.neighbors.radii == (0.0, 4.0, 5.5, 8.0, 16.0)
    with pytest.raises(ValueError, match=r"not at duplicate_rms = 7.0"):
        Matches(matches.neighbors, Rule(duplicate_rms=7.0))
