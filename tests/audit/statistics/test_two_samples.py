"""A classifier between two samples: none is possible between two of one distribution."""

import numpy as np
import pytest
from scipy.optimize import minimize

from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.audit.statistics.two_samples import cross_validated_auc, fit_logistic


def test_the_regression_is_the_minimum_of_its_loss():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3))
    y = x @ [1.0, -2.0, 0.0] + rng.logistic(size=80) > 0.4

    def loss(w: np.ndarray) -> float:
        logits = np.where(y, 1, -1) * (x @ w[:3] + w[3])
        return np.logaddexp(0, -logits).sum() + (w[:3] ** 2).sum() / 2

    wanted = minimize(loss, np.zeros(4), tol=1e-12).x[:3]
    assert fit_logistic(x, y) == pytest.approx(wanted, abs=1e-4)


def test_separable_samples_and_constant_features_do_no_harm():
    x = np.column_stack([np.r_[np.zeros(30), np.ones(40)], np.full(70, 3.0)])
    is_first = np.arange(70) >= 30
    found = cross_validated_auc(x, is_first)
    assert found.value == 1 and found.low > 0.7
    nothing = cross_validated_auc(np.zeros((70, 1)), is_first)
    assert nothing.value == 0.5 and nothing.low <= 0.5


def test_a_small_difference_is_found():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2000, 20))
    is_first = np.arange(2000) < 1000
    x[is_first, 7] += 0.4
    found = cross_validated_auc(x, is_first)
    assert found.low > 0.5 and found.value == pytest.approx(0.61, abs=0.04)


def test_samples_too_small_for_folds_are_refused():
    with pytest.raises(ValueError, match="holds 9; at least 10"):
        cross_validated_auc(np.zeros((30, 2)), np.arange(30) < 9)


@pytest.mark.parametrize(
    ("m", "n", "d"),
    [
        (20, 20, 4),
        (60, 20, 8),
        pytest.param(100, 100, 1, marks=pytest.mark.slow),
        pytest.param(100, 100, 3, marks=pytest.mark.slow),
        pytest.param(200, 200, 35, marks=pytest.mark.slow),
        pytest.param(1000, 100, 35, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("kind", ["normal", "heavy"])
def test_samples_alike_are_told_apart_in_at_most_half_of_alpha(m: int, n: int, d: int, kind: str):
    rng = np.random.default_rng(2)
    runs, found, width = 400, 0, []
    for run in range(runs):
        x = rng.normal(size=(m + n, d)) if kind == "normal" else rng.standard_t(2, (m + n, d))
        auc = cross_validated_auc(x, np.arange(m + n) < m, seed=run)
        found += auc.low > 0.5
        width.append(auc.value)
    assert clopper_pearson(found, runs, 0.999).low <= 0.025
    assert abs(np.mean(width) - 0.5) < 5 * np.std(width) / runs**0.5
