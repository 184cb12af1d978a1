"""The floor: how often does the rule flag images that the model never saw?"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import Block, Paragraph, Row, measures, share_row
from memaudit.audit.neighbors.duplicates import find_shared_images
from memaudit.audit.statistics.excess import Excess, excess_over_holdout
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson, describe
from memaudit.data.images import ImageSet
from memaudit.errors import DataError
from memaudit.wording import short

LISTED = 5
"""Number of held-out images that a message names."""


@dataclass(frozen=True)
class HoldoutFloor:
    """How often the rule flags images that cannot be copies."""

    path: str
    """Where the held-out images come from."""
    fingerprint: str
    """SHA-256 of their pixels."""
    num_images: int
    distinct: Proportion
    """Held-out images that the distinct rule flags."""
    paper: Proportion
    """Held-out images that the published rule flags."""
    excess: Excess | None
    """The distinct ratio of the generated images beyond the floor, or None if the rule flags every
    held-out image."""


def check_disjoint(data: ImageSet, holdout: ImageSet) -> None:
    """Refuse held-out images that occur in the training set, since the model has seen them.

    Raises:
        DataError: some do; the message names the first few.
    """
    overlap = find_shared_images(data, holdout)
    if not overlap:
        return
    pairs = ", ".join(
        f"{holdout.names[found.holdout]} = {data.names[found.train]}" for found in overlap[:LISTED]
    )
    more = f" and {len(overlap) - LISTED} more" if len(overlap) > LISTED else ""
    raise DataError(
        f"{len(overlap)} of the {len(holdout)} held-out images in {holdout.source} occur in the "
        f"training set, pixel by pixel: {pairs}{more}. A control must be new to the model: leave "
        "them out."
    )


def _run(context: Context) -> HoldoutFloor:
    setting = context.setting
    holdout, confidence = setting.given_holdout, setting.config.rule.confidence
    judged = context.given_images.holdout_matches

    def share(hits: np.ndarray) -> Proportion:
        return clopper_pearson(int(hits.sum()), len(hits), confidence)

    floor = share(judged.memorized_distinct)
    return HoldoutFloor(
        path=holdout.source,
        fingerprint=holdout.fingerprint,
        num_images=len(holdout),
        distinct=floor,
        paper=share(judged.memorized_paper),
        excess=excess_over_holdout(context.findings.ratios.distinct, floor),
    )


def _section(result: HoldoutFloor, page: PageContext) -> Iterator[Block]:
    yield Paragraph(
        f"The same rule was applied to {result.num_images:,} held-out images, which are like the "
        "training images but which the model was not trained on. None of them is a copy, so the "
        "share flagged there is the floor of false alarms. The excess is the share of generated "
        "images that are copies beyond this floor."
    )
    yield measures(
        result.distinct.confidence,
        share_row(
            "Floor: held-out images flagged", result.distinct, note=_counted(result.distinct)
        ),
        share_row("Floor by the published rule", result.paper, note=_counted(result.paper)),
        _excess_row(result.excess),
    )
    yield Paragraph(
        f"Held-out images: {short(result.path)}, SHA-256 of the pixels {result.fingerprint}. None "
        "of them occurs in the training set.",
        is_small=True,
    )


def _counted(ratio: Proportion) -> str:
    return f"{ratio.count:,} of {ratio.total:,}"


def _excess_row(excess: Excess | None) -> Row:
    label = "Excess over the floor"
    if excess is None:
        note = "every held-out image is flagged, so nothing sets a copy apart"
        return Row(label, ("–", "–"), note=note, is_headline=True)
    interval = f"{100 * excess.low:.3g} % to {100 * excess.high:.3g} %"
    return Row(label, (f"{100 * excess.value:.3g} %", interval), is_headline=True)


def _lines(result: HoldoutFloor) -> Iterator[str]:
    text = (
        f"The same rule flags {result.distinct.count:,} of {result.num_images:,} held-out images: "
        f"{describe(result.distinct)}."
    )
    if result.excess is not None:
        text += (
            f" Copies beyond that floor: {100 * result.excess.value:.2f} % "
            f"({100 * result.excess.low:.2f} % to {100 * result.excess.high:.2f} %)."
        )
    yield text


DIAGNOSTIC = Diagnostic(
    title="Controls",
    requires=frozenset({"images", "holdout"}),
    run=_run,
    section=_section,
    lines=_lines,
)
