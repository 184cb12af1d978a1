"""Classes: which classes of a conditional model are copied from, corrected for their number?"""

from collections.abc import Iterator

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import (
    Block,
    Paragraph,
    Row,
    Table,
)
from memaudit.audit.statistics.intervals import interval_text, level_text
from memaudit.audit.statistics.per_class import ClassRatio, per_class
from memaudit.wording import percent, short


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
                (short(names[row.class_index], 40) if names else str(row.class_index))
                + (", stands out" if row.stands_out else ""),
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


DIAGNOSTIC = Diagnostic(
    title="Classes", requires=frozenset({"classes"}), run=_run, section=_section
)
