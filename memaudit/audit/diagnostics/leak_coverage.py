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
    text = in_the_long_run(result, "training images")
    if text:
        yield Paragraph(f"{text} {INDEPENDENT}")


def in_the_long_run(result: SpeciesRichness, kinds: str) -> str:
    """How many images or groups further samples would show, or an empty text without copies.

    Args:
        result: their richness.
        kinds: what is counted: `training images`, `patients`.
    """
    if result.chao1 is None or result.unseen_share is None:
        return ""
    level = level_text(result.confidence)
    low, high = f"{result.chao1.low:,.0f}", f"{result.chao1.high:,.0f}"
    if result.chao1.value is None:
        none = "No image" if kinds == "training images" else f"None of the {kinds}"
        estimate = (
            f"{none} was copied exactly twice, so their number in the long run cannot be "
            f"estimated: with {level} confidence it is from {low} to {high}"
        )
    else:
        estimate = (
            f"The number of {kinds} that are copied in the long run is estimated to be at "
            f"least {result.chao1.value:,.0f} (Chao1, {level} interval {low} to {high})"
        )
    unseen = "images" if kinds == "training images" else kinds
    return (
        f"More samples may reveal more. {estimate}. Of the copies in further samples, "
        f"{percent(result.unseen_share.value)} % are expected to be of {unseen} not copied so far "
        f"(Good and Turing, {percent(result.unseen_share.low)} % to "
        f"{percent(result.unseen_share.high)} %)."
    )


INDEPENDENT = (
    "Both presuppose that the images judged are independent draws, as those sampled from a model "
    "are; a folder of pictures that somebody chose is not."
)


def _lines(result: SpeciesRichness) -> Iterator[str]:
    chao1 = result.chao1
    if chao1 is None or chao1.high < result.num_leaking + 0.5:
        return
    if chao1.value is None:
        low, high = f"{chao1.low:,.0f}", f"{chao1.high:,.0f}"
        number = f"up to {high}" if low == high else f"{low} to {high}"
        yield (
            f"With more independent samples, {number} might leak (too few repeats for an estimate)."
        )
    elif round(chao1.value) <= result.num_leaking:
        yield f"With more independent samples, up to {chao1.high:,.0f} might leak (Chao1)."
    else:
        yield (
            f"With more independent samples, at least about {chao1.value:,.0f} would leak "
            f"({chao1.low:,.0f} to {chao1.high:,.0f}, Chao1)."
        )


DIAGNOSTIC = Diagnostic(
    title="Training images that leak",
    requires=frozenset(),
    run=_run,
    section=_section,
    lines=_lines,
)
