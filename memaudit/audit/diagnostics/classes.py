"""Classes: which classes of a conditional model are copied from, corrected for their number?"""

from collections.abc import Iterator, Sequence

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import (
    Block,
    Paragraph,
    Row,
    ShareChart,
    Table,
)
from memaudit.audit.statistics.intervals import interval_text, level_text
from memaudit.audit.statistics.per_class import ClassRatio, per_class
from memaudit.wording import percent, short

SHOWN_CLASSES = 20
"""Classes in the chart; the table has all."""


def _run(context: Context) -> tuple[ClassRatio, ...]:
    assert context.class_index is not None
    return per_class(
        context.matches.is_copy,
        context.class_index,
        confidence=context.matches.rule.confidence,
        limit=context.fail_above,
    )


def _section(result: tuple[ClassRatio, ...], page: PageContext) -> Iterator[Block]:
    confidence = page.rule.confidence
    if page.fail_above is None:
        test = "Each class is compared with all others by Fisher’s exact test"
    else:
        limit = percent(page.fail_above)
        test = f"Each class is compared with the limit of {limit} % by the exact binomial test"
    notable = sum(row.stands_out for row in result)
    stand = {0: "No class stands", 1: "1 class stands"}.get(notable, f"{notable} classes stand")
    yield Paragraph(
        f"{test}; p is corrected for the number of classes (Holm), so that the chance that any "
        f"class stands out without reason is at most {100 - 100 * confidence:g} %. {stand} out."
    )
    names = page.data.class_names
    largest = sorted(result, key=lambda row: -row.proportion.ratio)[:SHOWN_CLASSES]
    if len(result) > 1:
        some = "Share of copies by class"
        if len(largest) < len(result):
            some = f"The {len(largest)} of {len(result):,} classes with the largest share of copies"
        yield ShareChart(
            f"{some}, with {level_text(confidence)} intervals; the numbers are in the table below",
            tuple((_name(row, names), row.proportion, row.stands_out) for row in largest),
            page.fail_above,
        )
    yield Table(
        (
            "Class",
            "Copies",
            "Images",
            "Share",
            f"{level_text(confidence)} interval",
            "p, corrected",
        ),
        tuple(
            Row(
                _name(row, names),
                (
                    f"{row.proportion.count:,}",
                    f"{row.proportion.total:,}",
                    f"{percent(row.proportion.ratio)} %",
                    interval_text(row.proportion),
                    f"{row.p_adjusted:.2g}",
                ),
                is_headline=row.stands_out,
            )
            for row in result
        ),
        title="Classes",
    )


def _name(row: ClassRatio, names: Sequence[str]) -> str:
    name = short(names[row.class_index], 40) if names else str(row.class_index)
    return f"{name}, stands out" if row.stands_out else name


DIAGNOSTIC = Diagnostic(
    title="Classes", requires=frozenset({"classes"}), run=_run, section=_section
)
