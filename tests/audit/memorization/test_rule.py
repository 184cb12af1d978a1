"""The memorization rule against rational arithmetic and the field's reference numbers."""

from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from memaudit.audit.memorization.rule import Rule, memorized
from memaudit.errors import ConfigError

LARGEST = 255**2 * 12_288 * 100


@given(
    S1=st.integers(0, LARGEST),
    S2=st.integers(0, LARGEST),
    threshold=st.fractions(min_value=Fraction(1, 10**20), max_value=1),
)
def test_memorized_equals_the_rule_in_rational_numbers(S1, S2, threshold):
    assert memorized(np.array([S1]), np.array([S2]), threshold)[0] == (S1 < threshold**2 * S2)


@given(
    d2=st.integers(1, isqrt(LARGEST)),
    p=st.integers(1, 2**60),
    q=st.integers(1, 2**60),
    off=st.integers(-1, 1),
)
def test_memorized_is_strict_at_the_edge(d2, p, q, off):
    """S1 one below, at and one above the largest value that the rule could admit."""
    threshold = Fraction(min(p, q), max(p, q))
    S2 = d2**2
    S1 = max(0, int(threshold**2 * S2) + off)
    assert memorized(np.array([S1]), np.array([S2]), threshold)[0] == (S1 < threshold**2 * S2)


def test_one_third_exactly_is_not_memorized():
    S1, S2 = np.array([99, 100, 101]), np.array([900, 900, 900])
    assert memorized(S1, S2, Fraction(1, 3)).tolist() == [True, False, False]


def test_a_copy_of_a_duplicated_image_is_not_memorized_by_the_published_rule():
    assert not memorized(np.array([0]), np.array([0]), Fraction(1, 3))[0]


def test_memorized_agrees_with_the_published_code(golden):
    knn = load_file(golden / "mem_knn.safetensors")
    S = knn["squared_distance_int"]
    assert (memorized(S[:, 0], S[:, 1], Fraction(1, 3)) == knn["memorized"].astype(bool)).all()


@pytest.mark.parametrize("threshold", [Fraction(0), Fraction(4, 3), 1 / 3])
def test_memorized_refuses_other_thresholds(threshold):
    with pytest.raises(ValueError, match="threshold must be a Fraction in"):
        memorized(np.array([1]), np.array([2]), threshold)


@pytest.mark.parametrize(
    ("S1", "S2"), [([0], [-1]), ([0], [2.0]), ([0.0], [-1.0]), ([np.nan], [1.0]), ([True], [True])]
)
def test_memorized_refuses_what_are_no_two_distances_of_one_kind(S1, S2):
    with pytest.raises(ValueError, match="both integers or both floats"):
        memorized(np.array(S1), np.array(S2), Fraction(1, 3))


def test_between_features_the_rule_is_the_same_in_float64():
    S1 = np.array([0.0, 0.0, 0.99, 1.0, 1.01])
    S2 = np.array([0.0, 4.0, 9.0, 9.0, 9.0])
    hits = memorized(S1, S2, Fraction(1, 3))
    assert hits.dtype == bool
    assert hits.tolist() == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": Fraction(0)}, "threshold is 0; between 0 and 1 is needed"),
        ({"threshold": Fraction(1)}, "threshold is 1; between 0 and 1 is needed"),
        ({"duplicate_rms": -1.0}, "duplicate_rms is -1.0; at least 0 and at most 255"),
        ({"duplicate_rms": float("nan")}, "duplicate_rms is nan"),
        ({"confidence": 1.0}, "confidence is 1.0; between 0 and 1 is needed"),
    ],
)
def test_a_rule_refuses_what_is_out_of_range(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        Rule(**options)


def test_a_threshold_that_is_a_float_is_refused():
    with pytest.raises(ValueError, match=r"such as Fraction\(1, 3\), got 0.3"):
        Rule(threshold=0.3)
