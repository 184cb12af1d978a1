"""The floor: how often does the rule flag images that the model never saw?"""

from collections.abc import Iterator
from dataclasses import dataclass

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import Block, Paragraph, Row, measures, share_row
from memaudit.audit.neighbors.duplicates import find_shared_images
from memaudit.audit.statistics.excess import Excess, excess_over_holdout
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.errors import DataError
from memaudit.wording import counted, listed, plural, short

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
    everyone: Proportion
    """Held-out images that are counted as copies, those near a training image included."""
    copies: Proportion | None
    """The floor: the same without held-out images near a training image; None if all are."""
    paper: Proportion | None
    """Those that the published rule flags among the same."""
    excess: Excess | None
    """The share of copies among the generated images beyond the floor, or None if there is no
    floor or every held-out image is counted."""


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


def check_groups(data: ImageSet, holdout: ImageSet | None) -> None:
    """Refuse groups that cannot be told apart, and held-out images of a group that was trained on.

    Raises:
        DataError: all training images are of one group; the held-out images have no groups, or are
            of groups that the training images are of, too: the message names the first few.
    """
    num_groups, kind = data.num_groups, data.group_kind
    if num_groups is None:
        return
    if num_groups < 2:
        raise DataError(
            f"All {len(data):,} training images in {data.source} are of one {kind}, so that no "
            "second neighbor is of another. Leave {groups_from} out.",
            field="groups_from",
        )
    if holdout is None:
        return
    if holdout.groups_from is None or holdout.groups is None:
        raise DataError(
            f"The training images have groups, and the held-out images in {holdout.source} have "
            "none: a model may know their group from other images of it. Say which images belong "
            "together there, too."
        )
    shared = sorted(set(map(str, data.groups or ())) & set(map(str, holdout.groups)))
    if shared:
        number = sum(str(group) in set(shared) for group in holdout.groups)
        raise DataError(
            f"{number:,} of the {len(holdout):,} held-out images in {holdout.source} are of "
            f"{counted(len(shared), kind, plural(kind))} that the training images are of, too: "
            f"{listed(shared)}. A control must be new to the model: hold out whole "
            f"{plural(kind)}, or give different names to different ones."
        )


def _run(context: Context) -> HoldoutFloor:
    images = context.given_images
    holdout, confidence = images.setting.given_holdout, images.setting.config.rule.confidence
    hits = images.holdout_matches.is_copy
    floor = images.controls.holdout
    excess = None
    if floor is not None:
        excess = excess_over_holdout(context.findings.ratios.copies, floor.copies)
    return HoldoutFloor(
        path=holdout.source,
        fingerprint=holdout.fingerprint,
        num_images=len(holdout),
        everyone=clopper_pearson(int(hits.sum()), len(hits), confidence),
        copies=None if floor is None else floor.copies,
        paper=None if floor is None else floor.paper,
        excess=excess,
    )


def _section(result: HoldoutFloor, page: PageContext) -> Iterator[Block]:
    yield Paragraph(
        f"The same count was taken of {result.num_images:,} held-out images, which are like the "
        "training images but which the model was not trained on. None of them is a copy, so the "
        "share counted there is the floor of false alarms. The excess is the share of generated "
        "images that are copies beyond this floor."
    )
    rows = [_excess_row(result.excess)]
    if result.copies is not None and result.paper is not None:
        rows = [
            share_row("Floor: held-out images counted", result.copies, note=_of(result.copies)),
            share_row("Floor by the published rule", result.paper, note=_of(result.paper)),
            *rows,
        ]
    if result.copies is None or result.everyone.total > result.copies.total:
        rows.insert(
            0,
            share_row(
                "With held-out images near training images",
                result.everyone,
                note=f"{_of(result.everyone)}; those within the duplicate radius of a training "
                "image may be copies of it, so they do not count towards the floor",
            ),
        )
    yield measures(result.everyone.confidence, *rows)
    yield Paragraph(
        f"Held-out images: {short(result.path)}, SHA-256 of the pixels {result.fingerprint}. None "
        "of them occurs in the training set.",
        is_small=True,
    )


def _of(ratio: Proportion) -> str:
    return f"{ratio.count:,} of {ratio.total:,}"


def _excess_row(excess: Excess | None) -> Row:
    label = "Excess over the floor"
    if excess is None:
        note = "no held-out image is left, or every one is counted: nothing sets a copy apart"
        return Row(label, ("–", "–"), note=note, is_headline=True)
    interval = f"{100 * excess.low:.3g} % to {100 * excess.high:.3g} %"
    return Row(label, (f"{100 * excess.value:.3g} %", interval), is_headline=True)


DIAGNOSTIC = Diagnostic(
    title="Controls",
    requires=frozenset({"training", "holdout"}),
    run=_run,
    section=_section,
)
