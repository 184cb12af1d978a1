"""What follows from the matches alone: ratios, verdict, sensitivity, classes, leaks.

A scan computes this once, and `memaudit verify` computes it again from the saved matches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from memaudit.audit.memorization.matches import THRESHOLDS, Leak, Matches, find_leaks
from memaudit.audit.statistics.gate import (
    Decision,
    exact_decision,
    mixture_interval,
    sequential_decision,
)
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson
from memaudit.audit.statistics.per_class import ClassRatio, per_class
from memaudit.audit.statistics.species_richness import SpeciesRichness, estimate_richness

CLOPPER_PEARSON = "Clopper-Pearson"
MIXTURE_SEQUENCE = "mixture sequence"


@dataclass(frozen=True)
class Gate:
    """A limit on the memorization ratio, and how it is tested."""

    fail_above: float
    """The largest distinct ratio that passes, in (0, 1)."""
    sequential: bool
    """Whether images are sampled one by one until the verdict is certain, or all are given."""


@dataclass(frozen=True)
class Sensitivity:
    """The distinct ratio under another rule."""

    threshold: Fraction
    duplicate_rms: float
    """Radius in RMS gray levels."""
    ratio: Proportion


@dataclass(frozen=True)
class Findings:
    """Ratios with their intervals, the verdict, and what leaked."""

    ratios: dict[str, Proportion]
    """The shares of all judged images that are memorized: "paper", "distinct" (the headline) and
    "distinct_at_0"."""
    interval: str
    """How the intervals were made: CLOPPER_PEARSON, or MIXTURE_SEQUENCE after a sequential gate,
    which is valid after every image."""
    decision: Decision | None
    """The gate's decision, or None if no gate was set."""
    num_degenerate: int
    """Number of images at distance 0 from both neighbors, which the paper's rule cannot see."""
    sensitivity: tuple[Sensitivity, ...]
    """The distinct ratio at every threshold and radius, including those of the rule."""
    classes: tuple[ClassRatio, ...]
    """The ratio of every class that images were generated for; empty without classes."""
    richness: SpeciesRichness
    """How much of the leak the copies found so far have shown."""
    leaks: tuple[Leak, ...] = field(repr=False)
    """Training images that leaked by the distinct rule, most copied first."""


def summarize_matches(
    matches: Matches,
    names: Sequence[str] | Mapping[int, str],
    *,
    num_images: int,
    class_index: np.ndarray | None,
    gate: Gate | None = None,
) -> Findings:
    """Draw the conclusions, with intervals at the confidence of the matches' rule.

    Args:
        matches: of all images that were judged.
        names: names of the training images by their index; those that leaked are enough.
        num_images: N, the number of training images.
        class_index: int64 [M], the class that each image was generated for, or None.
        gate: the limit on the distinct ratio, if there is one.
    """
    total, rule = len(matches), matches.rule
    confidence = rule.confidence
    interval = MIXTURE_SEQUENCE if gate is not None and gate.sequential else CLOPPER_PEARSON

    def proportion(hits: np.ndarray) -> Proportion:
        if interval == MIXTURE_SEQUENCE:
            return mixture_interval(int(hits.sum()), total, confidence)
        return clopper_pearson(int(hits.sum()), total, confidence)

    ratios = {
        "paper": proportion(matches.memorized_paper),
        "distinct": proportion(matches.memorized_distinct),
        "distinct_at_0": proportion(matches.memorized(0.0, rule.threshold)),
    }
    leaks = find_leaks(matches, names)
    return Findings(
        ratios=ratios,
        interval=interval,
        decision=None
        if gate is None
        else decide(ratios["distinct"].count, total, gate=gate, confidence=confidence),
        num_degenerate=matches.num_degenerate,
        sensitivity=tuple(
            Sensitivity(threshold, float(radius), proportion(matches.memorized(radius, threshold)))
            for threshold in sorted({*THRESHOLDS, rule.threshold})
            for radius in matches.neighbors.radii
        ),
        classes=()
        if class_index is None
        else per_class(
            matches.memorized_distinct,
            class_index,
            confidence=confidence,
            limit=None if gate is None else gate.fail_above,
        ),
        richness=estimate_richness(
            [leak.hits for leak in leaks], num_images=num_images, confidence=confidence
        ),
        leaks=leaks,
    )


def decide(count: int, total: int, *, gate: Gate, confidence: float) -> Decision:
    """The gate's decision, given `count` copies among `total` images."""
    rule = sequential_decision if gate.sequential else exact_decision
    return rule(count, total, limit=gate.fail_above, confidence=confidence)


def first_decided(
    hits: np.ndarray,
    before: tuple[int, int],
    *,
    gate: Gate,
    confidence: float,
    min_samples: int = 1,
) -> int | None:
    """After how many of these images a sequential gate is certain, or None if it is not yet.

    The gate decides after every image, so the result does not depend on the batch size.

    Args:
        hits: whether each further image is a copy, bool [B].
        before: the number of copies and of images that came before them.
        gate: the limit on the distinct ratio.
        confidence: 1 − α, in [0.5, 1).
        min_samples: images to see before the first decision. Deciding later is just as valid.
    """
    count, total = before
    for position, hit in enumerate(hits.tolist(), start=1):
        count += hit
        if total + position < min_samples:
            continue
        decision = decide(count, total + position, gate=gate, confidence=confidence)
        if decision.verdict != "INCONCLUSIVE":
            return position
    return None
