"""Can a classifier tell two samples apart? The cross-validated AUC of a logistic regression.

If both samples are of one distribution, no classifier can, and the AUC is about 0.5.
"""

import numpy as np
from scipy.special import expit

from memaudit.audit.statistics.auc import auc_interval, placements
from memaudit.audit.statistics.intervals import Estimate

NUM_FOLDS = 5
NEWTON_STEPS = 20
FOLD_DEPENDENCE = 2.0
"""Factor of the variance. If nothing tells the samples apart, the score of a fold is the product of
its own chance difference with that of the other folds. The products of two folds j and k then enter
the average twice, once for j and once for k, so that its variance is twice that of independent
folds."""


def cross_validated_auc(
    features: np.ndarray, is_first: np.ndarray, *, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """How often a classifier scores a member of the first sample above one of the second.

    A ridge-penalized logistic regression is fitted to four of five folds and scores the fifth;
    scores are compared within a fold only. The interval is DeLong's, its variance doubled, since
    the folds depend on each other.

    Args:
        features: float64 [n, d], of both samples.
        is_first: bool [n], at least 2·NUM_FOLDS of either kind.
        confidence: in (0, 1).
        seed: deals the members into folds.

    Raises:
        ValueError: a sample is too small to give two members to each fold.
    """
    rng = np.random.default_rng(seed)
    fold = np.empty(len(features), dtype=np.int64)
    for sample in (is_first, ~is_first):
        size = int(sample.sum())
        if size < 2 * NUM_FOLDS:
            raise ValueError(f"a sample holds {size}; at least {2 * NUM_FOLDS} are needed")
        fold[sample] = rng.permutation(np.arange(size) % NUM_FOLDS)
    scale = features.std(0)
    x = (features - features.mean(0)) / np.where(scale > 0, scale, 1)
    below, above = [], []
    for k in range(NUM_FOLDS):
        held = fold == k
        weights = fit_logistic(x[~held], is_first[~held])
        score = x[held] @ weights
        a, b = placements(score[is_first[held]], score[~is_first[held]])
        below.append(a)
        above.append(b)
    return auc_interval(
        np.concatenate(below), np.concatenate(above), confidence, inflation=FOLD_DEPENDENCE
    )


def fit_logistic(x: np.ndarray, y: np.ndarray, *, ridge: float = 1.0) -> np.ndarray:
    """Slopes of a logistic regression, by Newton's method.

    They maximize Σ log P(yᵢ | xᵢ) − ridge·‖w‖²/2, where P(y = 1 | x) = 1/(1 + exp(−b − w·x)) and
    the intercept b is free.

    Args:
        x: float64 [n, d].
        y: bool [n], of both values.
        ridge: > 0, so that separable samples have finite slopes.

    Returns:
        w, float64 [d].
    """
    x = np.column_stack([x, np.ones(len(x))])
    penalty = np.full(x.shape[1], ridge)
    penalty[-1] = 0
    share = y.mean()
    w = np.zeros(x.shape[1])
    w[-1] = np.log(share / (1 - share))
    for _ in range(NEWTON_STEPS):
        p = expit(x @ w)
        gradient = x.T @ (y - p) - penalty * w
        hessian = (x.T * (p * (1 - p))) @ x + np.diag(penalty)
        step = np.linalg.solve(hessian + 1e-9 * np.eye(len(w)), gradient)
        w = w + step / max(1.0, float(np.abs(step).max()))  # no jump beyond 1 for any slope
        if np.abs(step).max() < 1e-8:
            break
    slopes: np.ndarray = w[:-1]
    return slopes
