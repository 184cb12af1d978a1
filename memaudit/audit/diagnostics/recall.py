"""The recall of the rule: which copies of these training images would it have seen?

Transformed copies of the user's own training images are planted and judged exactly as the generated
images are. docs/statistics.md says how to read it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import Block, Paragraph, Row, Table
from memaudit.audit.memorization.controls import RuleCount
from memaudit.audit.memorization.matches import match_images
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.integer_distances import pair_distances
from memaudit.audit.neighbors.rules.registry import PIXELS
from memaudit.audit.neighbors.units import largest_squared_distance
from memaudit.audit.statistics.intervals import (
    Proportion,
    clopper_pearson,
    interval_text,
    level_text,
)
from memaudit.data.images import ImageSet
from memaudit.data.transformed_copies import PlantedKind, plant_copies
from memaudit.progress import Progress, silent
from memaudit.wording import joined

NUM_ORIGINALS = 100
"""Training images that are copied."""
NUM_ENCODED = 25
"""Training images that are copied where an encoder has to see every copy."""
NAMED = ("exact", "noise-8", "jpeg-75")
"""Copies whose recall the sentence always states."""
NAMED_IF_MISSED = ("shift-1", "crop", "mirror", "half")
"""Copies that the sentence states where the rule sees fewer than half of them."""


@dataclass(frozen=True)
class PlantedCopies:
    """Copies of one kind, and how many of them the rule sees."""

    key: str
    """Name of the transformation, such as `shift-1`: 1 pixel at 32×32, in proportion elsewhere."""
    phrase: str
    """What completes `copies …`, such as `shifted by 1 pixel`."""
    seen: Proportion
    """Copies that the rule flags, with the original or a duplicate of it as the nearest. Copies
    that equal their original (a mirrored image of one color) are left out, but for exact ones."""
    by_rule: tuple[RuleCount, ...]
    """How many each rule sees, where several count; empty where whole images alone do."""


@dataclass(frozen=True)
class Recall:
    """Which copies of the training images the rule sees."""

    num_originals: int
    """Training images that were copied, drawn at random by the training set's fingerprint."""
    planted: tuple[PlantedCopies, ...]
    """One for each kind of copy."""

    @property
    def sentence(self) -> str:
        """What would have been seen, and what missed, in one sentence."""
        by_key = {copies.key: copies for copies in self.planted}
        seen = [by_key[key] for key in NAMED if key in by_key]
        missed = [
            by_key[key]
            for key in NAMED_IF_MISSED
            if key in by_key and 2 * by_key[key].seen.count < by_key[key].seen.total
        ]
        counts = _counts([*seen, *missed])
        several = any(copies.by_rule for copies in self.planted)
        text = f"The rule{'s' * several} would have seen {joined(counts[: len(seen)])}"
        if missed:
            text += f", but only {joined(counts[len(seen) :])}"
        return text + "."


def recall_of_rule(
    index: ImageSearch,
    data: ImageSet,
    rule: Rule | None = None,
    *,
    num_originals: int = NUM_ORIGINALS,
    progress: Progress = silent,
) -> Recall:
    """Plant transformed copies of training images, and count those that the rule sees.

    A copy counts as seen if and only if the rule flags it and names the original or a duplicate of
    it, in pixels within `duplicate_rms`; of a copy that is half of another image, either of both.

    Args:
        index: of the training images, at least 2; what the scan searches.
        data: the training images. Their fingerprint decides which are copied, so that two scans
            of the same images plant the same copies.
        rule: what counts as a copy; None means the published rule, `Rule()`.
        num_originals: most training images to copy, ≥ 1; fewer if they are large.
        progress: told how many copies have been judged.
    """
    rule = Rule() if rule is None else rule
    rng = np.random.default_rng(int(data.fingerprint[:16], 16))
    planted = plant_copies(data.images, rng, num_originals=num_originals)

    # All at once, since a search has a fixed cost.
    copies = np.concatenate([each.copies for each in planted])
    originals = np.concatenate([each.originals for each in planted])
    matches = match_images(index, copies, rule, progress=progress)
    others = np.concatenate([each.others for each in planted])

    def is_named(found: np.ndarray) -> np.ndarray:
        named: np.ndarray = _are_duplicates(index, found, originals, rule)
        named |= _are_duplicates(index, found, others, rule)
        return named

    seen = matches.is_copy & is_named(matches.copied)
    credited = {PIXELS: matches.nn1, **{each.rule: each.index for each in matches.finds}}
    by_rule = {
        name: _split_counts(hits & is_named(np.maximum(credited[name], 0)), planted)
        for name, hits in matches.by_rule.items()
    }
    ends = np.cumsum([len(each.copies) for each in planted])
    return Recall(
        num_originals=max(len(each.originals) for each in planted),
        planted=tuple(
            PlantedCopies(
                each.kind.key,
                each.kind.phrase,
                clopper_pearson(int(hits.sum()), len(hits), rule.confidence),
                tuple(RuleCount(name, counts[number]) for name, counts in by_rule.items()),
            )
            for number, (each, hits) in enumerate(
                zip(planted, np.split(seen, ends[:-1]), strict=True)
            )
        ),
    )


def _split_counts(seen: np.ndarray, planted: Sequence[PlantedKind]) -> list[int]:
    """How many of each kind are seen, of all copies in their order, bool [B]."""
    ends = np.cumsum([len(each.copies) for each in planted])
    return [int(hits.sum()) for hits in np.split(seen, ends[:-1])]


def _are_duplicates(
    index: ImageSearch, found: np.ndarray, originals: np.ndarray, rule: Rule
) -> np.ndarray:
    """Whether the images found are the originals or duplicates of them: bool [B].

    Args:
        index: of the training images.
        found, originals: positions, int64 [B] each.
    """
    rows = index.images.reshape(len(index.images), -1)
    copied, position = np.unique(originals, return_inverse=True)
    images = index.images[copied]
    S = [
        pair_distances(
            each.reshape(len(each), -1), rows, position.ravel(), found, device=index.device
        )
        for each in ([images, images[..., ::-1].copy()] if index.flips else [images])
    ]
    limit = largest_squared_distance(rule.duplicate_rms, images.shape[1:])
    near: np.ndarray = np.minimum.reduce(S) <= limit
    return near


def _run(context: Context) -> Recall:
    images = context.given_images
    setting = images.setting
    return recall_of_rule(
        images.index,
        setting.data,
        setting.config.rule,
        num_originals=NUM_ORIGINALS if images.index.exact else NUM_ENCODED,
        progress=setting.progress,
    )


def _counts(planted: Sequence[PlantedCopies]) -> list[str]:
    """`100 of 100 exact copies`, `97 with noise of 8 levels`: the total where it changes."""
    total = None
    texts = []
    for copies in planted:
        seen = copies.seen
        of = f" of {seen.total:,}" if seen.total != total else ""
        texts.append(f"{seen.count:,}{of} {_name(copies)}")
        total = seen.total
    return texts


def _name(copies: PlantedCopies) -> str:
    return "exact copies" if copies.key == "exact" else copies.phrase


def _section(result: Recall, page: PageContext) -> Iterator[Block]:
    yield Paragraph(
        "The verdict counts near-exact copies. To learn what that means for these images, "
        f"transformed copies of {result.num_originals:,} of the training images were planted and "
        f"judged exactly as the generated images were. {result.sentence}"
    )
    rows = tuple(
        Row(
            _name(copies),
            (
                f"{copies.seen.count:,} of {copies.seen.total:,}",
                interval_text(copies.seen),
                *(f"{each.count:,}" for each in copies.by_rule),
            ),
        )
        for copies in result.planted
    )
    yield Table(
        (
            *("Copies", "Seen", f"{level_text(page.rule.confidence)} interval"),
            *(f"by {each.rule}" for each in result.planted[0].by_rule),
        ),
        rows,
        title="Copies seen",
    )
    yield Paragraph(
        "A copy is seen if the rule flags it and its nearest training image is the original or a "
        "duplicate of it. Copies that a transformation left equal to their original are not "
        "counted.",
        is_small=True,
    )


DIAGNOSTIC = Diagnostic(
    title="What the rule sees",
    requires=frozenset({"training"}),
    run=_run,
    section=_section,
)
