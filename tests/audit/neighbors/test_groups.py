"""Second neighbors from another group, against all distances; groups cut patients and videos."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers.all_distances import KINDS, all_distances, near_duplicates, noise, smooth
from helpers.rank_threads import workers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from memaudit.audit.memorization.matches import match_images
from memaudit.audit.neighbors import pixel_index
from memaudit.audit.neighbors.feature_index import FeatureIndex
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.published_encoders import open_encoder
from memaudit.audit.neighbors.sharded_index import TASK, ShardedIndex, search_handler
from memaudit.ranks.leader import Leader

SHAPE = (1, 4, 5)
RADII = (0, 4.0, 60)


def slowly(S, apart, groups, radii, own=None):
    """Two nearest and, per radius, the nearest distinct one, for one query: index by radius.

    Args:
        S: distances to the N images that decide; int64 or float64 [N], -1 where an image is left
            out.
        apart: function of an image's index that gives S in pixels to all.
        groups: int64 [N].
        radii: in gray levels.
        own: the group that is left out besides.
    """
    order = [i for i in np.lexsort((np.arange(len(S)), S)) if S[i] >= 0 and groups[i] != own]
    if len(order) < 2:
        return None
    found = order[:2]
    away = apart(order[0])
    for radius in radii:
        limit = Fraction(radius) ** 2 * np.prod(SHAPE)
        distinct = [i for i in order if away[i] > limit]
        elsewhere = [i for i in distinct if groups[i] != groups[order[0]]]
        found.append(next(iter(elsewhere or distinct), -1))
    return found


def assert_found(found, expected, S):
    index = np.concatenate([found.index, found.index_distinct.T], 1)
    np.testing.assert_array_equal(index, expected)
    distance = np.concatenate([found.squared_distance, found.squared_distance_distinct.T], 1)
    expected_S = np.where(index < 0, -1, np.take_along_axis(S, index, 1))
    np.testing.assert_allclose(distance, expected_S, rtol=1e-6, atol=1e-9)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(KINDS),
    num_images=st.integers(2, 200),
    num_groups=st.sampled_from([1, 2, 3, 40]),
    flips=st.booleans(),
    by_products=st.booleans(),
)
def test_second_neighbors_of_another_group_equal_all_distances(
    seed, kind, num_images, num_groups, flips, by_products
):
    rng = np.random.default_rng(seed)
    images = kind(rng, num_images, SHAPE)
    images = images[rng.integers(0, num_images, num_images)]  # some of them repeated
    images[::3] = images[::3, ..., ::-1]
    groups = rng.integers(-1, num_groups, num_images)
    queries = np.concatenate([noise(rng, 4, SHAPE), images[:4]])
    index = NeighborIndex(images, flips=flips, groups=groups, by_products=by_products)
    between = all_distances(images, images, flips=flips)
    S = all_distances(queries, images, flips=flips)
    assert_found(
        index.distinct_nearest(queries, duplicate_rms=RADII),
        [slowly(row, between.__getitem__, groups, RADII) for row in S],
        S,
    )
    positions = rng.permutation(num_images)[:6]
    expected = [
        slowly(
            np.where(between[i] == 0, -1, between[i]), between.__getitem__, groups, RADII, groups[i]
        )
        for i in positions
    ]
    judged = [each is not None for each in expected]
    found = index.leave_one_out(positions, duplicate_rms=RADII)
    assert len(found) == sum(judged)
    if len(found):
        assert_found(found, [each for each in expected if each], between[positions[judged]])


def patients(num_patients, num_slices, shape=(1, 16, 16), seed=0):
    """Slices of patients that lie 20 gray levels apart, and whose each is."""
    rng = np.random.default_rng(seed)
    centers = np.repeat(smooth(rng, num_patients, shape), num_slices, 0)
    images = np.clip(centers + rng.normal(0, 20, centers.shape), 0, 255).astype(np.uint8)
    return images, np.repeat(np.arange(num_patients), num_slices)


@pytest.mark.parametrize(("num_patients", "num_slices"), [(200, 5), (30, 40), (5, 300)])
def test_large_groups_are_searched_in_steps(num_patients, num_slices):
    """The result is that of all distances, also where a shortlist holds one group only."""
    images, groups = patients(num_patients, num_slices)
    index = NeighborIndex(images, groups=groups)
    queries = np.clip(images[::50].astype(int) + 3, 0, 255).astype(np.uint8)
    found = index.distinct_nearest(queries, duplicate_rms=[8])
    S = all_distances(queries, images)
    other = np.where(groups == groups[found.index[:, :1]], 2**62, S)
    np.testing.assert_array_equal(found.index_distinct[0], other.argmin(1))
    if index.backend == "faiss-cpu":
        assert found.statistics.num_brute_forced == 0


@pytest.mark.parametrize("flips", [False, True])
def test_short_shortlists_are_exact_as_well(flips, monkeypatch):
    """With 8 images on a shortlist, most of them of one group, much is not proven by them."""
    monkeypatch.setattr(pixel_index, "SHORTLIST", 8)
    rng = np.random.default_rng(0)
    for num_groups in (3, 20, 100):
        centers = noise(rng, num_groups, SHAPE).astype(int)
        groups = rng.integers(0, num_groups, 300)
        images = np.clip(centers[groups] + rng.integers(-9, 10, (300, *SHAPE)), 0, 255)
        images = images.astype(np.uint8)
        images[:30] = images[30:60]  # equal ones, also of several groups
        queries = np.concatenate([images[:20], noise(rng, 20, SHAPE)])
        index = NeighborIndex(images, flips=flips, groups=groups)
        between = all_distances(images, images, flips=flips)
        S = all_distances(queries, images, flips=flips)
        expected = [slowly(row, between.__getitem__, groups, RADII) for row in S]
        assert_found(index.distinct_nearest(queries, duplicate_rms=RADII), expected, S)
        rows = np.arange(0, 300, 7)
        left = [np.where(between[i] == 0, -1, between[i]) for i in rows]
        expected = [
            slowly(each, between.__getitem__, groups, RADII, groups[i])
            for each, i in zip(left, rows, strict=True)
        ]
        assert_found(index.leave_one_out(rows, duplicate_rms=RADII), expected, between[rows])


def test_parts_that_ranks_hold_find_what_the_whole_finds():
    rng = np.random.default_rng(0)
    train = near_duplicates(rng, 150, SHAPE)
    groups = rng.integers(0, 4, len(train))
    queries = np.concatenate([train[:10], noise(rng, 10, SHAPE)])
    store = dist.HashStore()
    leader = Leader(store, 3)
    with workers(store, *({TASK: search_handler(train, device="cpu")} for _ in range(2))):
        indices = NeighborIndex(train, groups=groups), ShardedIndex(train, leader, groups=groups)
        searched = [index.distinct_nearest(queries, duplicate_rms=RADII) for index in indices]
        searched += [index.leave_one_out(np.arange(30), duplicate_rms=RADII) for index in indices]
        leader.end(0)
    for expected, found in (searched[:2], searched[2:]):
        assert expected.statistics.num_brute_forced > 0
        for name in ("index", "squared_distance", "index_distinct", "squared_distance_distinct"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name


class Sums(nn.Module):
    """The sums of rows and of columns."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.sum([1, 2]), x.sum([1, 3])], 1)


@pytest.mark.parametrize("num_groups", [2, 30])
def test_neighbors_by_features_come_from_another_group(tmp_path, num_groups):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(Sums()).save(str(tmp_path / "encoder.pt"))
    rng = np.random.default_rng(0)
    images = noise(rng, 120, SHAPE)
    images[60:90] = images[:30]  # equal ones, some in other groups
    groups = rng.integers(0, num_groups, len(images))
    encoder = open_encoder(tmp_path / "encoder.pt", preprocessing="unit")
    index = FeatureIndex(images, encoder, metric="l2", groups=groups)
    queries = noise(rng, 10, SHAPE)
    between = all_distances(images, images)

    def features(array):
        return Sums()(torch.from_numpy(array).double() / 255).numpy()

    S = np.square(features(queries)[:, None] - features(images)).sum(2)
    assert_found(
        index.distinct_nearest(queries, duplicate_rms=RADII),
        [slowly(row, between.__getitem__, groups, RADII) for row in S],
        S,
    )
    S = np.square(features(images)[:, None] - features(images)).sum(2)
    expected = [
        slowly(np.where(between[i] == 0, -1, S[i]), between.__getitem__, groups, RADII, groups[i])
        for i in range(20)
    ]
    assert_found(index.leave_one_out(np.arange(20), duplicate_rms=RADII), expected, S[:20])


def test_groups_are_one_integer_per_image():
    images = np.zeros((3, *SHAPE), np.uint8)
    for groups in (np.zeros(2, np.int64), np.zeros(3), np.zeros((3, 1), np.int64)):
        with pytest.raises(ValueError, match=r"int64 \[3\] is needed"):
            NeighborIndex(images, groups=groups)


@pytest.mark.parametrize("levels", [12, 20])
def test_a_new_slice_of_a_known_subject_is_a_copy_of_the_subject(levels):
    """As measured for 400 of them: none without groups, all with groups."""
    rng = np.random.default_rng(1)
    shape = (1, 16, 16)
    subjects = np.kron(rng.integers(0, 256, (100, 1, 8, 8)), np.ones((2, 2)))
    groups = np.repeat(np.arange(100), 10)

    def slices(of):
        return np.clip(subjects[of] + rng.normal(0, levels / 2**0.5, (len(of), *shape)), 0, 255)

    images = slices(groups).round().astype(np.uint8)
    fresh = slices(np.repeat(np.arange(100), 4)).round().astype(np.uint8)
    flagged = [
        match_images(NeighborIndex(images, groups=given), fresh).memorized_distinct.sum()
        for given in (None, groups)
    ]
    assert flagged == [0, 400]
