"""The label test: are samples nearer to one half of a pool than to the other?

A pool holds n images of either label, training or held-out. With d_T and d_H the distances of a
sample to the nearest image of either label and t a look in (0, 1],

    T_t = #{d_T < t·d_H} − #{d_H < t·d_T}.

If the labels mean nothing to the samples, every way of giving n of the 2n images the label
"training" is equally likely, whatever the samples are and however many of them share a nearest
image. So the chance p of a T_t as large as the one seen is counted over labelings, and it is exact.

A sample counts for T_t iff all images of the pool within d/t of it, where d is the distance to the
nearest one, have the same label. These images do not depend on the labels. If all neighbors that
were searched are among them, the sample counts for no labeling, which keeps p exact.

Legend: B samples, K neighbors, L looks, P labelings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

import numpy as np

from memaudit.audit.statistics.intervals import Estimate

LOOKS = (Fraction(1), Fraction(17, 20), Fraction(3, 4))
"""At 1, all samples that are not equally near to both labels count; at 3/4, only those that one
label is much nearer to, which near-copies are and other images seldom."""
NEIGHBORS = 48
"""Neighbors of each sample to search in the pool. That 48 images all have the same label by chance
happens once in 10^14 samples."""
PERMUTATIONS = 999
"""Random labelings beside the true one, so that the smallest p is 0.001."""

GATHERED_BYTES = 16 << 20  # of labels in memory at a time


@dataclass(frozen=True)
class Labelings:
    """The true labels of a pool and others that are equally likely if the labels mean nothing."""

    training: np.ndarray
    """uint8 [2n, ⌈P/8⌉]: which images have the label "training", one bit per labeling. The true
    labeling comes first: images 0 … n − 1."""
    num_labelings: int
    """P, the true one included."""

    @property
    def pool_size(self) -> int:
        """2n."""
        return len(self.training)

    def statistics(self, index: np.ndarray, within: np.ndarray) -> np.ndarray:
        """T_t of some samples for every look and labeling.

        Args:
            index: positions in the pool, int64 [B, K], nearest first.
            within: how many of them have to share a label for a sample to count, int64 [L, B]; 0
                where it cannot count.

        Returns:
            int64 [L, P].
        """
        total = np.zeros((len(within), self.num_labelings), dtype=np.int64)
        rows = max(1, GATHERED_BYTES // (self.training.shape[1] * max(1, index.shape[1])))
        for look, lengths in enumerate(within):
            counted = np.flatnonzero(lengths)
            for start in range(0, len(counted), rows):
                part = counted[start : start + rows]
                mask = np.arange(index.shape[1]) < lengths[part, None]
                labels = self.training[index[part][mask]]
                starts = np.cumsum(lengths[part]) - lengths[part]
                all_training = np.bitwise_and.reduceat(labels, starts, axis=0)
                any_training = np.bitwise_or.reduceat(labels, starts, axis=0)
                total[look] += self._count(all_training) - self._count(~any_training)
        return total

    def _count(self, bits: np.ndarray) -> np.ndarray:
        """How often each labeling's bit is set: uint8 [B, ⌈P/8⌉] → int64 [P]."""
        one_by_one = np.unpackbits(bits, axis=1, count=self.num_labelings)
        counts: np.ndarray = one_by_one.sum(0, dtype=np.int64)
        return counts


def draw_labelings(
    num_pairs: int, *, num_permutations: int = PERMUTATIONS, seed: int = 0
) -> Labelings:
    """The true labeling of a pool, and random ones; or all, if there are no more than that.

    Args:
        num_pairs: n ≥ 1, images of either label.
        num_permutations: random labelings beside the true one, ≥ 1.
        seed: chooses them.

    Raises:
        ValueError: num_pairs or num_permutations is below 1.
    """
    if num_pairs < 1 or num_permutations < 1:
        raise ValueError(
            "num_pairs and num_permutations must be at least 1, got "
            f"{num_pairs} and {num_permutations}"
        )
    size = 2 * num_pairs
    if math.comb(size, num_pairs) <= num_permutations + 1:
        chosen = np.array(list(combinations(range(size), num_pairs)))  # the true one comes first
        training = np.zeros((size, len(chosen)), dtype=bool)
        training[chosen.T, np.arange(len(chosen))] = True
        return Labelings(np.packbits(training, axis=1), len(chosen))
    rng = np.random.default_rng(seed)
    num_labelings = num_permutations + 1
    packed = np.empty((size, -(-num_labelings // 8)), dtype=np.uint8)
    true = np.arange(size) < num_pairs
    for byte in range(packed.shape[1]):
        labels = np.stack([rng.permutation(true) for _ in range(8)], 1)
        if byte == 0:
            labels[:, 0] = true
        packed[:, byte] = np.packbits(labels, axis=1)[:, 0]
    return Labelings(packed, num_labelings)


def images_within(squared_distance: np.ndarray, looks: Sequence[Fraction] = LOOKS) -> np.ndarray:
    """How many images are no farther than d/t, where d is the distance to the nearest.

    d ≥ t·d_r ⇔ q²·S ≥ p²·S_r for t = p/q: between pixels decided in integers.

    Args:
        squared_distance: to the K nearest images of the pool, int64 or float64 [B, K], nearest
            first.
        looks: L values of t, in (0, 1].

    Returns:
        int64 [L, B]; 0 where all K are, since there may be more (or they are the whole pool, which
        never has one label).

    Raises:
        ValueError: a look is out of range, or has a denominator above 1,000.
    """
    nearest = squared_distance[:, :1]
    within = np.empty((len(looks), len(squared_distance)), dtype=np.int64)
    for row, look in enumerate(looks):
        p, q = look.as_integer_ratio()
        if not 0 < p <= q <= 1000:  # 1000²·S < 2⁶³ for images of up to 2²⁷ values
            raise ValueError(f"a look must be in (0, 1], with a denominator ≤ 1,000; got {look}")
        within[row] = (q**2 * nearest >= p**2 * squared_distance).sum(1)
    within[within == squared_distance.shape[1]] = 0
    return within


@dataclass(frozen=True)
class Look:
    """The test at one value of t."""

    t: float
    """A sample counts if its distance to one label is less than t times that to the other."""
    statistic: int
    """T_t: samples that count for the training images, less those that count for the held-out."""
    spread: float
    """Standard deviation of T_t over the labelings."""
    share: Estimate
    """T_t / G, an estimate of the share of samples that are too near to training images. The ends
    of its interval are T_t less the quantiles of T_t over the labelings, divided by G."""
    p: float
    """Chance of a T_t at least as large if the labels mean nothing; not corrected for looks."""
    p_below: float
    """Chance of a T_t at least as small, likewise: small where generated images are nearer to
    held-out images."""


def each_look(
    statistics: np.ndarray,
    num_samples: int,
    *,
    looks: Sequence[Fraction] = LOOKS,
    confidence: float = 0.95,
) -> tuple[Look, ...]:
    """What the statistics of all labelings say of the true one, which comes first.

    Args:
        statistics: T_t, int64 [L, P].
        num_samples: G ≥ 1.
        looks: L values of t.
        confidence: of the shares' intervals.
    """
    tail = (1 - confidence) / 2
    p_values = p_over_labelings(statistics)[:, 0]
    p_below = p_over_labelings(-statistics)[:, 0]
    found = []
    for look, T, p, below in zip(looks, statistics, p_values, p_below, strict=True):
        smallest = np.quantile(T, tail, method="lower")
        largest = np.quantile(T, 1 - tail, method="higher")
        ends = (T[0] - largest) / num_samples, (T[0] - smallest) / num_samples
        share = Estimate(float(T[0] / num_samples), *map(float, ends))
        found.append(Look(float(look), int(T[0]), float(T.std()), share, float(p), float(below)))
    return tuple(found)


def p_over_labelings(statistics: np.ndarray) -> np.ndarray:
    """For every labeling, the share of labelings with a statistic at least as large.

    Args:
        statistics: [L, P].

    Returns:
        float64 [L, P], in [1/P, 1].
    """
    num_labelings = statistics.shape[1]
    at_least = [
        num_labelings - np.searchsorted(np.sort(row), row, side="left") for row in statistics
    ]
    p_values: np.ndarray = np.array(at_least) / num_labelings
    return p_values


def corrected_p(statistics: np.ndarray) -> float:
    """The true labeling's smallest p over the looks, corrected for their number.

    It is the share of labelings whose own smallest p is as small (Westfall and Young, Resampling-
    Based Multiple Testing, 1993). Since looks agree much, it is smaller than L times the smallest p
    (Bonferroni), and as exact as each p.

    Args:
        statistics: T_t, [L, P], the true labeling first; of the looks in one space or in several.
    """
    smallest = p_over_labelings(statistics).min(0)
    return float((smallest <= smallest[0]).mean())


def smallest_share(
    statistics: np.ndarray,
    num_samples: int,
    per_copy: np.ndarray,
    *,
    alpha: float,
) -> float | None:
    """The share of copies among the samples from which the test is as likely to show them as not.

    At this share the copies add, in expectation, as much to T_t as one look needs for a corrected
    p ≤ α. The statistics of the labelings stand for what the other samples give by chance.

    Args:
        statistics: T_t of the samples for every labeling, int64 [L, P].
        num_samples: G ≥ 1.
        per_copy: mean contribution of a copy to T_t, float64 [L], in [-1, 1].
        alpha: level of the test, in (0, 1).

    Returns:
        The smallest over the looks, in (0, 1]; None if not even copies alone would do.
    """
    num_labelings = statistics.shape[1]
    smallest_p = np.sort(p_over_labelings(statistics).min(0))
    # The largest p that, as the smallest of the looks, has a corrected p ≤ α.
    within = np.searchsorted(smallest_p, smallest_p, side="right") <= alpha * num_labelings
    if not within.any():
        return None
    at_least = round(smallest_p[within][-1] * num_labelings)  # labelings, the true one included
    shares = [
        (np.sort(row)[-at_least] + 1) / (num_samples * mean)
        for row, mean in zip(statistics, per_copy, strict=True)
        if mean > 0
    ]
    smallest = max(min(shares, default=math.inf), 1 / num_samples)
    return float(smallest) if smallest <= 1 else None
