"""Quantiles of a sample, with intervals that hold for any distribution."""

import math

import numpy as np

from memaudit.audit.statistics.intervals import Estimate, check_confidence


def sample_quantile(
    values: np.ndarray, share: float, confidence: float = 0.95, *, largest: float = math.inf
) -> Estimate:
    """The smallest value that at least a share of the sample does not exceed, with its interval.

    With X₍₁₎ ≤ … ≤ X₍ₘ₎ and B ~ Binomial(m, q), the q-quantile of what the sample was drawn from
    lies below X₍ₗ₎ with a chance of at most P(B < l), and above X₍ᵤ₎ of at most P(B ≥ u); l is the
    largest and u the smallest for which that is at most α/2. David and Nagaraja, Order Statistics,
    2003, section 7.1.

    Args:
        values: the sample [M], M ≥ 1.
        share: q, between 0 and 1.
        confidence: 1 − α.
        largest: the upper end where the sample is too small to have one; the lower end is then
            −`largest`.

    Raises:
        ValueError: the sample is empty, or a share or confidence is not between 0 and 1.

    Examples:
        >>> sample_quantile(np.arange(1, 101), 0.5)
        Estimate(value=50.0, low=40.0, high=61.0)
    """
    from scipy.stats import binom  # takes seconds to import, and few scans need it

    check_confidence(confidence)
    m = len(values)
    if not m or not 0 < share < 1:
        raise ValueError(f"a share of {share} of {m} values has no quantile")
    ordered = np.sort(values).astype(np.float64)
    alpha = 1 - confidence
    lower = int(binom.ppf(alpha / 2, m, share))
    if binom.cdf(lower - 1, m, share) > alpha / 2:
        lower -= 1
    upper = int(binom.ppf(1 - alpha / 2, m, share)) + 1
    return Estimate(
        float(ordered[max(1, math.ceil(share * m - 1e-9)) - 1]),
        float(ordered[lower - 1]) if lower >= 1 else -largest,
        float(ordered[upper - 1]) if upper <= m else largest,
    )
