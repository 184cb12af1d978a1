"""Duplicates of a set against all distances in int64."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memaudit.audit.neighbors.duplicates import (
    Duplicates,
    SharedImage,
    duplicates_of,
    find_duplicates,
    find_shared_images,
)
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.data.images import ImageSet


def image_set(pixels: np.ndarray) -> ImageSet:
    return ImageSet(pixels, [str(i) for i in range(len(pixels))])


def groups_by_all_distances(pixels: np.ndarray, rms: float, flips: bool) -> list[tuple[int, ...]]:
    """Groups of two and more, from the N x N matrix of distances."""
    S = all_distances(pixels, pixels)
    if flips:
        S = np.minimum(S, all_distances(pixels, pixels[..., ::-1]))
    near = S <= rms**2 * pixels[0].size
    todo, groups = set(range(len(pixels))), []
    while todo:
        group, ends = set(), {min(todo)}
        while ends:
            group |= ends
            ends = {int(j) for i in ends for j in np.flatnonzero(near[i])} - group
        todo -= group
        groups.append(tuple(sorted(group)))
    return [group for group in groups if len(group) > 1]


def all_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    difference = x.reshape(len(x), 1, -1).astype(np.int64) - y.reshape(1, len(y), -1)
    return (difference**2).sum(2)


def indices(found: Duplicates) -> list[tuple[int, ...]]:
    return [group.indices for group in found.groups]


@st.composite
def crowded_sets(draw: st.DrawFn) -> np.ndarray:
    """Few distinct images, each with equal, near and mirrored ones, in any order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_images, spread = draw(st.integers(1, 40)), draw(st.integers(0, 30))
    originals = rng.integers(60, 190, (draw(st.integers(1, 5)), 1, 3, 4))
    pixels = originals[rng.integers(len(originals), size=num_images)]
    pixels = pixels + rng.integers(-spread, spread + 1, pixels.shape) * rng.integers(
        2, size=(num_images, 1, 1, 1)
    )
    mirrored = rng.random(num_images) < 0.3
    pixels[mirrored] = pixels[mirrored][..., ::-1]
    return pixels.astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(crowded_sets(), st.sampled_from([0, 1, 7.5, 8, 12]), st.booleans())
def test_groups_are_those_of_all_distances(pixels: np.ndarray, rms: float, flips: bool):
    found = find_duplicates(image_set(pixels), duplicate_rms=rms, flips=flips)
    assert indices(found) == groups_by_all_distances(pixels, rms, flips)
    for group in found.groups:
        members, first = pixels[list(group.indices)], pixels[group.indices[:1]]
        S = all_distances(members, first)
        if flips:
            S = np.minimum(S, all_distances(members, first[..., ::-1]))
        assert list(group.squared_distance) == S[:, 0].tolist()
    # Images that equal no earlier one are as many as there are different images.
    forms = {min(i.tobytes(), i[..., ::-1].tobytes()) if flips else i.tobytes() for i in pixels}
    assert len(pixels) - found.num_copies == len(forms)
    assert found.num_in_groups == len(found.groups) + found.num_copies + found.num_near


@settings(max_examples=30, deadline=None)
@given(crowded_sets(), st.randoms(use_true_random=False))
def test_the_order_of_the_set_does_not_matter(pixels: np.ndarray, random):
    order = list(range(len(pixels)))
    random.shuffle(order)
    shuffled = find_duplicates(image_set(pixels[order]))
    moved_back = sorted(tuple(sorted(order[i] for i in group)) for group in indices(shuffled))
    assert moved_back == indices(find_duplicates(image_set(pixels)))


def test_the_radius_is_compared_in_integers():
    """S = 768 = 8² · 12 is a duplicate at 8 gray levels, 769 is none."""
    pixels = np.full((3, 3, 2, 2), 100, np.uint8)
    pixels[1] += 8
    pixels[2, 0, 0, 0] += 27
    pixels[2, 0, 0, 1] += 6
    pixels[2, 0, 1, 0] += 2
    assert all_distances(pixels, pixels)[0].tolist() == [0, 768, 769]
    assert indices(find_duplicates(image_set(pixels[:2]))) == [(0, 1)]
    assert indices(find_duplicates(image_set(pixels[[0, 2]]))) == []
    assert indices(find_duplicates(image_set(pixels[:2]), duplicate_rms=7.999)) == []


def test_a_chain_is_one_group_farther_apart_than_the_radius():
    pixels = (
        np.zeros((40, 1, 2, 2), np.uint8)
        + np.arange(0, 240, 6, dtype=np.uint8)[:, None, None, None]
    )
    (group,) = find_duplicates(image_set(pixels)).groups
    assert group.indices == tuple(range(40))
    assert group.squared_distance[-1] == 4 * 234**2


def test_a_mirrored_copy_is_a_duplicate_with_flips_only():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    pixels[4] = pixels[1, ..., ::-1]
    assert find_duplicates(image_set(pixels)).groups == ()
    (group,) = find_duplicates(image_set(pixels), flips=True).groups
    assert group.indices == (1, 4) and group.is_copy == (False, True)


def test_a_set_without_duplicates_keeps_everything():
    pixels = np.arange(0, 250, 25, dtype=np.uint8).reshape(10, 1, 1, 1)
    found = find_duplicates(image_set(pixels))
    assert found.groups == () and found.kept.tolist() == list(range(10))
    assert find_duplicates(image_set(pixels[:1])).groups == ()


def test_the_first_of_each_group_is_kept():
    pixels = np.array([9, 50, 10, 200, 50, 11], np.uint8).reshape(6, 1, 1, 1)
    found = find_duplicates(image_set(pixels), duplicate_rms=1)
    assert indices(found) == [(0, 2, 5), (1, 4)]
    assert found.left_out.tolist() == [2, 4, 5] and found.kept.tolist() == [0, 1, 3]
    assert (found.num_in_groups, found.num_copies, found.num_near) == (5, 1, 2)
    assert [group.is_copy for group in found.groups] == [(False, False, False), (False, True)]


def count_searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    searches: list[int] = []
    nearest = NeighborIndex.nearest

    def counted(self, queries, k):
        searches.extend([k] * len(queries))
        return nearest(self, queries, k)

    monkeypatch.setattr(NeighborIndex, "nearest", counted)
    return searches


def test_equal_images_are_never_compared(monkeypatch: pytest.MonkeyPatch):
    searches = count_searches(monkeypatch)
    rng = np.random.default_rng(0)
    pixels = np.tile(rng.integers(0, 256, (1, 3, 8, 8), dtype=np.uint8), (20_000, 1, 1, 1))
    (group,) = find_duplicates(image_set(pixels)).groups
    assert len(group.indices) == 20_000 and sum(group.is_copy) == 19_999
    assert searches == []


def test_one_crowd_of_near_images_is_searched_once(monkeypatch: pytest.MonkeyPatch):
    searches = count_searches(monkeypatch)
    rng = np.random.default_rng(0)
    pixels = rng.integers(100, 105, (2000, 3, 8, 8), dtype=np.uint8)
    (group,) = find_duplicates(image_set(pixels)).groups
    assert len(group.indices) == 2000
    assert set(searches) == {8} and len(searches) < 2000


def test_two_crowds_are_told_apart():
    rng = np.random.default_rng(0)
    pixels = rng.integers(100, 105, (300, 3, 4, 4), dtype=np.uint8)
    pixels[::2] += 100
    evens, odds = find_duplicates(image_set(pixels)).groups
    assert evens.indices == tuple(range(0, 300, 2)) and odds.indices == tuple(range(1, 300, 2))


def test_the_set_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("memaudit.audit.neighbors.duplicates.BLOCK_BYTES", 1 << 20)
    rng = np.random.default_rng(0)
    originals = rng.integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
    np.save(tmp_path / "images.npy", originals.repeat(800, 0))
    pixels = np.load(tmp_path / "images.npy", mmap_mode="r")
    find_duplicates(image_set(np.array(pixels[:1000])), flips=True)  # loads what it needs
    tracemalloc.start()
    found = find_duplicates(image_set(pixels), flips=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(group.indices) for group in found.groups] == [800] * 10
    assert peak < pixels.nbytes / 2


@pytest.mark.parametrize("rms", [-1, float("nan"), float("inf")])
def test_a_radius_that_is_none_is_refused(rms: float):
    with pytest.raises(ValueError, match="duplicate_rms must be ≥ 0 and finite"):
        find_duplicates(image_set(np.zeros((2, 1, 2, 2), np.uint8)), duplicate_rms=rms)


@settings(max_examples=60, deadline=None)
@given(crowded_sets(), st.sampled_from([0, 1, 8]), st.booleans())
def test_duplicates_of_some_images_are_those_of_all_distances(
    pixels: np.ndarray, rms: float, flips: bool
):
    S = all_distances(pixels, pixels)
    if flips:
        S = np.minimum(S, all_distances(pixels, pixels[..., ::-1]))
    rows = list(range(0, len(pixels), 2))
    found = duplicates_of(NeighborIndex(pixels, flips=flips), rows, duplicate_rms=rms)
    for row in rows:
        near = set(np.flatnonzero(S[row] <= rms**2 * pixels[0].size).tolist())
        assert found[row] == tuple(sorted(near - {row}))


def test_held_out_images_that_are_training_images_are_listed():
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 4, 4), dtype=np.uint8)
    train, holdout = images[:30].copy(), images[20:].copy()
    train[5] = train[29]  # a duplicate: the first one is named
    holdout[3] = holdout[0]
    holdout[4, 0, 0, 0] ^= 1  # one bit off is another image
    found = find_shared_images(image_set(train), image_set(holdout))
    expected = [(20, 0), (21, 1), (22, 2), (20, 3), (25, 5), (26, 6), (27, 7), (28, 8), (5, 9)]
    assert found == [SharedImage(*pair) for pair in expected]
    assert find_shared_images(image_set(train[:20]), image_set(images[30:])) == []
