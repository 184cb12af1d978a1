"""Ratios per class: known tables, Holm's definition, and how often a class stands out by chance."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import binomtest, hypergeom

from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.audit.statistics.per_class import holm, per_class


def images_of(table: dict[int, tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """memorized and class_index, in mixed order, of count and total by class."""
    memorized = np.concatenate([np.arange(total) < count for count, total in table.values()])
    class_index = np.concatenate([np.full(total, c) for c, (_, total) in table.items()])
    order = np.random.default_rng(0).permutation(len(memorized))
    return memorized[order], class_index[order]


def test_each_class_gets_its_own_proportion_in_order_of_the_classes():
    found = per_class(*images_of({7: (3, 50), 0: (0, 20), 3: (9, 9)}))
    assert [of.class_index for of in found] == [0, 3, 7]
    assert [of.proportion for of in found] == [
        clopper_pearson(0, 20),
        clopper_pearson(9, 9),
        clopper_pearson(3, 50),
    ]
    assert json.loads(json.dumps([asdict(of) for of in found]))[1]["stands_out"] is True


def test_against_a_limit_classes_are_judged_by_the_binomial_test():
    table = {0: (0, 500), 1: (2, 500), 2: (9, 500)}
    found = per_class(*images_of(table), limit=0.001)
    for of, (count, total) in zip(found, table.values(), strict=True):
        assert of.p_value == pytest.approx(binomtest(count, total, 0.001, "greater").pvalue)
    assert [of.stands_out for of in found] == [False, False, True]
    assert found[2].p_adjusted == pytest.approx(3 * found[2].p_value)


def test_without_a_limit_a_class_is_compared_with_all_others():
    """Fisher's p-value is the chance of tables no likelier than this, their sums kept."""
    found = per_class(*images_of({0: (8, 20), 1: (3, 40), 2: (1, 40)}))
    chances = hypergeom.pmf(np.arange(13), 100, 12, 20)
    expected = chances[chances <= chances[8] * (1 + 1e-9)].sum()
    assert found[0].p_value == pytest.approx(expected)
    assert found[0].stands_out and not found[1].stands_out


def test_one_class_alone_cannot_stand_out_from_others():
    (only,) = per_class(*images_of({4: (5, 10)}))
    assert only.p_value == only.p_adjusted == 1
    assert not only.stands_out


def test_holm_agrees_with_its_steps():
    """By hand: 0.01·4, then max(0.04, 0.02·3), then 0.03·2 and 0.04·1 pulled up to it."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("limit", [None, 0.05])
def test_alike_classes_rarely_stand_out(limit: float | None):
    rng = np.random.default_rng(2)
    class_index = np.arange(2000) % 10
    errors = sum(
        any(of.stands_out for of in per_class(rng.random(2000) < 0.05, class_index, limit=limit))
        for _ in range(150)
    )
    assert clopper_pearson(errors, 150, 0.999).low < 0.05


def test_arrays_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"\[3\].*\[2\]"):
        per_class(np.zeros(3, bool), np.zeros(2, np.int64))
