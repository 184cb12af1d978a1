"""Parts of a training set, searched by several ranks, give what the whole gives."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch.distributed as dist
from helpers.rank_threads import workers

from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.sharded_index import (
    TASK,
    ShardedIndex,
    search_handler,
    shard_rows,
)
from memaudit.errors import DataError
from memaudit.ranks.leader import Leader

RADII = (0, 2.0, 40.0)


def images(count: int, levels: int, seed: int = 0) -> np.ndarray:
    """With few levels, many distances are equal and many images repeat."""
    rng = np.random.default_rng(seed)
    return (255 // (levels - 1) * rng.integers(0, levels, (count, 1, 3, 4))).astype(np.uint8)


@contextmanager
def sharded(train: np.ndarray, num_ranks: int, **options: bool) -> Iterator[ShardedIndex]:
    store = dist.HashStore()
    leader = Leader(store, num_ranks)
    served = [{TASK: search_handler(train, device="cpu")} for _ in range(num_ranks - 1)]
    with workers(store, *served):
        yield ShardedIndex(train, leader, **options)
        leader.end(0)


@pytest.mark.parametrize(
    ("num_ranks", "levels", "flips"),
    [
        (3, 2, True),
        pytest.param(2, 256, False, marks=pytest.mark.slow),
        pytest.param(2, 4, True, marks=pytest.mark.slow),
        pytest.param(5, 2, False, marks=pytest.mark.slow),
        pytest.param(5, 256, True, marks=pytest.mark.slow),
    ],
)
def test_parts_find_what_the_whole_finds(num_ranks: int, levels: int, flips: bool):
    train = images(301, levels)
    queries = np.concatenate([images(20, levels, seed=1), train[:20]])
    whole = NeighborIndex(train, flips=flips)
    with sharded(train, num_ranks, flips=flips) as parts:
        for k in (1, 3, 40, 301):
            expected, found = whole.nearest(queries, k), parts.nearest(queries, k)
            assert np.array_equal(found.index, expected.index)
            assert np.array_equal(found.squared_distance, expected.squared_distance)
        expected_all = [
            index.distinct_nearest(queries, duplicate_rms=RADII) for index in (whole, parts)
        ]
        expected_all += [
            index.leave_one_out(np.arange(0, 301, 30), duplicate_rms=RADII)
            for index in (whole, parts)
        ]
    for expected, found in (expected_all[:2], expected_all[2:]):
        for name in ("index", "squared_distance", "index_distinct", "squared_distance_distinct"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_fewer_images_than_ranks():
    train = images(3, 256)
    with sharded(train, 5) as parts:
        assert parts.nearest(train, 3).index[:, 0].tolist() == [0, 1, 2]
        assert parts.without_flips().nearest(train, 1).squared_distance.tolist() == [[0]] * 3


def test_parts_are_even_and_cover_all():
    rows = shard_rows(100, 7)
    assert [i for part in rows for i in range(100)[part]] == list(range(100))
    assert {part.stop - part.start for part in rows} == {14, 15}


def test_a_rank_with_other_training_images_is_refused():
    train = images(30, 256)
    other = train.copy()
    other[20] += 1
    store = dist.HashStore()
    leader = Leader(store, 2)
    with workers(store, {TASK: search_handler(other, device="cpu")}):
        with pytest.raises(DataError, match="opened other training images than rank 0"):
            ShardedIndex(train, leader)
        leader.end(2)
