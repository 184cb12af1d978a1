"""Near-equal images among generated ones."""

import numpy as np
import pytest
from helpers.images import smooth_images

from memaudit.audit.neighbors.repeats import find_repeats
from memaudit.wording import parse_ranges

FRESH = smooth_images(12, 8, seed=0)


def nearly(image: np.ndarray, number: int) -> np.ndarray:
    noise = np.random.default_rng(1).integers(-3, 4, (number, *image.shape))
    return (image + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """5 near-equal images, 3 more, 2 mirror images of each other, and 9 others."""
    mirrored = FRESH[2:3, ..., ::-1]
    parts = [nearly(FRESH[0], 5), nearly(FRESH[1], 3), FRESH[2:3], mirrored, FRESH[3:]]
    return np.concatenate(parts)


def test_groups_are_found_with_what_is_least_alike_and_what_is_outside(images: np.ndarray):
    found = find_repeats(images)
    assert [group.rows for group in found.groups] == [(0, 1, 2, 3, 4), (5, 6, 7)]
    assert found.repeated is not None and parse_ranges(found.repeated) == list(range(8))
    for group in found.groups:
        first = images[group.rows[0]].astype(float)
        rms = np.sqrt(np.square(images - first).mean((1, 2, 3)))
        members = list(group.rows)
        assert group.farthest_rms == pytest.approx(rms[members].max())
        assert rms[group.farthest] == rms[members].max()
        others = [i for i in range(len(images)) if i not in members]
        assert group.outside_rms == pytest.approx(rms[others].min())


def test_counts_are_those_of_pairs(images: np.ndarray):
    count = find_repeats(images).count
    assert (count.num_images, count.num_repeated, count.num_groups, count.largest) == (19, 8, 2, 5)
    assert count.chance == pytest.approx((5 * 4 + 3 * 2) / (19 * 18))
    assert count.effective_number == pytest.approx(19 * 18 / 26)
    assert "8 of 19 generated images are near-equal to another one, in 2 groups of up to 5" in (
        count.sentence
    )


def test_the_effective_number_is_that_of_the_pictures_drawn_from():
    """400 draws from 50 pictures, all equally likely."""
    pictures = smooth_images(50, 8, seed=3)
    drawn = np.random.default_rng(4).integers(0, 50, 400)
    number = find_repeats(pictures[drawn]).count.effective_number
    assert number == pytest.approx(50, rel=0.05)


def test_mirror_images_repeat_where_they_are_asked_for(images: np.ndarray):
    found = find_repeats(images, flips=True)
    assert (8, 9) in [group.rows for group in found.groups]


def test_images_that_differ_do_not_repeat():
    found = find_repeats(FRESH)
    assert found.groups == () and found.repeated is None
    assert found.count.effective_number is None
    assert found.count.sentence == "No two of 12 generated images are near-equal"


def test_where_all_are_alike_nothing_is_outside():
    (group,) = find_repeats(nearly(FRESH[0], 4)).groups
    assert group.outside is None and group.outside_rms is None
    assert find_repeats(FRESH[:1]).count.chance == 0
