"""Means over images with intervals from resampling the images."""

import math
from collections.abc import Mapping

import numpy as np

from memaudit.audit.statistics.intervals import Estimate

NUM_RESAMPLES = 2000
"""Resamplings behind an interval."""


class Sample:
    """Quantities of T images at each noise level, with resamplings of the images."""

    def __init__(
        self, values: Mapping[tuple[str, float], np.ndarray], rng: np.random.Generator
    ) -> None:
        self.values = values
        """float64 [T], by quantity and sigma."""
        self.num_images = len(next(iter(values.values())))
        counts = rng.multinomial(
            self.num_images, np.full(self.num_images, 1 / self.num_images), NUM_RESAMPLES
        )
        # The sample itself comes first.
        self._weights = np.vstack([np.ones(self.num_images), counts]) / self.num_images

    def means(self, quantity: str, sigma: float) -> np.ndarray:
        """Mean of a quantity over the images and over R resamplings: float64 [1 + R]."""
        means: np.ndarray = self._weights @ self.values[quantity, sigma]
        return means


def resampled(means: np.ndarray, confidence: float) -> Estimate:
    """A mean with its percentile interval.

    Args:
        means: the mean of the sample, then those of R resamplings: float64 [1 + R].
        confidence: in (0, 1).
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(means[1:], [tail, 1 - tail])
    return Estimate(float(means[0]), float(low), float(high))


def welch(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Is the mean of `a` above that of `b`? Welch's test, Biometrika 34 (1947) 28.

    Args:
        a: numbers [m], m ≥ 2.
        b: numbers [n], n ≥ 2.

    Returns:
        t = (mean a − mean b) / √(var a/m + var b/n), or 0 if all numbers of either sample are
        equal, and the one-sided p-value by Student's distribution.
    """
    from scipy.special import stdtr

    parts = [float(x.var(ddof=1)) / len(x) for x in (a, b)]
    if not sum(parts) > 0:
        return 0.0, 1.0
    t = float(a.mean() - b.mean()) / math.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(x) - 1) for part, x in zip(parts, (a, b), strict=True)
    )
    return t, float(stdtr(freedom, -t))
