"""The blocks of a section, ready for templates/blocks.html.j2.

Charts are drawn, pictures embedded, and what is long is folded away in part.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Any

from memaudit.audit.diagnostics.section import (
    Block,
    Gallery,
    Heading,
    LineChart,
    Paragraph,
    ShareChart,
    Table,
    join_tables,
)
from memaudit.audit.report.charts import draw_line_chart, draw_shares
from memaudit.audit.report.html import embed, fold_after
from memaudit.audit.report.pictures import Pictures
from memaudit.audit.report.words import say

OPEN_ROWS = 8
"""Rows of a chart of shares that stand open; of a longer table, those that stand out do."""
OPEN_GALLERIES = 1
"""Galleries with a heading each of one section that stand open."""
OPEN_PICTURES = 7
"""Pictures of a gallery that stand open."""


@dataclass(frozen=True)
class RenderedBlock:
    """A block of a section, ready for the template of its kind."""

    kind: str
    value: Any


def rendered(blocks: Iterable[Block], shown: Pictures, title: str) -> tuple[RenderedBlock, ...]:
    """Blocks, ready for templates/blocks.html.j2: charts that follow each other are side by side,
    and what is long is folded away.

    Args:
        blocks: those of a section.
        shown: what is shown of images.
        title: of the section.
    """
    found: list[RenderedBlock] = []
    galleries: list[list[RenderedBlock]] = []
    given = join_tables(list(blocks))
    for block, following in zip_longest(given, given[1:]):
        if isinstance(block, Gallery) and galleries:
            galleries[-1] += _open_and_folded(block, shown, title)
            continue
        if isinstance(block, Heading) and isinstance(following, Gallery):
            galleries.append([_render(block, shown)])
            continue
        found += _first_galleries(galleries)
        galleries = []
        last = found[-1] if found else None
        if isinstance(block, LineChart) and last is not None and last.kind == "charts":
            found[-1] = RenderedBlock("charts", (*last.value, draw_line_chart(block)))
        else:
            found += _open_and_folded(block, shown, title)
    return (*found, *_first_galleries(galleries))


def _first_galleries(galleries: list[list[RenderedBlock]]) -> Iterator[RenderedBlock]:
    """The first of galleries with headings, and the others folded away."""
    first, others = fold_after(galleries, OPEN_GALLERIES)
    yield from chain(*first)
    if others:
        yield _fold(say("fold.groups", count=len(others)), *chain(*others))


def _open_and_folded(block: Block, shown: Pictures, title: str) -> Iterator[RenderedBlock]:
    """A block, of which a long one is folded away in part."""
    if isinstance(block, ShareChart):
        drawn = draw_shares(block)
        rows, more_rows = map(tuple, fold_after(drawn.rows, OPEN_ROWS))
        yield RenderedBlock("shares", replace(drawn, rows=rows))
        if more_rows:
            text = say("fold.shares", count=len(more_rows))
            yield _fold(text, RenderedBlock("shares", replace(drawn, rows=more_rows)))
    elif isinstance(block, Table) and len(block.rows) > OPEN_ROWS:
        name = block.title or title
        marked = tuple(row for row in block.rows if row.is_headline)
        others = tuple(row for row in block.rows if not row.is_headline)
        if marked and others:
            yield _render(replace(block, rows=marked), shown)
            folded = _render(replace(block, rows=others), shown)
            yield _fold(say("fold.rows", count=len(others), title=name), folded)
        else:
            yield _fold(say("fold.table", count=len(block.rows), title=name), _render(block, shown))
    elif isinstance(block, Gallery):
        pictures, more = map(tuple, fold_after(block.pictures, OPEN_PICTURES))
        yield _render(Gallery(pictures), shown)
        if more:
            yield _fold(say("fold.pictures", count=len(more)), _render(Gallery(more), shown))
    else:
        yield _render(block, shown)


def _fold(text: str, *blocks: RenderedBlock) -> RenderedBlock:
    return RenderedBlock("fold", (text, blocks))


def _render(block: Block, shown: Pictures) -> RenderedBlock:
    """Prepare a block for its template: draw charts and embed pictures."""
    match block:
        case LineChart():
            return RenderedBlock("charts", (draw_line_chart(block),))
        case ShareChart():
            return RenderedBlock("shares", draw_shares(block))
        case Gallery():
            pictures = [
                (embed(each.image, each.alt, shown), each.caption) for each in block.pictures
            ]
            return RenderedBlock("gallery", pictures)
        case Table():
            return RenderedBlock("table", block)
        case Heading():
            return RenderedBlock("heading", block.text)
        case Paragraph():
            return RenderedBlock("small" if block.is_small else "paragraph", block.text)
