"""What follows from the matches alone: ratios, verdict, sensitivity, leaks.

A scan computes this once, and `memaudit verify` computes it again from the saved matches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from memaudit.audit.memorization.controls import Floor
from memaudit.audit.memorization.matches import Leak, Matches, find_leaks
from memaudit.audit.memorization.screened import ScreenedRows
from memaudit.audit.memorization.sensitivity import (
    CellCount,
    Sensitivity,
    contradicts,
    count_cells,
)
from memaudit.audit.statistics.gate import (
    Decision,
    FloorCount,
    WholeImages,
    exact_decision,
    log_e_values,
    mixture_interval,
    sequential_decision,
)
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson

Interval = Literal["Clopper-Pearson", "mixture sequence"]
"""How the intervals of the ratios were made: for a number of images fixed beforehand, or valid at
every look while a gate samples them one by one."""
CLOPPER_PEARSON: Interval = "Clopper-Pearson"
MIXTURE_SEQUENCE: Interval = "mixture sequence"
EXPLAINED_AFTER = 1000
"""Images after which sampling stops if the floor explains the ratio: fewer would leave the label
test, which then has the word, without power."""


@dataclass(frozen=True)
class Gate:
    """A limit on the memorization ratio, and how it is tested."""

    fail_above: float
    """The largest share of copies that passes, in (0, 1)."""
    sequential: bool
    """Whether images are sampled one by one until the verdict is certain, or all are given."""
    floor: FloorCount | None = None
    """The same count of a control; None tests the limit alone."""
    whole_images: FloorCount | None = None
    """The control's count by whole images alone, where further rules count as well."""


@dataclass(frozen=True)
class RuleShare:
    """Share of the generated images that one of several rules calls copies."""

    rule: str
    copies: Proportion
    num_alone: int
    """Images that no other rule calls copies."""


@dataclass(frozen=True)
class Ratios:
    """Shares of the generated images that are copies, by each rule."""

    copies: Proportion
    """The headline: memorized by the distinct rule, or a duplicate of a training image itself; or
    a copy by any further rule."""
    distinct: Proportion
    """The second neighbor must not be a duplicate of the first."""
    distinct_at_0: Proportion
    """The same, where only exact copies of a training image are its duplicates."""
    paper: Proportion
    """The published rule, which cannot see copies of duplicated training images."""
    by_rule: tuple[RuleShare, ...]
    """What each rule calls copies, where several count; empty where whole images alone do."""


@dataclass(frozen=True)
class Findings:
    """Ratios with their intervals, the verdict, and what leaked."""

    ratios: Ratios
    """Shares of all images judged."""
    interval: Interval
    """How the intervals of the ratios and of the sensitivity table were made."""
    decision: Decision | None
    """The gate's decision, or None if no gate was set."""
    num_degenerate: int
    """Number of images at distance 0 from both neighbors, which the paper's rule cannot see."""
    sensitivity: tuple[Sensitivity, ...]
    """The share of copies at every threshold and radius searched, the configured ones included."""
    leaks: tuple[Leak, ...] = field(repr=False)
    """Training images that were copied, most copied first."""


def summarize_matches(
    matches: Matches,
    names: Sequence[str] | Mapping[int, str],
    *,
    gate: Gate | None = None,
    floors: Floor | None = None,
    alone: Floor | None = None,
    screened: ScreenedRows | None = None,
    num_screened: int = 0,
    groups: Sequence[str | None] | Mapping[int, str] | None = None,
) -> Findings:
    """Draw the conclusions, with intervals at the confidence of the matches' rule.

    Args:
        matches: of all images that were judged.
        names: names of the training images by their index; those that leaked are enough.
        gate: the limit on the share of copies, if there is one.
        floors: what the same counts are among images that cannot be copies, if that is known.
        alone: the leave-one-out floor, which may stand beside that of held-out images.
        screened: what screening said of the same images, where only some seeds were sampled in
            full. Shares are then those of the seeds drawn at random; leaks are of all images.
        num_screened: seeds that were screened.
        groups: what the training images belong to by their index, where groups count.
    """
    all_matches = matches
    if screened is not None:
        matches = matches[np.flatnonzero(screened.is_drawn)]
    total, rule = len(matches), matches.rule
    interval = MIXTURE_SEQUENCE if gate is not None and gate.sequential else CLOPPER_PEARSON
    make_interval = mixture_interval if interval == MIXTURE_SEQUENCE else clopper_pearson

    def proportion(hits: np.ndarray) -> Proportion:
        return make_interval(int(hits.sum()), total, rule.confidence)

    def cell_of(cell: CellCount, position: int) -> Sensitivity:
        ratio = make_interval(cell.count, total, rule.confidence)
        shares = [
            clopper_pearson(each.cells[position].count, each.copies.total, rule.confidence)
            for each in (floors, alone)
            if each is not None
        ]
        floor = None if floors is None else shares[0]
        against = gate is not None and contradicts(
            ratio, shares, gate.fail_above, by_ratio=cell.threshold is not None
        )
        return Sensitivity(cell.threshold, cell.duplicate_rms, ratio, floor, against)

    ratios = Ratios(
        copies=proportion(matches.is_copy),
        distinct=proportion(matches.memorized_distinct),
        distinct_at_0=proportion(matches.memorized(0.0, rule.threshold)),
        paper=proportion(matches.memorized_paper),
        by_rule=tuple(
            RuleShare(name, proportion(hits), _num_alone(name, matches.by_rule))
            for name, hits in matches.by_rule.items()
        ),
    )
    decision = None
    if gate is not None and screened is not None:
        found = int(all_matches.is_copy.sum())
        decision = decide_screened(found, num_screened, gate=gate, confidence=rule.confidence)
    elif gate is not None:
        decision = decide(
            ratios.copies.count,
            total,
            gate=gate,
            confidence=rule.confidence,
            whole_images=int(matches.is_pixel_copy.sum()),
        )
    return Findings(
        ratios=ratios,
        interval=interval,
        decision=decision,
        num_degenerate=matches.num_degenerate,
        sensitivity=tuple(
            cell_of(cell, position) for position, cell in enumerate(count_cells(matches))
        ),
        leaks=find_leaks(all_matches, names, groups),
    )


def _num_alone(name: str, by_rule: Mapping[str, np.ndarray]) -> int:
    others = [hits for other, hits in by_rule.items() if other != name]
    return int((by_rule[name] & ~np.logical_or.reduce(others)).sum())


def decide(
    count: int, total: int, *, gate: Gate, confidence: float, whole_images: int | None = None
) -> Decision:
    """The gate's decision, given `count` copies among `total` images.

    Args:
        count: all copies.
        total: images judged.
        gate: the limit on the share of copies.
        confidence: 1 − α, in [0.5, 1).
        whole_images: copies by whole images alone; needed where the gate has a floor of these.
    """
    rule = sequential_decision if gate.sequential else exact_decision
    tested = None
    if gate.whole_images is not None:
        assert whole_images is not None
        tested = WholeImages(whole_images, gate.whole_images)
    return rule(
        count,
        total,
        limit=gate.fail_above,
        confidence=confidence,
        floor=gate.floor,
        whole_images=tested,
    )


def decide_screened(found: int, screened: int, *, gate: Gate, confidence: float) -> Decision:
    """The gate's decision where seeds were screened: FAIL, or INCONCLUSIVE.

    Every copy found was sampled in full, so that at least as many of the seeds give one, and the
    evidence of a ratio above the limit grows with their number. Nothing shows a ratio below it: the
    other seeds were not sampled in full.

    Args:
        found: copies among the images sampled in full.
        screened: all seeds.
        gate: the limit on the share of copies.
        confidence: 1 − α, in [0.5, 1).

    Examples:
        >>> gate = Gate(0.001, sequential=True)
        >>> [decide_screened(k, 10_000, gate=gate, confidence=0.95).verdict for k in (0, 50)]
        ['INCONCLUSIVE', 'FAIL']
    """
    decision = decide(found, screened, gate=gate, confidence=confidence)
    if decision.verdict == "PASS":
        decision = replace(decision, verdict="INCONCLUSIVE")
    return replace(decision, evidence_below=0.0)


def first_decided(
    matches: Matches,
    before: tuple[int, int, int],
    *,
    gate: Gate,
    min_samples: int = 1,
) -> int | None:
    """After how many of these images a sequential gate may stop, or None if it may not yet.

    The gate decides after every image, so the result does not depend on the batch size. It also
    stops where a verdict can no longer be expected: the ratio is certainly above the limit, and
    certainly not above what the floor explains.

    Args:
        matches: of further images.
        before: the number of images that came before them, of copies among these, and of copies by
            whole images alone.
        gate: the limit on the share of copies.
        min_samples: images to see before the first decision. Deciding later is just as valid.
    """
    total, count, whole_images = before
    hits = zip(matches.is_copy.tolist(), matches.is_pixel_copy.tolist(), strict=True)
    for position, (hit, by_whole) in enumerate(hits, start=1):
        count += hit
        whole_images += by_whole
        if total + position < min_samples:
            continue
        decision = decide(
            count,
            total + position,
            gate=gate,
            confidence=matches.rule.confidence,
            whole_images=whole_images,
        )
        if decision.verdict != "INCONCLUSIVE" or _is_hopeless(decision):
            return position
    return None


def _is_hopeless(decision: Decision) -> bool:
    """Whether the truth lies between the limit and what the floor explains, so nothing decides."""
    if not decision.is_explained or decision.total < EXPLAINED_AFTER:
        return False
    tests = [(decision.count, decision.fail_limit)]
    if decision.whole_images is not None:
        tests.append((decision.whole_images.count, decision.whole_images.fail_limit))
    return all(
        limit >= 1 or log_e_values(count, decision.total, limit=limit)[1] >= decision.required
        for count, limit in tests
    )
