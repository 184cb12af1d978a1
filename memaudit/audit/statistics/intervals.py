"""A fraction, or another number, with its interval."""

from dataclasses import dataclass

from scipy.stats import beta


@dataclass(frozen=True)
class Proportion:
    """`count` of `total`, with an interval for the probability behind it."""

    count: int
    total: int
    low: float
    high: float
    confidence: float
    """Chance, at least, that an interval made this way holds the true probability."""

    @property
    def ratio(self) -> float:
        """count / total, in [0, 1]."""
        return self.count / self.total


@dataclass(frozen=True)
class Estimate:
    """A number with an interval; what it is and how the interval is made, its place says."""

    value: float
    low: float
    high: float


def clopper_pearson(count: int, total: int, confidence: float = 0.95) -> Proportion:
    """The exact two-sided interval for a binomial probability.

    [Beta(α/2; k, n−k+1), Beta(1−α/2; k+1, n−k)] with α = 1 − confidence, quantiles of the beta
    distribution; k = 0 gives a lower end of 0, k = n an upper end of 1. Clopper and Pearson,
    Biometrika 26 (1934) 404. It covers the true probability at least as often as it says.

    Args:
        count: k, successes, 0 … total.
        total: n, trials, ≥ 1.
        confidence: 1 − α, in (0, 1).
    """
    check_proportion(count, total, confidence)
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, count, total - count + 1)) if count else 0.0
    high = float(beta.isf(tail, count + 1, total - count)) if count < total else 1.0
    return Proportion(count, total, low, high, confidence)


def check_proportion(count: int, total: int, confidence: float) -> None:
    """Refuse what is no share of anything, or no confidence, with a ValueError."""
    if total < 1 or not 0 <= count <= total:
        raise ValueError(f"count must be 0 … total and total at least 1; got {count} of {total}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
