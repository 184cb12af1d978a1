"""Species richness of the leak: how many more training images would leak with more samples?"""

from collections.abc import Iterator

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import Block, Paragraph
from memaudit.audit.statistics.species_richness import (
    INDEPENDENT,
    SpeciesRichness,
    estimate_richness,
    in_the_long_run,
)


def _run(context: Context) -> SpeciesRichness:
    return estimate_richness(
        [leak.hits for leak in context.findings.leaks],
        num_images=context.num_train,
        confidence=context.matches.rule.confidence,
    )


def _section(result: SpeciesRichness, page: PageContext) -> Iterator[Block]:
    text = in_the_long_run(result, "training images", "counted" if page.is_explained else "copied")
    if text:
        yield Paragraph(f"{text} {INDEPENDENT}")


def _lines(result: SpeciesRichness) -> Iterator[str]:
    chao1 = result.chao1
    if chao1 is None or chao1.high < result.num_leaking + 0.5:
        return
    if chao1.value is None:
        low, high = f"{chao1.low:,.0f}", f"{chao1.high:,.0f}"
        number = f"up to {high}" if low == high else f"{low} to {high}"
        yield (
            f"With more independent samples, {number} training images "
            "might be counted (too few repeats for an estimate)."
        )
    elif round(chao1.value) <= result.num_leaking:
        yield (
            f"With more independent samples, up to {chao1.high:,.0f} training images might be "
            "counted (Chao1)."
        )
    else:
        yield (
            f"With more independent samples, at least about {chao1.value:,.0f} training "
            f"images would be counted ({chao1.low:,.0f} to {chao1.high:,.0f}, Chao1)."
        )


DIAGNOSTIC = Diagnostic(
    title="Training images that leak",
    requires=frozenset(),
    run=_run,
    section=_section,
    lines=_lines,
)
