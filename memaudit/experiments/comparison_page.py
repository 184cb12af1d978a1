"""The page of a comparison: the ratio over what tells the reports apart, and a table."""

import os
from pathlib import Path
from urllib.parse import quote

from memaudit.audit.pages import short
from memaudit.audit.report import PAGE
from memaudit.audit.statistics import percent
from memaudit.errors import ConfigError
from memaudit.experiments.comparison import ComparedReport, Comparison, Factor
from memaudit.experiments.curve_chart import Chart, Sample, Series, ratio_chart
from memaudit.experiments.curve_page import Section, render_curves, with_interval
from memaudit.files import atomic_write

LABELS: dict[Factor, str] = {
    "images-seen": "images seen in training",
    "size": "training images |D|",
    "name": "name",
}


def write_comparison(comparison: Comparison, path: Path, *, overwrite: bool = False) -> None:
    """Write the page, whole or not at all.

    Raises:
        ConfigError: a file is there and not to be overwritten, or no folder to write it in.
    """
    if path.is_dir() or (path.exists() and not overwrite):
        raise ConfigError(f"{path} exists; name another file, or give --overwrite.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path.parent} is no folder; make it, or name a file in another one.")
    with atomic_write(path) as file:
        file.write(render_comparison(comparison, path).encode())


def render_comparison(comparison: Comparison, path: Path) -> str:
    """The text of the page.

    Args:
        comparison: at least one report.
        path: where it will be, which links to the reports start from.
    """
    reports, by = comparison.reports, comparison.by
    seen = any(report.images_seen is not None for report in reports)
    text = [
        "Every row is a report; its name leads to its page. A copy is an image that its distinct "
        "rule flags.",
    ]
    if comparison.differences:
        text.append(
            "The reports are not made alike, so their ratios are not one measure: "
            + "; ".join(comparison.differences)
            + "."
        )
    return render_curves(
        title=_answer(comparison),
        lead=f"{len(reports):,} report{'s' if len(reports) > 1 else ''}, by {LABELS[by]}.",
        sections=[
            Section(
                title=f"Share of copies by {LABELS[by]}",
                text=tuple(text),
                chart=_chart(comparison),
                header=("Report",)
                + (("Images seen",) if seen else ())
                + ("|D|", "Copies", "Share", "Verdict", "Leaking images"),
                rows=tuple(
                    (short(name, 60),)
                    + ((_number(report.images_seen),) if seen else ())
                    + (
                        f"{report.num_images:,}",
                        f"{report.ratio.count:,} of {report.ratio.total:,}",
                        with_interval(report.ratio),
                        report.verdict or "–",
                        f"{report.num_leaking_images:,}",
                    )
                    for name, report in zip(comparison.names, reports, strict=True)
                ),
                links=tuple(_link(report, path) for report in reports),
            )
        ],
        intervals=" and ".join(
            sorted({f"{r.interval} at {100 * r.ratio.confidence:g} %" for r in reports})
        ),
    )


def _answer(comparison: Comparison) -> str:
    shares = sorted(report.ratio.ratio for report in comparison.reports)
    if shares[0] == shares[-1]:
        return f"{percent(shares[0])} % of the generated images are copies"
    return f"From {percent(shares[0])} % to {percent(shares[-1])} % of the generated images copy"


def _chart(comparison: Comparison) -> Chart | None:
    reports, by = comparison.reports, comparison.by
    xs: list[float] = [
        (report.images_seen or 0) if by == "images-seen" else report.num_images
        for report in reports
    ]
    names = None
    if by == "name":
        xs = list(map(float, range(len(reports))))
        names = [short(name, 20) for name in comparison.names]
    samples = tuple(
        Sample.measured(x, report.ratio)
        for x, report in zip(xs, reports, strict=True)
        if x > 0 or by == "name"  # the axis is logarithmic
    )
    if not samples:
        return None
    return ratio_chart(
        [Series("copies among generated images", samples)],
        x_label=LABELS[by],
        x_names=names,
        top=_round_up(max(report.ratio.high for report in reports)),
    )


def _round_up(share: float) -> float:
    """The least of 1, 0.5, 0.2, 0.1, 0.05 … that is not below `share`."""
    ends = (float(f"{digit}e-{power}") for power in range(9, 0, -1) for digit in (1, 2, 5))
    return next((end for end in ends if end >= share), 1.0)


def _link(report: ComparedReport, path: Path) -> str:
    """URL of a report's page, from where the comparison is."""
    page = os.path.relpath(report.folder / PAGE, path.absolute().parent)
    return quote(os.fsencode(page.replace(os.sep, "/")))


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
