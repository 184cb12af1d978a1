"""A page of memorization ratios: charts with their tables, one HTML file that needs no network.

The caller supplies the words; templates/curves.html.j2 determines the look.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from memaudit.audit.report.charts import RATIO_HEIGHT, RATIO_WIDTH, IntervalChart, RatioChart
from memaudit.audit.report.html import DEFINITIONS_MARK, render_template, with_definitions
from memaudit.audit.statistics.intervals import Estimate
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
    names: tuple[str, ...] = ()
    """Name of what each row is about, by which a page with filters finds it; empty for none."""
    verdicts: tuple[str, ...] = ()
    """Verdict of each row with a name, or an empty text."""
    intervals: IntervalChart | None = None
    """Numbers with their intervals, below the chart."""


def render_curves(
    *,
    title: str,
    lead: str,
    sections: Sequence[Section],
    intervals: str = "Clopper–Pearson at 95 %",
    with_filters: bool = False,
) -> str:
    """Render a page as HTML.

    Args:
        title: the answer, in a line.
        lead: what it means, in a sentence or two.
        sections: at least one.
        intervals: how the intervals were made.
        with_filters: let a reader choose rows by name and verdict. That takes a script within the
            page, which is the only one that may run there; without it the page shows all rows.
    """
    from markupsafe import Markup

    script = _filters() if with_filters else ""
    page = render_template(
        "curves.html.j2",
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        verdicts=sorted({verdict for each in sections for verdict in each.verdicts if verdict}),
        definitions_mark=Markup(DEFINITIONS_MARK),
        title=title,
        lead=lead,
        sections=sections,
        intervals=intervals,
        width=RATIO_WIDTH,
        height=RATIO_HEIGHT,
    )
    return with_definitions(page)


@cache
def _filters() -> str:
    """The script of the filters."""
    return files("memaudit.audit.report").joinpath("templates", "filters.js").read_text("utf-8")


def with_interval(share: Estimate) -> str:
    """Format a share with its interval as `31.2 % (27.1 to 35.5)`."""
    return f"{percent(share.value)} % ({percent(share.low)} to {percent(share.high)})"
