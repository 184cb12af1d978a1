"""Conformal p-values and Benjamini–Hochberg, against their definitions and in simulations."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from memaudit.audit.statistics.conformal import benjamini_hochberg, conformal_p


def test_a_p_value_counts_the_references_that_are_as_small():
    rng = np.random.default_rng(0)
    scores, references = rng.integers(0, 20, 50) / 20, rng.integers(0, 20, 30) / 20
    found = conformal_p(scores, references)
    assert found.p_value.tolist() == [
        (1 + sum(reference <= score for reference in references)) / 31 for score in scores
    ]
    assert found.is_consistent_with(scores)


def test_q_values_are_those_of_benjamini_and_hochberg():
    rng = np.random.default_rng(1)
    for p_value in (rng.random(40), rng.integers(1, 10, 40) / 10, np.array([0.3])):
        np.testing.assert_allclose(benjamini_hochberg(p_value), false_discovery_control(p_value))


def test_equal_scores_with_other_p_values_are_not_consistent():
    scores = np.array([0.2, 0.2, 0.5])
    found = conformal_p(scores, np.array([0.1, 0.3]))
    assert found.is_consistent_with(scores)
    assert not found.is_consistent_with(np.array([0.5, 0.4, 0.1]))
    assert not conformal_p(np.array([0.1, 0.2]), np.array([0.15])).is_consistent_with(scores[:2])


@pytest.mark.slow
def test_the_false_discovery_rate_is_kept_and_copies_are_found():
    """500 scans of 400 images, of which 40 are copies, with 1,000 held-out images."""
    rng = np.random.default_rng(2)
    false_rate, power, none = [], [], []
    is_copy = np.arange(400) < 40
    for _ in range(500):
        references, scores = rng.beta(20, 2, 1000), rng.beta(20, 2, 400)
        none.append((conformal_p(scores, references).q_value <= 0.05).any())
        scores[is_copy] = rng.beta(2, 20, 40)
        found = conformal_p(scores, references).q_value <= 0.05
        false_rate.append((found & ~is_copy).sum() / max(1, found.sum()))
        power.append(found[is_copy].mean())
    print(np.mean(false_rate), np.mean(power), np.mean(none))
    assert np.mean(false_rate) < 0.05 + 3 * np.std(false_rate) / 500**0.5
    assert np.mean(power) > 0.95 and np.mean(none) < 0.07
