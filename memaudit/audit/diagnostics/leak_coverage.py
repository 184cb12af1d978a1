"""Species richness of the leak: how many more training images would leak with more samples?"""

from collections.abc import Iterator

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import Block, Paragraph
from memaudit.audit.statistics.intervals import level_text
from memaudit.audit.statistics.species_richness import SpeciesRichness, estimate_richness
from memaudit.wording import percent


def _run(context: Context) -> SpeciesRichness:
    return estimate_richness(
        [leak.hits for leak in context.findings.leaks],
        num_images=context.num_train,
        confidence=context.matches.rule.confidence,
    )


def _section(result: SpeciesRichness, page: PageContext) -> Iterator[Block]:
    if result.chao1 is None or result.unseen_share is None:
        return
    level = level_text(result.confidence)
    yield Paragraph(
        "More samples may reveal more. The number of training images that are copied in the "
        f"long run is estimated to be at least {result.chao1.value:,.0f} (Chao1, {level} interval "
        f"{result.chao1.low:,.0f} to {result.chao1.high:,.0f}). Of the copies in further samples, "
        f"{percent(result.unseen_share.value)} % are expected to be of images not copied so far "
        f"(Good and Turing, {percent(result.unseen_share.low)} % to "
        f"{percent(result.unseen_share.high)} %)."
    )


def _lines(result: SpeciesRichness) -> Iterator[str]:
    chao1 = result.chao1
    if chao1 is None or chao1.high < result.num_leaking + 0.5:
        return
    if round(chao1.value) <= result.num_leaking:
        yield f"With more samples, up to {chao1.high:,.0f} might leak (Chao1)."
    else:
        yield (
            f"With more samples, at least about {chao1.value:,.0f} would leak "
            f"({chao1.low:,.0f} to {chao1.high:,.0f}, Chao1)."
        )


DIAGNOSTIC = Diagnostic(
    title="Training images that leak",
    requires=frozenset(),
    run=_run,
    section=_section,
    lines=_lines,
)
