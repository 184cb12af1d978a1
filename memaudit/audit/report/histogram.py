"""The histogram of distance ratios, as numbers that an SVG template draws."""

from dataclasses import dataclass

import numpy as np

from memaudit.audit.memorization.matches import Matches

BIN_WIDTH = 1 / 30
"""About the width of a bin; the threshold falls between two bins."""


@dataclass(frozen=True)
class Bin:
    """Generated images whose distance ratio is in [low, high)."""

    low: float
    high: float
    copies: int
    others: int


def histogram(matches: Matches, threshold: float) -> list[Bin]:
    """Counts of the distance ratio d1/d2 over [0, 1], in bins that part at the threshold."""
    width = threshold / max(1, round(threshold / BIN_WIDTH))
    edges = np.append(np.arange(0, 1 - width / 2, width), 1.0)
    copies, others = (
        np.histogram(matches.distance_ratio[rows], edges)[0].tolist()
        for rows in (matches.memorized_distinct, ~matches.memorized_distinct)
    )
    low, high = edges[:-1].tolist(), edges[1:].tolist()
    return [Bin(*values) for values in zip(low, high, copies, others, strict=True)]


def count_ticks(bins: list[Bin]) -> list[int]:
    """Round numbers from 0 to at least the largest count, for its axis: 3 to 6 of them."""
    largest = max(bin.copies + bin.others for bin in bins)
    for step in (factor * 10**power for power in range(19) for factor in (1, 2, 5)):
        if step * 5 >= largest:
            break
    return list(range(0, max(largest, 2) + step, step))
