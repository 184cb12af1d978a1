"""The share of copies where only some images were sampled in full: candidates and a random share.

A cheap sampler picks candidates among n seeds, all of which are sampled in full, and so are m of
the n seeds that chance drew, candidates or not. With u the chance that a seed is a candidate whose
image is a copy, and v that it is a copy but no candidate, the share of copies is p = u + v, and

    p̂ = a/n + b/m

where a of the n are candidates with a copy, and b of the m are copies without being candidates. It
has no bias, whatever the candidates are: a is binomial of n and u, b of m and v, since the m were
drawn without regard to what they are (Horvitz and Thompson, JASA 47 (1952) 663, with inclusion
probabilities 1 and m/n). docs/statistics.md has the derivation.
"""

from dataclasses import dataclass

from memaudit.audit.statistics.intervals import check_confidence, clopper_pearson

OF_CANDIDATES = 0.2
"""Share of α that the interval of u takes. That of v, of far fewer images, is the wider one."""


@dataclass(frozen=True)
class ScreenedShare:
    """An estimate of the share of copies, with an interval for the probability behind it."""

    value: float
    """p̂, in [0, 1]."""
    low: float
    high: float
    confidence: float
    """Chance, at least, that an interval made this way holds the true probability."""


def screened_share(
    candidate_copies: int,
    screened: int,
    missed_copies: int,
    drawn: int,
    *,
    confidence: float = 0.95,
) -> ScreenedShare:
    """The share of copies and its interval, exact at any count.

    The interval is the sum of the Clopper–Pearson intervals of u at 1 − α/5 and of v at 1 − 4α/5:
    both hold with a chance of at least 1 − α (Bonferroni), and then so does the sum.

    Args:
        candidate_copies: a, candidates whose image is a copy, 0 … screened.
        screened: n, seeds that were screened, ≥ 1.
        missed_copies: b, drawn seeds that are not candidates and whose image is a copy, 0 … drawn.
        drawn: m, seeds drawn at random among the n, without regard to being candidates, ≥ 1.
        confidence: 1 − α, in (0, 1).

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> nothing_found = screened_share(0, 10_000, 0, 500)
        >>> f"{nothing_found.value:.2%}, at most {nothing_found.high:.2%}"
        '0.00%, at most 0.83%'
        >>> found = screened_share(100, 10_000, 1, 500)
        >>> f"{found.value:.2%} [{found.low:.2%}, {found.high:.2%}]"
        '1.20% [0.77%, 2.45%]'
    """
    check_confidence(confidence)
    if drawn > screened or candidate_copies + missed_copies > screened:
        raise ValueError(
            f"at most {screened} can be drawn and be copies; got {drawn} drawn, and "
            f"{candidate_copies} and {missed_copies} copies"
        )
    alpha = 1 - confidence
    u = clopper_pearson(candidate_copies, screened, 1 - alpha * OF_CANDIDATES)
    v = clopper_pearson(missed_copies, drawn, 1 - alpha * (1 - OF_CANDIDATES))
    return ScreenedShare(
        value=min(1.0, u.ratio + v.ratio),
        low=u.low + v.low,
        high=min(1.0, u.high + v.high),
        confidence=confidence,
    )
