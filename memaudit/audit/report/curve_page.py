"""A page of memorization ratios: charts with their tables, one HTML file that needs no network.

The caller supplies the words; templates/curves.html.j2 determines the look.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from memaudit.audit.report.charts import RATIO_HEIGHT, RATIO_WIDTH, RatioChart
from memaudit.audit.report.html import render_template
from memaudit.audit.statistics.intervals import Proportion
from memaudit.wording import percent


@dataclass(frozen=True)
class Section:
    """A part of the page: text, a chart and its table."""

    title: str
    text: tuple[str, ...]
    """Paragraphs."""
    chart: RatioChart | None
    header: tuple[str, ...]
    """Header of the table. The first column holds the names of the rows."""
    rows: tuple[tuple[str, ...], ...]
    links: tuple[str, ...] = ()
    """URL that each row's name links to, or empty for no links."""


def render_curves(
    *,
    title: str,
    lead: str,
    sections: Sequence[Section],
    intervals: str = "Clopper–Pearson at 95 %",
) -> str:
    """Render a page as HTML.

    Args:
        title: the answer, in a line.
        lead: what it means, in a sentence or two.
        sections: at least one.
        intervals: how the intervals were made.
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
    """Format a ratio with its interval as `31.2 % (27.1 to 35.5)`."""
    return f"{percent(ratio.ratio)} % ({percent(ratio.low)} to {percent(ratio.high)})"
