"""Worst class: would every class of a conditional model pass the gate by itself?"""

from collections.abc import Iterator

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import Block, Paragraph
from memaudit.audit.memorization.findings import MIXTURE_SEQUENCE
from memaudit.audit.statistics.worst_class import WorstClass, judge_classes
from memaudit.wording import counted, some


def _run(context: Context) -> WorstClass | None:
    """The verdict on the classes that images were generated for; None without a gate."""
    if context.fail_above is None:
        return None
    assert context.class_index is not None
    return judge_classes(
        context.matches.is_copy,
        context.class_index,
        limit=context.fail_above,
        confidence=context.matches.rule.confidence,
        sequential=context.findings.interval == MIXTURE_SEQUENCE,
        floor=None if context.findings.decision is None else context.findings.decision.floor,
    )


def _described(result: WorstClass) -> str:
    """What the verdict of the gate says of each class."""
    among = counted(result.num_classes, "class", "classes")
    if result.verdict == "FAIL":
        which = some([str(c) for c in result.failing])
        return (
            f"By class: FAIL. {len(result.failing):,} of {among} "
            f"{'is' if len(result.failing) == 1 else 'are'} above the limit ({which}), corrected "
            "for the number of classes."
        )
    if result.verdict == "PASS":
        return f"By class: PASS. Each of {among} is below the limit by itself."
    return (
        f"By class: INCONCLUSIVE. {len(result.undecided):,} of {among} had too few images to be "
        "shown below the limit, and none is shown to be above it."
    )


def _section(result: WorstClass, page: PageContext) -> Iterator[Block]:
    yield Paragraph(
        f"{_described(result)} The gate's verdict is about all images together, and a class that "
        "is rarely generated may copy more."
    )


def _lines(result: WorstClass) -> Iterator[str]:
    yield _described(result)


DIAGNOSTIC = Diagnostic(
    title="Classes", requires=frozenset({"classes"}), run=_run, section=_section, lines=_lines
)
