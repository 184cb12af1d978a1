"""The page of a comparison: the ratio plotted over the factor, and a table."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from memaudit.audit.report.charts import RatioChart, Sample, Series, ratio_chart
from memaudit.audit.report.comparison import ComparedReport, Comparison, Factor
from memaudit.audit.report.curve_page import Section, render_curves, with_interval
from memaudit.audit.report.folder import PAGE
from memaudit.errors import ConfigError
from memaudit.files import atomic_write
from memaudit.wording import percent, short

Named = tuple[str, ComparedReport]
"""A report with its name."""
LABELS: dict[Factor, str] = {
    "images-seen": "images seen in training",
    "size": "training images |D|",
    "name": "name",
}


def write_comparison(comparison: Comparison, path: Path, *, overwrite: bool = False) -> None:
    """Write the page, whole or not at all.

    Raises:
        ConfigError: the file exists and must not be overwritten, or its folder does not exist.
    """
    if path.is_dir() or (path.exists() and not overwrite):
        raise ConfigError(
            f"{path} exists; name another file, or replace it with {{overwrite}}.",
            field="overwrite",
        )
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path.parent} is not a folder; make it, or name a file in another one.")
    with atomic_write(path) as file:
        file.write(render_comparison(comparison, path).encode())


def render_comparison(comparison: Comparison, path: Path) -> str:
    """Render the page as HTML.

    Args:
        comparison: at least one report.
        path: where the page will be written; links to the reports are relative to it.
    """
    reports = comparison.reports
    text = [
        "Each row is a report, and its name links to its page. A copy is an image that the "
        "distinct rule flags."
    ]
    if comparison.differences:
        text.append(
            "The reports were made by different rules, so their ratios cannot be compared: "
            + "; ".join(comparison.differences)
            + "."
        )
    named = list(zip(comparison.names, reports, strict=True))
    top = _round_up(max(report.ratio.high for report in reports))
    sections: list[Section] = []
    for title, curve in _curves(comparison, named):
        header, rows = _table(curve)
        sections.append(
            Section(
                title=title,
                text=() if sections else tuple(text),
                chart=_chart(curve, comparison.by, top),
                header=header,
                rows=rows,
                links=tuple(_link(report, path) for _, report in curve),
            )
        )
    return render_curves(
        title=_answer(comparison),
        lead=f"{len(reports):,} report{'s' if len(reports) > 1 else ''}, "
        f"by {LABELS[comparison.by]}.",
        sections=sections,
        intervals=" and ".join(
            sorted({f"{r.interval} at {100 * r.ratio.confidence:g} %" for r in reports})
        ),
    )


def _answer(comparison: Comparison) -> str:
    shares = sorted(report.ratio.ratio for report in comparison.reports)
    if shares[0] == shares[-1]:
        return f"{percent(shares[0])} % of the generated images are copies"
    return (
        f"From {percent(shares[0])} % to {percent(shares[-1])} % of the generated images are copies"
    )


def _curves(comparison: Comparison, named: Sequence[Named]) -> Iterator[tuple[str, list[Named]]]:
    """Title and reports of each chart. If values of the factor repeat, there is one chart per
    value of the other factor.
    """
    title = f"Share of copies by {LABELS[comparison.by]}"
    other: Factor = "images-seen" if comparison.by == "size" else "size"
    values = sorted({_factor(report, other) for report in comparison.reports})
    factor = [_factor(report, comparison.by) for report in comparison.reports]
    if comparison.by == "name" or len(set(factor)) == len(factor) or len(values) == 1:
        yield title, list(named)
        return
    for value in values:
        curve = [(name, report) for name, report in named if _factor(report, other) == value]
        yield f"{title}, {format(value, ',') if value else 'unknown'} {LABELS[other]}", curve


def _factor(report: ComparedReport, by: Factor) -> int:
    """The value of a factor, or 0 if it is unknown."""
    return report.num_images if by == "size" else report.images_seen or 0


def _table(curve: Sequence[Named]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Header and rows of a chart's table."""
    header = ("Report", "Images seen", "|D|", "Copies", "Share", "Verdict", "Leaking images")
    rows = tuple(
        (
            short(name, 60),
            "–" if report.images_seen is None else f"{report.images_seen:,}",
            f"{report.num_images:,}",
            f"{report.ratio.count:,} of {report.ratio.total:,}",
            with_interval(report.ratio),
            report.verdict or "–",
            f"{report.num_leaking_images:,} of {report.num_images:,}"
            + (f", {report.num_leaking_groups}" if report.num_leaking_groups else ""),
        )
        for name, report in curve
    )
    return header, rows


def _chart(curve: Sequence[Named], by: Factor, top: float) -> RatioChart | None:
    if by == "name":
        samples = [Sample.measured(i, report.ratio) for i, (_, report) in enumerate(curve)]
    else:
        points = [(_factor(report, by), report.ratio) for _, report in curve]
        samples = [Sample.measured(x, ratio) for x, ratio in points if x]  # the axis has no 0
    if not samples:
        return None
    return ratio_chart(
        [Series("copies among generated images", tuple(samples))],
        x_label=LABELS[by],
        x_names=[short(name, 16) for name, _ in curve] if by == "name" else None,
        top=top,
        connected=by != "name",
    )


def _round_up(share: float) -> float:
    """The smallest of 1, 0.5, 0.2, 0.1, 0.05 … that is at least `share`."""
    ends = (float(f"{digit}e-{power}") for power in range(9, 0, -1) for digit in (1, 2, 5))
    return next((end for end in ends if end >= share), 1.0)


def _link(report: ComparedReport, path: Path) -> str:
    """URL of a report's page, relative to the comparison's page."""
    page = os.path.relpath(report.folder / PAGE, path.absolute().parent)
    return quote(os.fsencode(page.replace(os.sep, "/")))
