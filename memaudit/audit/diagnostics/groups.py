"""Groups: how many patients, videos or products are copied, and how many more would be?"""

from collections.abc import Iterator
from dataclasses import dataclass

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import (
    Block,
    Paragraph,
    Row,
    ShareChart,
    Table,
    measures,
    share_row,
)
from memaudit.audit.memorization.findings import CLOPPER_PEARSON
from memaudit.audit.statistics.group_share import GroupDecision, copied_share, judge_groups
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson, describe, level_text
from memaudit.audit.statistics.species_richness import (
    INDEPENDENT,
    SpeciesRichness,
    estimate_richness,
    in_the_long_run,
)
from memaudit.wording import counted, exponential, percent, plural, short

MOST_COPIED = 20
"""Groups that the report lists."""


@dataclass(frozen=True)
class CopiedGroup:
    """A group of which an image is copied."""

    name: str
    hits: int
    """Number of generated images that are copies of its images."""
    num_leaks: int
    """Number of its images that are copied."""


@dataclass(frozen=True)
class CopiedGroups:
    """How many groups of training images are copied."""

    kind: str
    """What a group is: `patient`."""
    num_groups: int
    """Groups of the training images."""
    num_copied: int
    """Groups of which an image is copied, by any of the images judged."""
    num_images: int
    """Images judged that are a random sample of what the source makes."""
    share: Proportion | None
    """The share of groups that these images copy; its interval is for the average over scans of
    that size. None where the size was not fixed before: a gate stopped when it was certain."""
    richness: SpeciesRichness
    """How many groups further samples would copy: `Chao1` and Good and Turing, with groups in the
    place of images."""
    decision: GroupDecision | None
    """The verdict on the share of groups, or None without a limit for it."""
    most_copied: tuple[CopiedGroup, ...]
    """The groups with the most copies, at most 20."""


def _run(context: Context) -> CopiedGroups:
    confidence = context.matches.rule.confidence
    num_groups = context.given_num_groups
    by_group: dict[str, list[int]] = {}
    name_of: dict[int, str] = {}
    for leak in context.findings.leaks:
        assert leak.group is not None
        by_group.setdefault(leak.group, []).append(leak.hits)
        name_of[leak.index] = leak.group
    in_sample = {name_of[int(row)] for row in context.matches.copied[context.matches.is_copy]}
    num_images = len(context.matches)
    is_fixed = context.findings.interval == CLOPPER_PEARSON
    decision = None
    if context.fail_above_groups is not None and is_fixed:
        gate = context.findings.decision
        decision = judge_groups(
            len(in_sample),
            num_groups,
            num_images=num_images,
            limit=context.fail_above_groups,
            confidence=confidence,
            floor=None if gate is None else gate.floor,
        )
    copied = [CopiedGroup(name, sum(hits), len(hits)) for name, hits in by_group.items()]
    copied.sort(key=lambda group: (-group.hits, -group.num_leaks, group.name))
    return CopiedGroups(
        kind=context.group_kind,
        num_groups=num_groups,
        num_copied=len(by_group),
        num_images=num_images,
        share=copied_share(len(in_sample), num_groups, confidence) if is_fixed else None,
        richness=estimate_richness(
            [group.hits for group in copied], num_images=num_groups, confidence=confidence
        ),
        decision=decision,
        most_copied=tuple(copied[:MOST_COPIED]),
    )


def counted_groups(result: CopiedGroups) -> str:
    """`3 of 212 patients`."""
    return (
        f"{result.num_copied:,} of {counted(result.num_groups, result.kind, plural(result.kind))}"
    )


def decision_text(decision: GroupDecision, kind: str) -> str:
    """What the verdict on the groups says."""
    limit, kinds = f"{percent(decision.limit)} %", plural(kind)
    found = f"{decision.count:,} of {decision.total:,} {kinds} copied"
    images = f"scans of {decision.num_images:,} images"
    if decision.verdict == "FAIL":
        return (
            f"By {kind}: FAIL. {found}: {images} copy more than {limit} of them on average, "
            "even without those that would be counted if nothing were copied."
        )
    if decision.verdict == "PASS":
        return f"By {kind}: PASS. {found}: {images} copy less than {limit} of them on average."
    return (
        f"By {kind}: INCONCLUSIVE. {found}, which shows neither that {images} copy less than "
        f"{limit} of them on average nor that they copy more than limit and floor explain, "
        f"{percent(decision.fail_limit)} % (evidence of more "
        f"{exponential(decision.evidence_above)}, where {exponential(decision.required_above)} "
        f"fails; of less {exponential(decision.evidence_below)}, where "
        f"{exponential(decision.required)} passes)."
    )


def _section(result: CopiedGroups, page: PageContext) -> Iterator[Block]:
    kind, kinds = result.kind, plural(result.kind)
    yield Paragraph(
        f"An image of {counted_groups(result)} is nearest to "
        f"{'what is counted' if page.is_explained else 'a copy'}. Images of one {kind} are "
        f"not independent of each other, so {kinds} are counted here: a {kind} with many copies "
        f"counts once, and the second neighbor of a generated image is one of another {kind}."
    )
    if result.share is not None:
        yield measures(
            result.share.confidence,
            share_row(
                f"{kinds.capitalize()} {'nearest to it' if page.is_explained else 'copied'}",
                result.share,
                note=f"{result.share.count:,} of {result.share.total:,} {kinds}; the interval is "
                f"for the average of scans of {result.num_images:,} images, and its unit is the "
                f"{kind}",
            ),
        )
    else:
        yield Paragraph(
            "Sampling stopped when the gate was certain, so their share has no interval: more "
            f"images would copy more {kinds}.",
            is_small=True,
        )
    if result.decision is not None:
        yield Paragraph(decision_text(result.decision, kind))
    if result.most_copied:
        chart = _chart(result, page)
        if chart is not None:
            yield chart
        yield Table(
            (kind.capitalize(), "Copies", "Images copied"),
            tuple(
                Row(short(group.name, 60), (f"{group.hits:,}", f"{group.num_leaks:,}"))
                for group in result.most_copied
            ),
            title=f"{kinds.capitalize()} with the most copies",
        )
    estimate = in_the_long_run(result.richness, kinds, "counted" if page.is_explained else "copied")
    if estimate:
        yield Paragraph(f"{estimate} {INDEPENDENT}")


def _chart(result: CopiedGroups, page: PageContext) -> ShareChart | None:
    """Which share of the generated images copies each group, where their number was fixed before
    and these copies are all among them.
    """
    hits = [group.hits for group in result.most_copied]
    if result.share is None or sum(hits) > page.findings.ratios.copies.count:
        return None
    return ShareChart(
        f"Share of the generated images that copy a {result.kind}, with "
        f"{level_text(result.share.confidence)} intervals; the counts are in the table below",
        tuple(
            (
                short(group.name, 40),
                clopper_pearson(group.hits, result.num_images, result.share.confidence),
                False,
            )
            for group in result.most_copied
        ),
    )


def _lines(result: CopiedGroups) -> Iterator[str]:
    kinds = plural(result.kind)
    if result.share is not None:
        yield (
            f"Share of {kinds} copied, on average over scans of {result.num_images:,} images: "
            f"{describe(result.share)}, counted in {kinds}."
        )
    if result.decision is not None:
        yield decision_text(result.decision, result.kind)
    chao1 = result.richness.chao1
    if chao1 is not None and chao1.high >= result.num_copied + 0.5:
        low, high = f"{chao1.low:,.0f}", f"{chao1.high:,.0f}"
        yield (
            f"With more independent samples, images of {low} to {high} {kinds} might be counted "
            "(Chao1)."
        )


DIAGNOSTIC = Diagnostic(
    title="Groups that leak",
    requires=frozenset({"groups"}),
    run=_run,
    section=_section,
    lines=_lines,
)
