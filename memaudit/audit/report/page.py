"""The page of a report: one HTML file that needs no network and no JavaScript.

What the page says is in templates/report.html.j2 and, section by section, in templates/report/; how
it looks is in templates/report.css.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memaudit.audit.diagnostics.noise_and_return import ReturnTest
from memaudit.audit.report.charts import charts
from memaudit.audit.report.histogram import count_ticks, histogram
from memaudit.audit.report.html import render_template
from memaudit.audit.report.pairs import (
    AMPLIFIED,
    SHOWN_LEAKS,
    attractor_rows,
    leak_row,
    pair,
    rows_to_show,
)
from memaudit.audit.report.pictures import LARGEST_PICTURE
from memaudit.audit.report.regenerate import sample_command
from memaudit.audit.scan import ScanResult
from memaudit.audit.statistics.gate import fixed_sample_size
from memaudit.wording import duration


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    id: str
    """Anchor, and name of its template in templates/report/."""
    title: str
    """Heading, and entry of the contents."""


def render_page(result: ScanResult, report: dict[str, Any]) -> str:
    """The text of report.html.

    Args:
        result: what a scan found; its images and pairs are shown.
        report: `report_dict(result)`, whose numbers are shown, with `files`: name → SHA-256.
    """
    decision, optimality, returns = result.decision, result.optimality, result.return_test
    closest, edge = rows_to_show(result.matches)
    bins = histogram(result.matches, float(result.config.threshold))
    by_seed = result.source["kind"] == "checkpoint"
    return render_template(
        "report.html.j2",
        report=report,
        source=report["source"],
        data=report["data"],
        sampling=report["sampling"],
        num_leaks=report["num_leaking_images"],
        config=result.config,
        space=result.space,
        findings=result.findings,
        holdout=result.holdout,
        authentic=result.authentic,
        decision=decision,
        headline=result.ratios["distinct"],
        sections=sections(result, has_edge=len(edge) > 0),
        by_seed=by_seed,
        generator="model" if by_seed else "generator",
        finished=datetime.fromisoformat(result.environment["finished"]),
        fixed_size=decision and fixed_sample_size(decision.limit, decision.confidence),
        closest=[pair(result, row) for row in closest],
        edge=[pair(result, row) for row in edge],
        amplified=AMPLIFIED,
        no_second=int((result.matches.nn2_distinct < 0).sum()),
        radii=result.matches.neighbors.radii,
        bins=bins,
        ticks=count_ticks(bins),
        leaks=[leak_row(result, leak) for leak in result.leaks[:SHOWN_LEAKS]],
        regenerate=sample_command(result, "SEED"),
        returns=returns,
        beyond=0 if returns is None else num_beyond_holdout(returns),
        attractors=attractor_rows(result),
        membership=result.membership,
        optimality=optimality,
        charts=[] if optimality is None else charts(optimality),
        timings=[(step, duration(seconds)) for step, seconds in result.timings.items()],
        reduced=max(result.data.image_shape[1:]) > LARGEST_PICTURE,
    )


def sections(result: ScanResult, *, has_edge: bool) -> list[Section]:
    """The sections that have something to show, in their order."""
    listed = [
        (result.decision, "verdict", "Verdict"),
        (True, "measured", "How it was measured"),
        (True, "ratios", "Share of copies"),
        (True, "controls", "Controls"),
        (True, "pairs", "Closest pairs"),
        (has_edge, "edge", "Pairs at the threshold"),
        (True, "leaks", "Training images that leak"),
        (result.findings.classes, "classes", "Classes"),
        (True, "sensitivity", "Other thresholds and radii"),
        (result.return_test, "returns", "Noise and return"),
        (result.membership, "membership", "Membership"),
        (result.optimality, "optimum", "Against the optimum"),
        (True, "provenance", "Provenance"),
        (True, "limits", "Limits of what is shown"),
    ]
    return [Section(id, title) for present, id, title in listed if present]


def num_beyond_holdout(returns: ReturnTest) -> int:
    """Training images returned to from more noise than any held-out image; 0 without any."""
    if returns.holdout_sigma is None:
        return 0
    return sum(attractor.sigma > returns.holdout_sigma for attractor in returns.attractors)
