"""What several trainings of one setup say of the setup: replicates.

Each replicate is trained on other images and from another seed. Their ratios differ by more than
the randomness of the generated images, so the interval of a single training's ratio says nothing of
the next training's. On the scale of logit p = ln(p / (1 − p)), replicates spread with a standard
deviation τ that hardly depends on p.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t

from memaudit.audit.statistics.intervals import Estimate, Proportion, clopper_pearson
from memaudit.wording import percent

TYPICAL_SPREAD = ((8, 0.56), (16, 0.23))
"""τ measured with the laptop preset, by resolution: what is assumed of a single training."""
INTERVALS = (
    "at 95 %: of several trainings, Student’s t on logits, for the mean ratio of the setup; of one "
    "training (“this training”), Clopper–Pearson, for its generated images alone"
)
"""How the intervals that `describe_ratios` writes were made."""


def assumed_spread(resolution: int) -> float:
    """The τ that is assumed if there is only one training: that of the nearest resolution measured.

    Args:
        resolution: height and width of the images.
    """
    return min(TYPICAL_SPREAD, key=lambda known: abs(math.log(known[0] / resolution)))[1]


def pool(ratios: Sequence[Proportion], confidence: float = 0.95) -> Proportion:
    """All generated images together; the interval covers their randomness, not that of training.

    With equally many images per training, `ratio` is the mean of the trainings' ratios. Copies of
    several trainings vary less than a binomial of their mean ratio (Hoeffding, Ann. Math. Stat. 27
    (1956) 713), so the interval covers the mean of these trainings at least as often as stated.

    Args:
        ratios: at least one.
        confidence: 1 − α, in (0, 1).
    """
    return clopper_pearson(sum(r.count for r in ratios), sum(r.total for r in ratios), confidence)


def critical(degrees: float, confidence: float = 0.95) -> float:
    """How many standard deviations an interval reaches: Student's t, or normal at infinity."""
    return float(t.ppf((1 + confidence) / 2, degrees))


@dataclass(frozen=True)
class Replicates:
    """The ratios of several trainings of one setup, or of one, on the scale of logits.

    ℓ_r = logit((k_r + ½)/(n_r + 1)). With R ≥ 2 trainings, the variance s² of one training is
    estimated from them with R − 1 degrees of freedom. With one, it is τ² + 1/(n p q) with the τ
    assumed.
    """

    ratios: tuple[Proportion, ...]
    """One per training, at least one."""
    assumed_spread: float
    """τ if there is only one training."""

    @property
    def number(self) -> int:
        """The number R of trainings."""
        return len(self.ratios)

    @cached_property
    def logits(self) -> np.ndarray:
        """float64 [R]: the logit of each training's ratio."""
        logits: np.ndarray = logit([(r.count + 0.5) / (r.total + 1) for r in self.ratios])
        return logits

    @property
    def center(self) -> float:
        """The logit of the mean ratio."""
        pooled = pool(self.ratios)
        return float(logit((pooled.count + 0.5) / (pooled.total + 1)))

    @cached_property
    def sampling_variance(self) -> float:
        """Mean variance of a training's logit by the generated images alone, 1/(n p q)."""
        p = expit(self.logits)
        totals = np.array([ratio.total for ratio in self.ratios])
        return float(np.mean(1 / (totals * p * (1 - p))))

    @property
    def variance(self) -> float:
        """The variance of one training's logit, s²; that of its images is part of it."""
        if self.number == 1:
            return self.assumed_spread**2 + self.sampling_variance
        return float(np.var(self.logits, ddof=1))

    @property
    def spread(self) -> float:
        """τ: the standard deviation of training without that of the generated images."""
        return math.sqrt(max(self.variance - self.sampling_variance, 0.0))

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the variance: R − 1, or infinite if τ is assumed."""
        return math.inf if self.number == 1 else self.number - 1

    @property
    def error_of_mean(self) -> float:
        """Standard deviation of the center, s/√R."""
        return self._at_least_sampling(math.sqrt(self.variance / self.number))

    @property
    def error_of_another(self) -> float:
        """Standard deviation of the center minus another training's logit.

        √(s²(1 + 1/R)), or √(2τ² + 1/(n p q)) if there is one training.
        """
        if self.number == 1:
            return math.hypot(self.assumed_spread, math.sqrt(self.variance))
        return self._at_least_sampling(math.sqrt(self.variance * (1 + 1 / self.number)))

    def mean(self, confidence: float = 0.95) -> Estimate | None:
        """The mean ratio of the setup's trainings, with a t interval; None if there is only one."""
        if self.number == 1:
            return None
        return self._interval(self.error_of_mean, confidence)

    def another(self, confidence: float = 0.95) -> Estimate:
        """The mean ratio, with the interval in which another training's ratio is expected."""
        return self._interval(self.error_of_another, confidence)

    def differs_from(self, other: "Replicates", confidence: float = 0.95) -> int:
        """1 if the other setup has the higher ratio, −1 if this one has, 0 if they are not told
        apart by Welch's t test (Biometrika 34 (1947) 28) on the logits."""
        errors = [self.error_of_mean**2, other.error_of_mean**2]
        shares = [error**2 / one.degrees for error, one in zip(errors, (self, other), strict=True)]
        degrees = sum(errors) ** 2 / sum(shares) if sum(shares) else math.inf
        gap = other.center - self.center
        is_apart = abs(gap) > critical(degrees, confidence) * math.sqrt(sum(errors))
        return int(np.sign(gap)) if is_apart else 0

    def _at_least_sampling(self, error: float) -> float:
        """Make an interval no narrower than that of the generated images alone: few trainings may
        agree by chance."""
        sampling = math.sqrt(self.sampling_variance / self.number)
        return max(error, sampling * critical(math.inf) / critical(self.degrees))

    def _interval(self, error: float, confidence: float) -> Estimate:
        reach = critical(self.degrees, confidence) * error
        low, high = expit([self.center - reach, self.center + reach]).tolist()
        ratio = pool(self.ratios).ratio  # 0 and 1 lie beyond every logit
        return Estimate(ratio, min(low, ratio), max(high, ratio))


def describe_ratios(ratios: Sequence[Proportion]) -> str:
    """Write a mean ratio with its interval, and of a single training that it speaks of no other."""
    pooled = pool(ratios)
    found = Replicates(tuple(ratios), 0).mean() or pooled
    whose = "" if len(ratios) > 1 else "this training "
    return f"{percent(pooled.ratio)} % ({whose}{percent(found.low)} to {percent(found.high)})"
