"""A page of memorization ratios: charts with their tables, one HTML file that needs no network.

What it says comes from who makes it; how it looks is in the audit's templates, curves.html.j2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from memaudit.audit.report.charts import RATIO_HEIGHT, RATIO_WIDTH, RatioChart
from memaudit.audit.report.html import render_template
from memaudit.audit.statistics.intervals import Proportion
from memaudit.wording import percent


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    text: tuple[str, ...]
    """Paragraphs."""
    chart: RatioChart | None
    header: tuple[str, ...]
    """The table's header; the first column names the row, the others hold numbers or words."""
    rows: tuple[tuple[str, ...], ...]
    links: tuple[str, ...] = ()
    """Where the name of each row leads; none for names that lead nowhere."""


def render_curves(
    *,
    title: str,
    lead: str,
    sections: Sequence[Section],
    intervals: str = "Clopper–Pearson at 95 %",
) -> str:
    """The text of a page.

    Args:
        title: the answer, in a line.
        lead: what it means, in a sentence or two.
        sections: at least one.
        intervals: how they were made.
    """
    return render_template(
        "curves.html.j2",
        title=title,
        lead=lead,
        sections=sections,
        intervals=intervals,
        width=RATIO_WIDTH,
        height=RATIO_HEIGHT,
    )


def with_interval(ratio: Proportion) -> str:
    """`31.2 % (27.1 to 35.5)`."""
    return f"{percent(ratio.ratio)} % ({percent(ratio.low)} to {percent(ratio.high)})"
