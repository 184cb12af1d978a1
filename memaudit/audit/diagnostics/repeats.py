"""Repeats: does the generator make near-equal images again and again?

Near-equal images are a sign of memorization where no training images are at hand. With them,
repeats that copy a training image are told from those that copy none, which are mode collapse, or
copies of training images that were not given.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import (
    Block,
    Gallery,
    Heading,
    Paragraph,
    Row,
    Table,
    Thumbnail,
)
from memaudit.audit.neighbors.repeats import RepeatCount, Repeats, find_repeats
from memaudit.wording import parse_ranges, percent, short

NUM_TRAIN = 2000
"""Training images that are compared with each other, at most."""
SHOWN_GROUPS = 6
"""Groups that the page shows."""
SHOWN_MEMBERS = 6
"""Images of a group that it shows, besides the counterexamples."""


@dataclass(frozen=True)
class ScanRepeats:
    """Near-equal images among the generated ones, and among the training images."""

    repeats: Repeats
    """Positions are those of the generated images, counted from 0; in a screened scan, of those
    that chance drew."""
    num_copies: int
    """Repeated images that are copies of a training image."""
    train: RepeatCount
    """Near-equal images among the training images, or 2,000 of them chosen at random."""


def _run(context: Context) -> ScanRepeats:
    images = context.given_images
    setting = images.setting
    rule, flips = setting.config.rule, images.index.flips
    device = setting.config.execution.device
    found = find_repeats(
        images.generated,
        duplicate_rms=rule.duplicate_rms,
        flips=flips,
        device=device,
        progress=setting.progress,
    )
    repeated = parse_ranges(found.repeated) if found.repeated is not None else []
    data = setting.data
    number = min(len(data), NUM_TRAIN)
    chosen = np.sort(np.random.default_rng(0).choice(len(data), number, replace=False))
    train = find_repeats(
        np.asarray(data.images[chosen]),
        duplicate_rms=rule.duplicate_rms,
        flips=flips,
        device=device,
        progress=setting.progress,
    )
    return ScanRepeats(
        repeats=found,
        num_copies=int(context.matches.is_copy[repeated].sum()),
        train=train.count,
    )


def _section(result: ScanRepeats, page: PageContext) -> Iterator[Block]:
    yield Paragraph(_sentence(result))
    yield from repeat_blocks(
        result.repeats,
        page.generated,
        page.keys,
        control="Training",
        controls=result.train,
    )


def repeat_blocks(
    found: Repeats,
    generated: np.ndarray,
    keys: Sequence[int | str],
    *,
    control: str,
    controls: RepeatCount | None,
) -> Iterator[Block]:
    """A table of the counts, and the largest groups with their counterexamples.

    Args:
        found: repeats among the generated images.
        generated: uint8 [N, C, H, W].
        keys: their seeds or names.
        control: what the control is made of.
        controls: how often its images repeat; None without any.
    """
    rows = [Row("Generated", _cells(found.count))]
    if controls is not None:
        rows.append(Row(control, _cells(controls)))
    yield Table(
        ("Images", "Number", "Near-equal to another", "Groups", "Largest", "As if drawn from"),
        tuple(rows),
        title="Repeats",
    )
    yield Paragraph(
        f"Two images are near-equal within {found.duplicate_rms:g} gray levels (RMS); a group is "
        "what such pairs connect. The last column is the number of equally likely pictures that "
        "would repeat as often. Repeats show that a generator makes few pictures, not why: it may "
        "know them by heart, or may have collapsed to them.",
        is_small=True,
    )

    def thumbnail(row: int, what: str) -> Thumbnail:
        key = short(keys[row], 40)
        named = key if isinstance(keys[row], str) else f"seed {key}"
        return Thumbnail(generated[row], f"Generated image {key}, {what}", (named, what))

    for number, group in enumerate(found.groups[:SHOWN_GROUPS], start=1):
        members = [row for row in group.rows if row != group.farthest][: SHOWN_MEMBERS - 1]
        pictures = [
            thumbnail(members[0], "first of the group"),
            *(thumbnail(row, "in the group") for row in members[1:]),
            thumbnail(group.farthest, f"least alike: {group.farthest_rms:.2f}"),
        ]
        if group.outside is not None:
            pictures.append(thumbnail(group.outside, f"not in the group: {group.outside_rms:.2f}"))
        yield Heading(f"Group {number}: {group.size:,} images")
        yield Gallery(tuple(pictures))


def _cells(count: RepeatCount) -> tuple[str, ...]:
    number = count.effective_number
    return (
        f"{count.num_images:,}",
        f"{count.num_repeated:,} ({percent(count.num_repeated / count.num_images)} %)",
        f"{count.num_groups:,}",
        f"{count.largest:,}",
        "–" if number is None else f"about {number:,.0f}",
    )


_COPYING_NONE = "a mode collapse, or copies of images that were not given"


def _sentence(result: ScanRepeats) -> str:
    count, train = result.repeats.count, result.train
    text = count.sentence
    copies, rest = result.num_copies, count.num_repeated - result.num_copies
    if copies and rest:
        text += f": {copies:,} copy a training image, and {rest:,} copy none: {_COPYING_NONE}"
    elif copies:
        text += ", and all of them copy a training image"
    elif rest:
        text += f", and none of them copies a training image: {_COPYING_NONE}"
    number = f"{train.num_repeated:,} are" if train.num_repeated else "none is"
    return f"{text}. Of {train.num_images:,} training images, {number}."


def _lines(result: ScanRepeats) -> Iterator[str]:
    if result.repeats.count.num_repeated:
        yield _sentence(result)


DIAGNOSTIC = Diagnostic(
    title="Repeats",
    requires=frozenset({"images"}),
    run=_run,
    section=_section,
    lines=_lines,
)
