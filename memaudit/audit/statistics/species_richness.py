"""How much of a leak has been seen: how many more training images would more samples bring out?

The training images that leak are the species, and their copies are the animals caught.
docs/statistics.md says what such estimates can and cannot tell.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import ndtr, ndtri

from memaudit.audit.statistics.intervals import Estimate, check_confidence, level_text
from memaudit.wording import percent

INDEPENDENT = (
    "Both presuppose that the images judged are independent draws, as those sampled from a model "
    "are; a folder of pictures that somebody chose is not."
)
"""What an estimate of richness presupposes."""


@dataclass(frozen=True)
class Chao1:
    """How many training images a source copies in the long run."""

    value: float | None
    """A lower estimate; None if several images were copied once and none twice, since then no
    pairs tell how many were missed."""
    low: float
    high: float


@dataclass(frozen=True)
class SpeciesRichness:
    """How many training images were copied, and how many would be in the long run."""

    num_hits: int
    """k: copies among the generated images."""
    num_leaking: int
    """u: training images that were copied."""
    num_once: int
    """f₁: training images that were copied exactly once."""
    num_twice: int
    """f₂: training images that were copied exactly twice."""
    chao1: Chao1 | None
    """The number of training images that the source ever copies, estimated from below; None if
    there are no copies."""
    unseen_share: Estimate | None
    """The share of future copies that show a training image not copied so far; None if there are no
    copies."""
    confidence: float
    """Confidence level of both intervals, which are approximate."""


def estimate_richness(
    hits: Sequence[int], *, num_images: int, confidence: float = 0.95
) -> SpeciesRichness:
    """Estimate how much of the leak the copies found so far have shown.

    Args:
        hits: the number of copies of each training image that was copied, each ≥ 1.
        num_images: N, the number of training images.
        confidence: confidence level of the intervals, in (0, 1).

    Raises:
        ValueError: an argument is out of its range.
    """
    check_confidence(confidence)
    if len(hits) > num_images or any(hit < 1 for hit in hits):
        raise ValueError(
            f"hits must be 1 or more for each of at most {num_images} training images; got "
            f"{len(hits)} of them, the least {min(hits)}"
        )
    frequency = Counter(hits)
    z = -float(ndtri((1 - confidence) / 2))
    return SpeciesRichness(
        num_hits=sum(hits),
        num_leaking=len(hits),
        num_once=frequency[1],
        num_twice=frequency[2],
        chao1=_chao1(frequency, num_images, z) if hits else None,
        unseen_share=_unseen_share(frequency, z) if hits else None,
        confidence=confidence,
    )


def in_the_long_run(result: SpeciesRichness, kinds: str, verb: str = "copied") -> str:
    """How many images or groups further samples would show, or an empty text without copies.

    Args:
        result: their richness.
        kinds: what is counted: `training images`, `patients`.
        verb: what happens to them: `counted` where the floor explains it.
    """
    if result.chao1 is None or result.unseen_share is None:
        return ""
    level = level_text(result.confidence)
    low, high = f"{result.chao1.low:,.0f}", f"{result.chao1.high:,.0f}"
    if result.chao1.value is None:
        none = "No image" if kinds == "training images" else f"None of the {kinds}"
        estimate = (
            f"{none} was {verb} exactly twice, so their number in the long run cannot be "
            f"estimated: with {level} confidence it is from {low} to {high}"
        )
    else:
        estimate = (
            f"The number of {kinds} that are {verb} in the long run is estimated to be at "
            f"least {result.chao1.value:,.0f} (Chao1, {level} interval {low} to {high})"
        )
    unseen = "images" if kinds == "training images" else kinds
    return (
        f"More samples may reveal more. {estimate}. Of "
        f"{'the copies' if verb == 'copied' else 'what is counted'} in further samples, "
        f"{percent(result.unseen_share.value)} % are expected to be of {unseen} not {verb} so far "
        f"(Good and Turing, {percent(result.unseen_share.low)} % to "
        f"{percent(result.unseen_share.high)} %)."
    )


def _chao1(frequency: Counter[int], num_images: int, z: float) -> Chao1:
    """Ŝ = u + f₁(f₁−1) / (2(f₂+1)), at most N, with Chao's log-normal interval.

    Chao, Scand. J. Stat. 11 (1984) 265 and Biometrics 43 (1987) 783; the bias-corrected form and
    its variance as in Colwell's EstimateS. With f₁ > 1 and f₂ = 0 there is no estimate, but an
    interval whose upper end is N. If no image was copied more than once, its lower end is that of
    `_fewest_without_repeat`.
    """
    u, f1, f2 = frequency.total(), frequency[1], frequency[2]
    if f2 == 0 and (f1 > 1 or u == 1 == f1):
        fewest = max(u, _fewest_without_repeat(u, float(ndtr(-z)))) if f1 == u else u
        return Chao1(None, float(min(fewest, num_images)), float(num_images))
    unseen = f1 * (f1 - 1) / (2 * (f2 + 1))
    if unseen > 0:
        variance = (
            unseen
            + f1 * (2 * f1 - 1) ** 2 / (4 * (f2 + 1) ** 2)
            + f1**2 * f2 * (f1 - 1) ** 2 / (4 * (f2 + 1) ** 4)
        )
        spread = math.exp(z * math.sqrt(math.log1p(variance / unseen**2)))
        low, high = u + unseen / spread, u + unseen * spread
    else:
        # No more are expected: count the images that would be missed at their Poisson rates.
        missed = sum(f * math.exp(-i) for i, f in frequency.items())
        variance = sum(f * (math.exp(-i) - math.exp(-2 * i)) for i, f in frequency.items())
        num_hits = sum(i * f for i, f in frequency.items())
        variance -= sum(i * f * math.exp(-i) for i, f in frequency.items()) ** 2 / num_hits
        caught = 1 - missed / u
        low = float(u)
        high = (u + z * math.sqrt(max(variance, 0.0))) / caught
    # Images are counted in whole numbers: without rounding outward the interval could exclude u.
    return Chao1(
        float(min(u + unseen, num_images)),
        float(min(math.floor(low), num_images)),
        float(min(math.ceil(high), num_images)),
    )


def _fewest_without_repeat(num_copies: int, chance: float) -> int:
    """The largest S that k copies of k different images rule out: Π_{i<k} (1 − i/S) ≤ chance.

    That is how likely it is that no image recurs if S images leak, all alike; if some leak more
    than others, it is less likely.

    Returns:
        S, or k where no S ≥ k is ruled out.
    """
    k = num_copies

    def ruled_out(size: int) -> bool:
        return math.prod(1 - i / size for i in range(1, k)) <= chance

    # The product is at least 1 − k(k−1)/2S, so that nothing beyond this size is ruled out.
    low, high = k, k + math.ceil(k * (k - 1) / (2 * (1 - chance)))
    if not ruled_out(low):
        return k
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ruled_out(middle) else (low, middle)
    return low


def _unseen_share(frequency: Counter[int], z: float) -> Estimate:
    """f₁/k of Good and Turing, with an interval by Esty's variance in Wilson's form.

    Good, Biometrika 40 (1953) 237. The error of f₁/k as an estimate of the unseen share m has the
    variance (m(1−m) + 2f₂/k) / k (Esty, Ann. Stat. 11 (1983) 905). With m in place of its estimate,
    the interval lies between the roots of (f₁/k − m)² = z²·variance. So it has a width even if all
    copies are of different images, or none are.
    """
    k = sum(i * f for i, f in frequency.items())
    share, pairs, w = frequency[1] / k, 2 * frequency[2] / k, z**2 / k
    half = share + w / 2
    root = math.sqrt(half**2 - (1 + w) * (share**2 - w * pairs))
    low, high = max(0.0, (half - root) / (1 + w)), min(1.0, (half + root) / (1 + w))
    return Estimate(share, low, max(share, high))
