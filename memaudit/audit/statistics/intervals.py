"""A fraction, or another number, with its interval."""

from dataclasses import dataclass, field

from scipy.special import betainccinv, betaincinv

from memaudit.wording import percent


@dataclass(frozen=True)
class Proportion:
    """`count` of `total`, with an interval for the probability behind it."""

    count: int
    total: int
    low: float
    high: float
    confidence: float
    """Chance, at least, that an interval made this way holds the true probability."""
    ratio: float = field(init=False)
    """count / total, in [0, 1]."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", self.count / self.total)

    def __str__(self) -> str:
        return f"{self.count:,} of {self.total:,}, {describe(self)}"


@dataclass(frozen=True)
class Estimate:
    """A number with an interval.

    The field that holds it says what it measures and how the interval was made.
    """

    value: float
    low: float
    high: float


def clopper_pearson(count: int, total: int, confidence: float = 0.95) -> Proportion:
    """The exact two-sided interval for a binomial probability.

    [Beta(α/2; k, n−k+1), Beta(1−α/2; k+1, n−k)] with α = 1 − confidence, quantiles of the beta
    distribution; the lower end is 0 if k = 0, and the upper end is 1 if k = n. Clopper and Pearson,
    Biometrika 26 (1934) 404. The interval holds the true probability at least as often as its
    confidence says.

    Args:
        count: k, successes, 0 … total.
        total: n, trials, ≥ 1.
        confidence: 1 − α, in (0, 1).

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> found = clopper_pearson(5, 10)
        >>> print(f"{found.ratio:.1%} [{found.low:.1%}, {found.high:.1%}]")
        50.0% [18.7%, 81.3%]
        >>> clopper_pearson(0, 10_000).high < 0.00037
        True
    """
    check_proportion(count, total, confidence)
    tail = (1 - confidence) / 2
    low = float(betaincinv(count, total - count + 1, tail)) if count else 0.0
    high = float(betainccinv(count + 1, total - count, tail)) if count < total else 1.0
    return Proportion(count, total, low, high, confidence)


def check_proportion(count: int, total: int, confidence: float) -> None:
    """Raise ValueError unless 0 ≤ count ≤ total, total ≥ 1 and 0 < confidence < 1."""
    if total < 1 or not 0 <= count <= total:
        raise ValueError(f"count must be 0 … total and total at least 1; got {count} of {total}")
    check_confidence(confidence)


def check_confidence(confidence: float) -> None:
    """Raise ValueError unless 0 < confidence < 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")


def interval_text(interval: Proportion | Estimate) -> str:
    """Both ends, as `2.8 % to 3.5 %`."""
    return f"{percent(interval.low)} % to {percent(interval.high)} %"


def level_text(confidence: float) -> str:
    """A confidence, as `95 %`."""
    return f"{100 * confidence:g} %"


def describe(ratio: Proportion) -> str:
    """`3.1 % (95 % interval 2.8 % to 3.5 %)`; a count of 0 is an upper limit, not a zero."""
    level = level_text(ratio.confidence)
    if ratio.count == 0:
        return f"at most {percent(ratio.high)} % ({level} interval)"
    return f"{percent(ratio.ratio)} % ({level} interval {interval_text(ratio)})"
