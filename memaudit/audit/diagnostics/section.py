"""What a diagnostic shows: paragraphs, tables, charts and pictures, for a page or a terminal.

A diagnostic supplies the content; the page (report/page.py) and the terminal (cli/scan_tables.py)
decide how it looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from memaudit.audit.statistics.intervals import Estimate, Proportion, interval_text, level_text
from memaudit.wording import percent


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text."""

    text: str
    is_small: bool = False
    """Whether it is a remark below the block that it explains."""


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    label: str
    cells: tuple[str, ...]
    """One cell for each column but the first."""
    note: str = ""
    """A remark below the label, in small print."""
    is_headline: bool = False
    """Whether the row stands out."""


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows and whose other columns hold numbers."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    title: str = ""
    """What the table shows, for screen readers and for the terminal."""


Stroke = Literal["solid", "dashed", "dotted"]
"""How a line is drawn. Strokes differ, since colors do not survive print or color blindness."""
STROKES: tuple[Stroke, ...] = ("solid", "dashed", "dotted")


@dataclass(frozen=True)
class Curve:
    """A line with its interval, at the values of x where it is known."""

    name: str
    stroke: Stroke
    points: tuple[tuple[float, Estimate], ...]
    """Pairs of x and y, with x ascending or descending."""


@dataclass(frozen=True)
class LineChart:
    """Curves over x on a logarithmic axis."""

    title: str
    x_label: str
    curves: tuple[Curve, ...]
    y_range: tuple[int, int] | None = None
    """Ends of a linear axis for y, or None for a logarithmic one that fits the curves."""


@dataclass(frozen=True)
class ShareChart:
    """Shares with their intervals, on one axis from 0."""

    title: str
    rows: tuple[tuple[str, Proportion, bool], ...]
    """Name, share, and whether it stands out."""
    limit: float | None = None
    """A share to mark."""


@dataclass(frozen=True)
class Thumbnail:
    """A picture with its caption."""

    image: np.ndarray
    """uint8 [C, H, W]."""
    alt: str
    caption: tuple[str, ...]
    """Lines below the picture."""


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    pictures: tuple[Thumbnail, ...]


Block = Paragraph | Heading | Table | LineChart | ShareChart | Gallery
"""A part of a section."""


def measures(confidence: float, *rows: Row) -> Table:
    """Make a table of single numbers with intervals. Such tables in one section are joined."""
    return Table(("Measure", "Value", f"{level_text(confidence)} interval"), rows)


def share_row(label: str, ratio: Proportion, *, note: str = "", is_headline: bool = False) -> Row:
    """Make the row of a proportion for a table of `measures`."""
    cells = (f"{percent(ratio.ratio)} %", interval_text(ratio))
    return Row(label, cells, note=note, is_headline=is_headline)


def join_tables(blocks: Sequence[Block]) -> list[Block]:
    """Join tables with the same columns that are separated by nothing but remarks."""
    joined: list[Block] = []
    for block in blocks:
        position = _last_but_remarks(joined)
        last = joined[position] if position >= 0 else None
        if isinstance(block, Table) and isinstance(last, Table) and block.columns == last.columns:
            rows = last.rows + block.rows
            joined[position] = Table(last.columns, rows, last.title or block.title)
        else:
            joined.append(block)
    return joined


def _last_but_remarks(blocks: Sequence[Block]) -> int:
    """Position of the last block that is not a remark, or -1."""
    position = len(blocks) - 1
    while position >= 0:
        block = blocks[position]
        if not (isinstance(block, Paragraph) and block.is_small):
            break
        position -= 1
    return position
