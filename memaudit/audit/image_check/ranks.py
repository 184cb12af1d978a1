"""Exact tests of one image among controls, by rank."""

import numpy as np

from memaudit.audit.statistics.conformal import conformal_p


def rank_p_values(scores: np.ndarray, num_asked: int) -> np.ndarray:
    """The p-value of each image asked about, among the controls, in each of K tests.

    p = (1 + #{controls with a score ≤ the image's}) / (m + 1).

    Args:
        scores: float64 [K, P], small ones extreme; the first num_asked are of the images.
        num_asked: Q.

    Returns:
        float64 [K, Q].
    """
    return np.stack([conformal_p(row[:num_asked], row[num_asked:]).p_value for row in scores])


def combined_p_values(scores: np.ndarray, num_asked: int) -> np.ndarray:
    """One p-value for each image, with the number of tests corrected for.

    Each image z of the m controls and the one asked about has a rank rₖ(z) among these m + 1 in
    test k, and c(z) = minₖ rₖ(z). Then p = #{z: c(z) ≤ c(q)} / (m + 1), with q itself among the z:
    the rank of the best rank. If q and the controls are exchangeable, so are their c, and P(p ≤ α)
    ≤ α however the tests depend on each other (Westfall and Young's minP, Resampling-Based Multiple
    Testing, 1993). It is at most K times the smallest of the K p-values.

    Args:
        scores: float64 [K, P], as in `rank_p_values`.
        num_asked: Q.

    Returns:
        float64 [Q].

    Examples:
        >>> controls = np.array([[2, 3, 4, 5.0], [2, 3, 4, 0.5]])
        >>> combined_p_values(np.column_stack([[1, 1], controls]), 1).tolist()
        [0.4]
    """
    controls = scores[:, num_asked:]
    p_values = []
    for q in range(num_asked):
        together = np.column_stack([scores[:, q], controls])
        # Ties take the larger rank, which can only raise p.
        ranks = np.stack(
            [np.searchsorted(np.sort(row), row, side="right") for row in together]
        ).min(0)
        p_values.append(float((ranks <= ranks[0]).mean()))
    return np.array(p_values)
