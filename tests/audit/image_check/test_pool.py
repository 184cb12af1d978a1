"""How near generated images come to a pool, against the definition, one pair at a time."""

from fractions import Fraction

import numpy as np
import pytest
from helpers.images import smooth_images

from memaudit.audit.image_check.pool import Pool, make_pool
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.pixel_index import NeighborIndex

RULE = Rule()
TRAIN = smooth_images(25, 8, seed=0)
HELD = smooth_images(9, 8, seed=1)


def moved(images: np.ndarray, levels: int) -> np.ndarray:
    """Every value changed by that many gray levels, away from the nearer end."""
    change = np.where(images < 128, levels, -levels)
    return (images + change).astype(np.uint8)


def pool_of(training: bool, flips: bool = False) -> Pool:
    """Two training images, a near copy of one of them, and held-out images, two of them alike."""
    asked = np.concatenate([TRAIN[:2], moved(TRAIN[1:2], 12)])
    images = np.concatenate([asked, HELD, moved(HELD[:1], 3)])
    nowhere = np.zeros(0, dtype=np.int64)
    places = [np.array([0]), np.array([1]), np.array([1])] if training else [nowhere] * 3
    return make_pool(
        NeighborIndex(images, flips=flips),
        3,
        RULE,
        training=NeighborIndex(TRAIN, flips=flips) if training else None,
        in_place=[*places, *[nowhere] * 10],
    )


def squared(x: np.ndarray, y: np.ndarray, flips: bool) -> int:
    both = [y, y[..., ::-1]] if flips else [y]
    return min(int(np.square(x.astype(int) - z).sum()) for z in both)


@pytest.mark.parametrize(("training", "flips"), [(True, False), (False, False), (True, True)])
def test_a_pool_compares_as_defined(training: bool, flips: bool):
    pool = pool_of(training, flips)
    generated = np.concatenate(
        [TRAIN[:4], moved(TRAIN[:3], 5), moved(HELD[:2], 9), smooth_images(6, 8, seed=2)]
    )
    found = pool.compare(generated)
    images, D = pool.images, TRAIN[0].size
    for i, x in enumerate(generated):
        for z in range(len(images)):
            same_original = training and z in (1, 2)
            others = [
                squared(x, images[w], flips)
                for w in range(len(images))
                if squared(images[w], images[z], flips) > 64 * D
                and not (same_original and w in (1, 2))
            ]
            if training:  # but those in whose place an image of the pool is
                others += [squared(x, y, flips) for y in TRAIN[2:]]
            S = squared(x, images[z], flips)
            assert found.squared_distance[i, z] == S
            assert found.reference[i, z] == min(others)
            is_copy = Fraction(S) < Fraction(1, 9) * min(others) or S <= 64 * D
            assert found.is_copy[i, z] == is_copy
            ratio = (S / min(others)) ** 0.5 if min(others) else np.inf if S else 1
            assert found.ratio[i, z] == pytest.approx(ratio)


def test_an_image_alone_is_copied_within_the_radius_only():
    image = np.full((1, 1, 8, 8), 100, dtype=np.uint8)
    nowhere = [np.zeros(0, dtype=np.int64)]
    pool = make_pool(NeighborIndex(image), 1, RULE, training=None, in_place=nowhere)
    found = pool.compare(np.concatenate([image, image + 8, image + 9]))
    assert found.is_copy[:, 0].tolist() == [True, True, False]
    assert found.ratio[:, 0].tolist() == [1, 1, 1]
    assert found.reference[:, 0].tolist() == [-1, -1, -1]


def test_the_nearest_control_is_not_a_duplicate():
    pool = pool_of(training=False)
    D = TRAIN[0].size
    for z, image in enumerate(pool.images):
        # The images asked about do not count: the second and the third are near each other.
        distances = [squared(image, other, False) for other in pool.images[pool.num_asked :]]
        expected = min(S for S in distances if S > 64 * D)
        assert pool.distance_to_other[z] == pytest.approx((expected / D) ** 0.5)
