"""The page of a comparison: the ratio plotted over the factor, and a table."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from memaudit.audit.diagnostics.section import STROKES
from memaudit.audit.report.charts import RatioChart, Sample, Series, ratio_chart
from memaudit.audit.report.comparison import ComparedReport, Comparison, Factor
from memaudit.audit.report.curve_page import Section, render_curves, with_interval
from memaudit.audit.report.folder import PAGE
from memaudit.audit.report.words import say
from memaudit.files import atomic_write, check_new
from memaudit.wording import short


class Named(NamedTuple):
    """A report with its name, and that of its sweep."""

    name: str
    sweep: str
    report: ComparedReport


LABELS: dict[Factor, str] = {
    "images-seen": "overview.images_seen",
    "size": "overview.size",
    "epochs": "overview.epochs",
    "name": "overview.name",
}
"""What a factor is called, in the file of words."""
CURVES = 6
"""Curves of one chart that are told apart without color."""


def write_comparison(
    comparison: Comparison,
    path: Path,
    *,
    further: Sequence[Section] = (),
    overwrite: bool = False,
) -> None:
    """Write the page, whole or not at all.

    Args:
        comparison: at least one report.
        path: of the page.
        further: sections that follow the comparison.
        overwrite: replace the file if it exists.

    Raises:
        ConfigError: the file exists and must not be overwritten, or its folder does not exist.
    """
    check_new(path, overwrite=overwrite)
    with atomic_write(path) as file:
        file.write(render_comparison(comparison, path, further=further).encode())


def render_comparison(
    comparison: Comparison, path: Path, *, further: Sequence[Section] = ()
) -> str:
    """Render the page as HTML.

    Args:
        comparison: at least one report.
        path: where the page will be written; links to the reports are relative to it.
        further: sections that follow the comparison.
    """
    reports = comparison.reports
    text = [say("overview.explained")]
    if any(comparison.sweeps):
        text.append(say("overview.sweeps"))
    if any(report.num_screened is not None for report in reports):
        text.append(say("overview.screened_share"))
    if comparison.differences:
        text.append(say("overview.different", differences="; ".join(comparison.differences)))
    named = [
        Named(*each) for each in zip(comparison.names, comparison.sweeps, reports, strict=True)
    ]
    top = _round_up(max(report.share.high for report in reports))
    sections: list[Section] = []
    for by in (comparison.by, *_further_factors(comparison)):
        for title, curve, is_joined in _charts(named, by):
            section = Section(title, (), _chart(curve, by, top, is_joined=is_joined), (), ())
            if by == comparison.by:
                header, rows = _table(curve)
                section = replace(
                    section,
                    text=() if sections else tuple(text),
                    header=header,
                    rows=rows,
                    links=tuple(_link(each.report, path) for each in curve),
                    names=tuple(each.name for each in curve),
                    verdicts=tuple(each.report.judged for each in curve),
                )
            if section.chart is not None or section.rows:
                sections.append(section)
    return render_curves(
        title=_answer(comparison),
        lead=say("overview.lead", count=len(reports), by=say(LABELS[comparison.by])),
        sections=[*sections, *further],
        intervals=" and ".join(
            sorted({f"{r.interval} at {100 * r.ratio.confidence:g} %" for r in reports})
        ),
        with_filters=True,
    )


def _answer(comparison: Comparison) -> str:
    shares = sorted(report.share.value for report in comparison.reports)
    if shares[0] == shares[-1]:
        return say("overview.all_alike", share=shares[0])
    return say("overview.from_to", low=shares[0], high=shares[-1])


def _further_factors(comparison: Comparison) -> Iterator[Factor]:
    """Other factors that all reports know and that vary, each of which gets a chart as well."""
    reports = comparison.reports
    if comparison.by == "name":
        return
    has_size = len({report.num_images for report in reports}) > 1
    factors: tuple[Factor, ...] = ("size", "images-seen", "epochs")
    for by in factors:
        values = {_factor(report, by) for report in reports}
        # With as many images each, epochs are images seen by another name.
        is_same = by != "size" and not has_size and comparison.by in ("images-seen", "epochs")
        if by != comparison.by and len(values) > 1 and 0 not in values and not is_same:
            yield by


def _charts(named: Sequence[Named], by: Factor) -> Iterator[tuple[str, Sequence[Named], bool]]:
    """Title and reports of each chart, and whether a line joins those of a sweep. If values of the
    factor repeat within a sweep, there is one chart per value of the other factor.
    """
    title = say("overview.title", by=say(LABELS[by]))
    if len({(each.sweep, _factor(each.report, by)) for each in named}) == len(
        {each.sweep for each in named}
    ):  # a folder per value: no sweep over it
        named = [each._replace(sweep="") for each in named]
    other: Factor = "size" if by in ("images-seen", "epochs") else "images-seen"
    values = sorted({_factor(each.report, other) for each in named})
    if by == "name":
        yield title, named, False
    elif len(values) == 1 or not _repeats(named, by):
        yield from _in_parts(title, named, by)
    else:
        for value in values:
            curve = [each for each in named if _factor(each.report, other) == value]
            part = say(
                "overview.title_of",
                by=say(LABELS[by]),
                value=format(value, ",") if value else say("overview.unknown"),
                other=say(LABELS[other]),
            )
            yield from _in_parts(part, curve, by)


def _in_parts(
    title: str, named: Sequence[Named], by: Factor
) -> Iterator[tuple[str, Sequence[Named], bool]]:
    """Charts of at most so many sweeps as can be told apart."""
    sweeps = list(dict.fromkeys(each.sweep for each in named))
    for start in range(0, len(sweeps), CURVES):
        part = sweeps[start : start + CURVES]
        curve = [each for each in named if each.sweep in part]
        if len(sweeps) > CURVES:
            first, last = short(part[0], 40), short(part[-1], 40)
            shown = say("overview.title_part", title=title, first=first, last=last)
        else:
            shown = title
        yield shown, curve, not _repeats(curve, by)


def _repeats(named: Sequence[Named], by: Factor) -> bool:
    """Whether two reports of a sweep have the same value of a factor: no line can join them."""
    points = [(each.sweep, _factor(each.report, by)) for each in named]
    return len(set(points)) < len(points)


def _factor(report: ComparedReport, by: Factor) -> float:
    """The value of a factor, or 0 if it is unknown."""
    if by == "epochs":
        return report.epochs or 0
    return report.num_images if by == "size" else report.images_seen or 0


def copies_text(report: ComparedReport) -> str:
    """`12 of 500`, or that a screened scan estimates the share instead."""
    if report.num_screened is not None:
        return say("overview.estimated", total=report.num_screened)
    return say("overview.of", count=report.ratio.count, total=report.ratio.total)


def _table(curve: Sequence[Named]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Header and rows of a chart's table."""
    header = (
        say("overview.report"),
        say("overview.images_seen").capitalize(),
        say("overview.epochs").capitalize(),
        "|D|",
        say("overview.count"),
        say("overview.share"),
        say("overview.verdict"),
        say("overview.leaks"),
    )
    rows = tuple(
        (
            short(name, 60),
            "–" if report.images_seen is None else f"{report.images_seen:,}",
            "–" if report.epochs is None else f"{report.epochs:,.4g}",
            f"{report.num_images:,}",
            copies_text(report),
            with_interval(report.share),
            report.judged or "–",
            say("overview.of", count=report.num_leaking_images, total=report.num_images)
            + (f", {report.num_leaking_groups}" if report.num_leaking_groups else ""),
        )
        for name, _, report in curve
    )
    return header, rows


def _chart(curve: Sequence[Named], by: Factor, top: float, *, is_joined: bool) -> RatioChart | None:
    """The share of copies over a factor, one curve per sweep."""
    series: list[Series] = []
    sweeps = list(dict.fromkeys(each.sweep for each in curve))
    for number, sweep in enumerate(sweeps):
        samples = [
            Sample.measured(x if by == "name" else _factor(report, by), report.share, name)
            for x, (name, of, report) in enumerate(curve)
            if of == sweep or by == "name"
        ]
        samples = [sample for sample in samples if sample.x or by == "name"]  # no 0 on the axis
        if samples:
            series.append(
                Series(
                    short(sweep, 40) or say("overview.copies"),
                    tuple(samples),
                    stroke=STROKES[number % len(STROKES)],
                    is_hollow=number >= len(STROKES),
                )
            )
        if by == "name":
            break
    if not series:
        return None
    if by == "name":
        series = [replace(series[0], name=say("overview.copies"))]
    return ratio_chart(
        series,
        x_label=say(LABELS[by]),
        x_names=[short(each.name, 16) for each in curve] if by == "name" else None,
        top=top,
        connected=is_joined,
    )


def _round_up(share: float) -> float:
    """The smallest of 1, 0.5, 0.2, 0.1, 0.05 … that is at least `share`."""
    ends = (float(f"{digit}e-{power}") for power in range(9, 0, -1) for digit in (1, 2, 5))
    return next((end for end in ends if end >= share), 1.0)


def _link(report: ComparedReport, path: Path) -> str:
    """URL of a report's page, relative to the comparison's page."""
    page = os.path.relpath(report.folder / PAGE, path.absolute().parent)
    return quote(os.fsencode(page.replace(os.sep, "/")))
