"""How much of a leak has been seen: how many more training images would more samples bring out?

The training images that leak are the species, and their copies are the animals caught.
docs/statistics.md says what such estimates can and cannot tell.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import ndtri

from memaudit.audit.statistics.intervals import Estimate, check_confidence


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
    chao1: Estimate | None
    """A lower estimate of the number of training images that the source ever copies; None if there
    are no copies."""
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


def _chao1(frequency: Counter[int], num_images: int, z: float) -> Estimate:
    """Ŝ = u + f₁(f₁−1) / (2(f₂+1)), at most N, with Chao's log-normal interval.

    Chao, Scand. J. Stat. 11 (1984) 265 and Biometrics 43 (1987) 783; the bias-corrected form and
    its variance as in Colwell's EstimateS. If no image was copied more than once, only N bounds
    their number.
    """
    u, f1, f2 = frequency.total(), frequency[1], frequency[2]
    unseen = f1 * (f1 - 1) / (2 * (f2 + 1))
    if f1 == u:
        low, high = float(u), float(num_images)
    elif unseen > 0:
        variance = (
            unseen
            + f1 * (2 * f1 - 1) ** 2 / (4 * (f2 + 1) ** 2)
            + f1**2 * f2 * (f1 - 1) ** 2 / (4 * (f2 + 1) ** 4)
        )
        if f2 == 0:
            variance -= f1**4 / (4 * (u + unseen))
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
    return Estimate(
        float(min(u + unseen, num_images)),
        float(min(math.floor(low), num_images)),
        float(min(math.ceil(high), num_images)),
    )


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
    return Estimate(share, max(0.0, (half - root) / (1 + w)), min(1.0, (half + root) / (1 + w)))
