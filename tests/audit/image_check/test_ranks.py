"""Exact tests of one image among controls, by rank."""

import numpy as np
import pytest

from memaudit.audit.image_check.ranks import combined_p_values, rank_p_values

RNG = np.random.default_rng(0)


def slow_combined(scores: np.ndarray, num_asked: int) -> list[float]:
    """The definition, one image and one rank at a time."""
    controls = range(num_asked, scores.shape[1])
    found = []
    for q in range(num_asked):
        members = [q, *controls]
        best = [
            min(sum(row[other] <= row[z] for other in members) for row in scores) for z in members
        ]
        found.append(sum(c <= best[0] for c in best) / len(members))
    return found


@pytest.mark.parametrize("num_tests", [1, 2, 3])
def test_the_combined_p_value_is_the_rank_of_the_best_rank(num_tests: int):
    scores = RNG.integers(0, 12, (num_tests, 3 + 20)).astype(float)  # with ties
    assert combined_p_values(scores, 3).tolist() == slow_combined(scores, 3)


def test_of_one_test_the_combined_p_value_is_its_own():
    scores = RNG.normal(size=(1, 50))
    assert combined_p_values(scores, 4).tolist() == rank_p_values(scores, 4)[0].tolist()


def test_the_combination_costs_at_most_the_number_of_tests():
    scores = RNG.normal(size=(3, 5 + 60))
    each, together = rank_p_values(scores, 5), combined_p_values(scores, 5)
    assert (together <= 3 * each.min(0) + 1e-12).all()
    assert (together >= each.min(0) - 1e-12).all()


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_an_image_like_the_controls_stands_out_as_rarely_as_stated(correlation: float):
    """In 4,000 images, one standard deviation of the share is about 0.0035 where all are apart."""
    p_values = []
    for _ in range(200):
        shared = RNG.normal(size=39)
        tests = correlation * shared + RNG.normal(size=(2, 39))
        for q in range(20):  # every one of the 20 in the place of the image asked about
            order = [q, *range(20, 39)]
            p_values.append(combined_p_values(tests[:, order], 1)[0])
    assert (np.array(p_values) <= 0.05).mean() <= 0.05 + 4 * 0.0035
    assert (np.array(p_values) <= 0.25).mean() <= 0.25 + 4 * 0.0075
