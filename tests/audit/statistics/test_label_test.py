"""The label test against all labelings counted one by one, its closed form, and its own size."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from memaudit.audit.statistics.label_test import (
    LOOKS,
    corrected_p,
    draw_labelings,
    each_look,
    images_within,
    p_over_labelings,
)

Distances = np.ndarray
"""Squared distances of samples to the images of a pool, int64 [G, 2n]."""


def nearest(distances: Distances, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Index and squared distance of the k nearest, ties to the lower index."""
    index = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(distances, index, 1)


def count_plainly(distances: Distances, training: tuple[int, ...], look: Fraction) -> int:
    """T_t by its definition, in rational arithmetic."""
    is_training = np.zeros(distances.shape[1], dtype=bool)
    is_training[list(training)] = True
    total = 0
    for S in distances:
        S_T, S_H = (Fraction(int(S[kind].min())) for kind in (is_training, ~is_training))
        total += (S_T < look**2 * S_H) - (S_H < look**2 * S_T)
    return total


def statistics_of(distances: Distances, k: int, **options: int) -> np.ndarray:
    index, squared_distance = nearest(distances, k)
    labelings = draw_labelings(distances.shape[1] // 2, **options)
    return labelings.statistics(index, images_within(squared_distance))


@pytest.mark.parametrize("num_pairs", [1, 2, 3, 4])
def test_all_labelings_of_a_small_pool_are_counted_as_defined(num_pairs: int):
    rng = np.random.default_rng(num_pairs)
    distances = rng.integers(0, 30, (12, 2 * num_pairs))  # with ties
    found = statistics_of(distances, 2 * num_pairs)
    labelings = list(combinations(range(2 * num_pairs), num_pairs))
    expected = [[count_plainly(distances, each, look) for each in labelings] for look in LOOKS]
    assert found.tolist() == expected
    p = p_over_labelings(found)
    for row, numbers in zip(p, expected, strict=True):
        assert row[0] == sum(number >= numbers[0] for number in numbers) / len(labelings)
    smallest = [min(column) for column in zip(*p.tolist(), strict=True)]
    assert corrected_p(found) == sum(s <= smallest[0] for s in smallest) / len(labelings)


def test_random_labelings_are_counted_as_defined_and_have_the_true_one_first():
    distances = np.random.default_rng(0).integers(0, 1000, (40, 20))
    labelings = draw_labelings(10, num_permutations=99)
    assert labelings.num_labelings == 100
    found = statistics_of(distances, 20, num_permutations=99)
    labels = np.unpackbits(labelings.training, axis=1, count=100)
    assert labels[:, 0].tolist() == [1] * 10 + [0] * 10
    assert (labels.sum(0) == 10).all() and len(np.unique(labels, axis=1).T) > 95
    for column in (0, 1, 57, 99):
        training = tuple(np.flatnonzero(labels[:, column]).tolist())
        assert found[:, column].tolist() == [
            count_plainly(distances, training, look) for look in LOOKS
        ]


def test_the_same_seed_gives_the_same_labelings():
    first, again, other = (draw_labelings(30, seed=seed).training for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any()


def test_few_neighbors_only_take_samples_out_of_the_count():
    """A sample whose neighbors found all lie within d/t counts for no labeling."""
    distances = np.random.default_rng(1).integers(100, 200, (60, 12))
    whole, cut = (nearest(distances, k) for k in (12, 4))
    within = images_within(whole[1])
    expected = np.where(within < 4, within, 0)
    assert (images_within(cut[1]) == expected).all() and (expected == 0).any()
    labelings = draw_labelings(6)
    assert (
        labelings.statistics(cut[0], images_within(cut[1]))
        == labelings.statistics(whole[0], expected)
    ).all()


def test_a_distance_at_the_look_itself_does_not_count():
    """9 : 16 is 3/4 exactly: not less. In floats, 0.85 would round."""
    squared = np.array([[9, 16], [9, 17], [289, 400], [289, 401], [0, 0], [0, 1]])
    assert images_within(squared, [Fraction(3, 4)]).tolist() == [[0, 1, 0, 0, 0, 1]]
    assert images_within(squared, [Fraction(17, 20)]).tolist() == [[1, 1, 0, 1, 0, 1]]
    assert images_within(squared, [Fraction(1)]).tolist() == [[1, 1, 1, 1, 0, 1]]
    largest = 255**2 * 2**22
    assert images_within(np.array([[largest - 1, largest]])).tolist() == [[1], [0], [0]]
    for look in (Fraction(0), Fraction(5, 4), Fraction(1, 1001)):
        with pytest.raises(ValueError, match="a look must be in"):
            images_within(squared, [look])


def test_at_1_the_variance_has_a_closed_form():
    """Var T₁ = (2n/(2n − 1))·(Σc_j² − G²/2n), with c_j samples nearest to image j."""
    n, G = 4, 50
    distances = np.random.default_rng(2).permutation(G * 2 * n).reshape(G, 2 * n)
    distances[:20, 3] = -1  # an image that many samples share
    distances += 1
    c = np.bincount(distances.argmin(1), minlength=2 * n)
    expected = 2 * n / (2 * n - 1) * ((c**2).sum() - G**2 / (2 * n))
    found = statistics_of(distances, 2 * n)[0]
    assert len(found) == math.comb(2 * n, n)
    assert found.var() == pytest.approx(expected) and found.mean() == 0


def test_copies_of_training_images_give_the_smallest_p():
    rng = np.random.default_rng(3)
    distances = rng.integers(1000, 2000, (100, 40))
    distances[np.arange(20), np.arange(20)] = 1
    found = statistics_of(distances, 40)
    looks = each_look(found, 100)
    assert looks[2].p == 0.001  # the smallest; another labeling may be the best at another look
    assert 0.001 <= corrected_p(found) <= 0.003
    assert 0.05 < looks[2].share.low < looks[2].share.value < looks[2].share.high < 0.4
    distances = np.roll(distances, 20, axis=1)  # now of held-out images
    found = statistics_of(distances, 40)
    assert corrected_p(found) > 0.9 and each_look(found, 100)[2].p_below == 0.001


def test_ties_count_in_both_directions():
    """No labeling is below the true one, and half of them are as low: that says nothing."""
    (look,) = each_look(np.array([[-2, -2, 0, 2]]), 10, looks=(Fraction(1),))
    assert (look.p, look.p_below) == (1, 0.5)


def test_nothing_is_decided_by_nothing():
    assert corrected_p(statistics_of(np.array([[3, 5]]), 2)) == 0.5
    assert corrected_p(statistics_of(np.array([[5, 5]]), 2)) == 1
    with pytest.raises(ValueError, match="must be at least 1, got 0 and 999"):
        draw_labelings(0)


# ------------------------------------------------------------------------------------------------
# Size


def with_hubs(rng: np.random.Generator, num_pairs: int, num_samples: int) -> Distances:
    """A pool of which a few images, near the mean, are the nearest of most samples."""
    pool = rng.normal(size=(2 * num_pairs, 40))
    samples = rng.normal(size=(num_samples, 40)) / 2
    squared = ((samples[:, None] - pool) ** 2).sum(-1)
    return (1e6 * squared).astype(np.int64)


@pytest.mark.slow
def test_p_is_uniform_where_labels_mean_nothing_although_hubs_mislead_the_sign_test():
    """400 pools: the size is right, and that of the naive binomial sign test is several times α."""
    rng = np.random.default_rng(4)
    corrected, each, naive = [], [], []
    for _ in range(400):
        distances = with_hubs(rng, 40, 300)
        found = statistics_of(distances, 48)
        corrected.append(corrected_p(found))
        each.append([look.p for look in each_look(found, 300)])
        nearer = int((distances.argmin(1) < 40).sum())
        naive.append(binomtest(nearer, 300, alternative="greater").pvalue)
    size = np.mean(np.array(corrected) <= 0.05)
    print("size", size, np.mean(np.array(each) <= 0.05, axis=0), np.mean(np.array(naive) <= 0.05))
    assert kstest(corrected, "uniform").pvalue > 0.001
    assert binomtest(int(400 * size), 400, 0.05, alternative="greater").pvalue > 0.001
    assert np.mean(np.array(naive) <= 0.05) > 0.15
