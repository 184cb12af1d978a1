"""Who would leak first, against distances of all pairs."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.all_distances import all_distances, noise, smooth

from memaudit.audit.neighbors.exposure import rank_exposure
from memaudit.data.images import ImageSet

SHAPE = (3, 6, 6)


def image_set(images: np.ndarray) -> ImageSet:
    return ImageSet(images, [f"{i}.png" for i in range(len(images))], source="train")


def by_hand(images: np.ndarray, radius: float, *, flips: bool) -> list[tuple]:
    """(times shown, isolation, first image) of each kind, the most exposed first."""
    S = all_distances(images, images, flips=flips)
    kind = np.arange(len(images))
    limit = radius**2 * images[0].size
    while True:  # what pairs within the radius connect, the slow way
        joined = np.array([kind[np.flatnonzero(row <= limit)].min() for row in S])
        if (joined == kind).all():
            break
        kind = joined
    rows = []
    for first in np.unique(kind):
        others = S[first, kind != first]
        far = np.sqrt(others.min() / images[0].size) if len(others) else np.inf
        rows.append((int((kind == first).sum()), float(far), int(first)))
    return sorted(rows, key=lambda row: (-row[0], -row[1], row[2]))


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("radius", [0, 8])
def test_the_order_is_that_of_all_pairs(radius: int, flips: bool):
    rng = np.random.default_rng(0)
    images = np.concatenate([smooth(rng, 40, SHAPE), noise(rng, 10, SHAPE)])
    near = np.clip(images[5:8].astype(int) + 3, 0, 255).astype(np.uint8)
    images = np.concatenate([images, images[:3], images[:1], near, images[3:5, ..., ::-1]])
    found = rank_exposure(image_set(images), duplicate_rms=radius, flips=flips)
    expected = by_hand(images, radius, flips=flips)
    assert found.times_shown.tolist() == [row[0] for row in expected]
    np.testing.assert_allclose(found.isolation, [row[1] for row in expected], rtol=1e-12)
    assert found.index.tolist() == [row[2] for row in expected]
    assert found.num_duplicates.tolist() == found.times_shown.tolist()
    assert (found.index[0], found.num_equal[0]) == (0, 3)
    assert found.kind[[0, 50, 53]].tolist() == [0, 0, 0]
    S = all_distances(images[found.index], images[found.nearest], flips=flips)
    np.testing.assert_allclose(np.sqrt(np.diag(S) / images[0].size), found.isolation, rtol=1e-12)


def test_how_often_a_training_shows_an_image_comes_first():
    images = noise(np.random.default_rng(0), 20, SHAPE)
    repeats = np.ones(20, dtype=np.int64)
    repeats[7] = 10
    found = rank_exposure(replace(image_set(images), repeats=repeats))
    assert (found.index[0], found.times_shown[0], found.num_duplicates[0]) == (7, 10, 1)


def test_groups_are_counted():
    images = noise(np.random.default_rng(0), 4, SHAPE)
    found = rank_exposure(replace(image_set(images), groups=["a", None, "a", "b"]))
    sizes = dict(zip(found.index.tolist(), found.group_size.tolist(), strict=True))
    assert sizes == {0: 2, 1: 0, 2: 2, 3: 1}
    assert rank_exposure(image_set(images)).group_size is None


def test_leaks_are_counted_by_kind():
    images = noise(np.random.default_rng(0), 5, SHAPE)
    found = rank_exposure(image_set(np.concatenate([images, images[1:2]])))
    leaks = found.leaks_of({5: 2, 1: 1, 3: 4})
    assert dict(zip(found.index.tolist(), leaks.tolist(), strict=True)) == {
        0: 0,
        1: 3,
        2: 0,
        3: 4,
        4: 0,
    }


def test_a_set_of_one_kind_has_no_others():
    images = np.repeat(noise(np.random.default_rng(0), 1, SHAPE), 3, 0)
    found = rank_exposure(image_set(images))
    assert (found.index.tolist(), found.num_equal.tolist()) == ([0], [3])
    assert (found.nearest.tolist(), found.isolation.tolist()) == ([-1], [np.inf])
