"""Charts as numbers that an SVG template draws: curves, the histogram, ratios over a factor.

SVG made from numbers is the same on every machine, and its text stays text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from memaudit.audit.diagnostics.section import Curve, LineChart, ShareChart, Stroke
from memaudit.audit.memorization.matches import Matches
from memaudit.audit.memorization.screened import Screening
from memaudit.audit.report.words import say
from memaudit.audit.scanned import Scanned
from memaudit.audit.statistics.gate import Decision
from memaudit.audit.statistics.intervals import Estimate, Proportion
from memaudit.audit.statistics.one_sided import lower_end, upper_end
from memaudit.wording import percent

WIDTH, HEIGHT = 610, 220
"""Size of the plot area of a line chart, in units of the drawing."""
RATIO_WIDTH, RATIO_HEIGHT = 610, 260
"""Size of the plot area of a chart of ratios."""
MARGINS = (70, 30)
"""Margins on its left and right."""
CHARACTER = 12
"""Width of a character on a narrow screen, where text is drawn larger."""
BIN_WIDTH = 1 / 30
"""About the width of a bin of the histogram; the threshold falls between two bins."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, or a level, with its text."""

    position: float
    text: str


# ------------------------------------------------------------------------------------------------
# Shares on one axis


@dataclass(frozen=True)
class ShareRow:
    """A share with its interval."""

    label: str
    total: int | None
    """Number of images that it is a share of; None for the excess, which compares two shares."""
    value: float
    low: float
    high: float
    bound: Literal["both", "upper", "lower"] = "both"
    """Which ends say something: after a verdict only the one that it rests on."""
    is_marked: bool = False
    """Whether it stands out."""

    @property
    def interval(self) -> str:
        """The interval in words, such as `at most 0.10 %`."""
        if self.bound == "upper":
            return f"at most {percent(self.high)} %"
        if self.bound == "lower":
            return f"at least {percent(self.low)} %"
        return f"{percent(self.low)} to {percent(self.high)} %"


def share_rows(result: Scanned) -> tuple[tuple[ShareRow, ...], float]:
    """The share of copies, its floors and the excess; and the end of an axis that holds them all
    with the limit, if there is one.
    """

    def row(label: str, share: Proportion) -> ShareRow:
        return ShareRow(label, share.total, share.ratio, share.low, share.high)

    rows = [row_of_copies(result.ratios.copies, result.decision)]
    if result.screening is not None:
        rows = _rows_of_screening(result.screening, result.ratios.copies)
    for name, floor in (
        ("held-out", result.controls.holdout),
        ("leave-one-out", result.controls.leave_one_out),
    ):
        if floor is not None:
            rows.append(row(f"floor, {name}", floor.copies))
    holdout = result.diagnostics.holdout
    # A PASS is about the limit alone: beside it, a two-sided interval would seem to contradict it.
    if result.verdict != "PASS" and holdout is not None and holdout.excess is not None:
        excess = holdout.excess
        rows.append(ShareRow("excess", None, excess.value, excess.low, excess.high))
    limit = result.config.fail_above or 0.0
    return tuple(rows), max(min(1.25 * limit, 1.0), *(row.high for row in rows), 1e-9)


@dataclass(frozen=True)
class DrawnShares:
    """Shares in the drawing."""

    title: str
    rows: tuple[ShareRow, ...]
    end: float
    """End of the axis."""
    limit: float | None


def draw_shares(chart: ShareChart) -> DrawnShares:
    """Fit an axis to the shares of a chart and its limit."""
    rows = tuple(
        ShareRow(name, share.total, share.ratio, share.low, share.high, is_marked=stands_out)
        for name, share, stands_out in chart.rows
    )
    limit = chart.limit or 0.0
    end = max(min(1.25 * limit, 1.0), *(row.high for row in rows), 1e-9)
    return DrawnShares(chart.title, rows, end, chart.limit)


def _rows_of_screening(screening: Screening, drawn: Proportion) -> list[ShareRow]:
    """The estimate of a screened scan, and the share of the seeds that chance drew."""
    share = screening.copies
    return [
        ShareRow("copies, estimated", screening.num_seeds, share.value, share.low, share.high),
        ShareRow("drawn at random", drawn.total, drawn.ratio, drawn.low, drawn.high),
    ]


def row_of_copies(share: Proportion, decision: Decision | None) -> ShareRow:
    """The share of copies, with the end of its interval that the gate's decision rests on."""
    low, high = share.low, share.high
    bound: Literal["both", "upper", "lower"] = "both"
    if decision is not None and decision.verdict != "INCONCLUSIVE":
        is_sequential = decision.method == "sequential"
        count, total = decision.count, decision.total
        if decision.verdict == "PASS":
            bound, low = "upper", 0.0
            high = upper_end(count, total, confidence=decision.confidence, sequential=is_sequential)
        else:
            bound, high = "lower", share.ratio
            level = 1 - math.exp(-decision.required_above)
            low = lower_end(count, total, confidence=level, sequential=is_sequential)
    return ShareRow("copies", share.total, share.ratio, low, high, bound)


# ------------------------------------------------------------------------------------------------
# Curves


@dataclass(frozen=True)
class DrawnCurve:
    """A curve in the drawing."""

    name: str
    stroke: Stroke
    points: str
    """Points of a polyline: "x,y x,y …"."""
    band: str
    """Points of a polygon around it: the interval."""


@dataclass(frozen=True)
class DrawnChart:
    """Curves with their axes; x runs to the right on a logarithmic scale."""

    title: str
    x_label: str
    curves: tuple[DrawnCurve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def draw_line_chart(chart: LineChart) -> DrawnChart:
    """Place the curves of a chart, which has at least one point."""
    xs = [x for curve in chart.curves for x, _ in curve.points]
    x_low, x_high = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)))

    def across(x: float) -> float:
        return WIDTH * (math.log10(x) - x_low) / (x_high - x_low)

    if chart.y_range is None:
        scaled: Callable[[float], float] = _log10
        values = [y.value for curve in chart.curves for _, y in curve.points]
        y_low, y_high = math.floor(scaled(min(values))), math.ceil(scaled(max(values)))
        y_high = max(y_high, y_low + 1)
        y_ticks = [(10.0**power, f"1e{power}") for power in range(y_low, y_high + 1)]
    else:
        scaled = float
        y_low, y_high = chart.y_range
        y_ticks = [(float(value), str(value)) for value in range(y_low, y_high + 1)]

    def up(y: float) -> float:
        share = (scaled(y) - y_low) / (y_high - y_low)
        return HEIGHT * (1 - min(max(share, 0), 1))

    def draw(curve: Curve) -> DrawnCurve:
        points = [(across(x), up(y.value), up(y.low), up(y.high)) for x, y in curve.points]
        upper = [f"{x:.1f},{high:.1f}" for x, _, _, high in points]
        lower = [f"{x:.1f},{low:.1f}" for x, _, low, _ in reversed(points)]
        return DrawnCurve(
            name=curve.name,
            stroke=curve.stroke,
            points=" ".join(f"{x:.1f},{value:.1f}" for x, value, _, _ in points),
            band=" ".join(upper + lower),
        )

    return DrawnChart(
        title=chart.title,
        x_label=chart.x_label,
        curves=tuple(map(draw, chart.curves)),
        x_ticks=tuple(
            Tick(across(10.0**power), f"{10.0**power:g}") for power in range(x_low, x_high + 1)
        ),
        y_ticks=tuple(Tick(up(value), text) for value, text in y_ticks),
    )


def _log10(value: float) -> float:
    # 0 has no place on a logarithmic axis; below 1e-7 a loss is the rounding of float32.
    return math.log10(max(value, 1e-7))


# ------------------------------------------------------------------------------------------------
# The histogram of distance ratios


@dataclass(frozen=True)
class Bin:
    """Generated images whose distance ratio is in [low, high)."""

    low: float
    high: float
    copies: int
    others: int


def histogram(matches: Matches, threshold: float) -> list[Bin]:
    """Counts of the distance ratio d1/d2 over [0, 1], in bins that part at the threshold."""
    width = threshold / max(1, round(threshold / BIN_WIDTH))
    edges = np.append(np.arange(0, 1 - width / 2, width), 1.0)
    copies, others = (
        np.histogram(matches.distance_ratio[rows], edges)[0].tolist()
        for rows in (matches.is_copy, ~matches.is_copy)
    )
    low, high = edges[:-1].tolist(), edges[1:].tolist()
    return [Bin(*values) for values in zip(low, high, copies, others, strict=True)]


def count_ticks(bins: list[Bin]) -> list[int]:
    """Round numbers from 0 to at least the largest count, for its axis: 3 to 6 of them."""
    largest = max(bin.copies + bin.others for bin in bins)
    for step in (factor * 10**power for power in range(19) for factor in (1, 2, 5)):
        if step * 5 >= largest:
            break
    return list(range(0, max(largest, 2) + step, step))


# ------------------------------------------------------------------------------------------------
# Memorization ratios over a factor


@dataclass(frozen=True)
class Sample:
    """A ratio to draw."""

    x: float
    ratio: float
    low: float | None = None
    """Interval of a measured ratio; a published one has none."""
    high: float | None = None
    name: str = ""
    """Name of what was measured, where a page can filter by it."""

    @staticmethod
    def measured(x: float, share: Estimate, name: str = "") -> "Sample":
        return Sample(x, share.value, share.low, share.high, name)


@dataclass(frozen=True)
class Series:
    """One curve; told apart by its stroke and the shape of its marks, so that it survives print and
    color blindness."""

    name: str
    samples: tuple[Sample, ...]
    stroke: Stroke = "solid"
    is_published: bool = False
    is_hollow: bool = False
    """Whether its marks are, so that six curves differ."""

    @property
    def css(self) -> str:
        """Its class in the drawing."""
        return "published" if self.is_published else "hollow" if self.is_hollow else ""


@dataclass(frozen=True)
class Mark:
    """A sample in the drawing."""

    x: float
    y: float
    top: float | None
    """Ends of the interval; None for a published ratio."""
    bottom: float | None
    text: str
    """What a pointer on it, or a screen reader, is told."""
    name: str = ""
    """Name of what was measured, where a page can filter by it."""


@dataclass(frozen=True)
class RatioLine:
    """A curve in the drawing."""

    series: Series
    marks: tuple[Mark, ...]

    @property
    def points(self) -> str:
        """Points of a polyline: "x,y x,y …"."""
        return " ".join(f"{mark.x},{mark.y}" for mark in self.marks)


@dataclass(frozen=True)
class RatioChart:
    """Curves with their axes; the ratio runs up from 0 to 100 %."""

    x_label: str
    lines: tuple[RatioLine, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    level: Tick | None
    """A horizontal line, such as 1 − ε, and its name."""
    band: tuple[float, float] | None
    """Ends of a vertical band, such as the interval of EMM."""
    connected: bool
    """Whether a line joins the marks of a curve."""


def ratio_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    x_names: Sequence[str] | None = None,
    top: float = 1.0,
    level: tuple[float, str] | None = None,
    band: tuple[float, float] | None = None,
    connected: bool = True,
) -> RatioChart:
    """A chart of memorization ratios.

    Args:
        series: with at least one sample in all.
        x_label: what runs to the right.
        x_names: of x = 0, 1, …, evenly spaced. None: numbers above 0 on a logarithmic scale.
        top: the ratio at the upper end, in (0, 1].
        level: a ratio to draw a line at, and its name.
        band: two x to shade between.
        connected: join the samples of a series by a line; not where x are names of things that
            have no order.
    """
    xs = sorted({sample.x for curve in series for sample in curve.samples})
    if x_names is None:
        left, right = math.log(xs[0]) - 0.15, math.log(xs[-1]) + 0.15
        names = {x: f"{x:,g}" if x < 1e6 else f"{x:,.0f}" for x in xs}
    else:
        left, right = -0.5, len(x_names) - 0.5
        names = {float(i): name for i, name in enumerate(x_names)}

    def across(x: float) -> float:
        position = x if x_names is not None else math.log(x)
        return round(RATIO_WIDTH * (position - left) / (right - left), 1)

    def up(ratio: float) -> float:
        return round(RATIO_HEIGHT * (1 - ratio / top), 1)

    def mark(curve: Series, sample: Sample) -> Mark:
        return Mark(
            x=across(sample.x),
            y=up(sample.ratio),
            top=None if sample.high is None else up(sample.high),
            bottom=None if sample.low is None else up(sample.low),
            text=f"{curve.name}, {names[sample.x]}: {percent(sample.ratio)} %",
            name=sample.name,
        )

    is_logarithmic = x_names is None and len(xs) > 1
    return RatioChart(
        x_label=say("curves.logarithmic", label=x_label) if is_logarithmic else x_label,
        lines=tuple(
            RatioLine(
                curve,
                tuple(mark(curve, s) for s in sorted(curve.samples, key=lambda s: s.x)),
            )
            for curve in series
        ),
        x_ticks=_apart([Tick(across(x), name) for x, name in sorted(names.items())]),
        y_ticks=tuple(
            Tick(up(share), f"{100 * share:g} %") for share in (top * i / 5 for i in range(6))
        ),
        level=None if level is None else Tick(up(level[0]), level[1]),
        band=None if band is None else (across(band[0]), across(band[1])),
        connected=connected,
    )


@dataclass(frozen=True)
class IntervalRow:
    """A number above 0 with its interval, if it has one."""

    label: str
    text: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class IntervalMark:
    """One of them in the drawing."""

    row: IntervalRow
    x: float
    left: float | None
    right: float | None


@dataclass(frozen=True)
class IntervalChart:
    """Numbers with their intervals on one logarithmic axis."""

    title: str
    marks: tuple[IntervalMark, ...]
    x_label: str
    x_ticks: tuple[Tick, ...]


def interval_chart(title: str, rows: Sequence[IntervalRow], x_label: str) -> IntervalChart:
    """Place at least one number above 0 on a logarithmic axis between powers of ten."""
    ends = [x for row in rows for x in (row.value, row.low, row.high) if x is not None and x > 0]
    first = math.floor(math.log10(min(ends)))
    last = max(math.ceil(math.log10(max(ends))), first + 1)

    def across(x: float) -> float:
        share = (math.log10(max(x, 10.0**first)) - first) / (last - first)
        return round(RATIO_WIDTH * share, 1)

    return IntervalChart(
        title,
        tuple(
            IntervalMark(
                row,
                across(row.value),
                None if row.low is None else across(row.low),
                None if row.high is None else across(row.high),
            )
            for row in rows
        ),
        say("curves.logarithmic", label=x_label),
        _apart([Tick(across(10.0**power), f"{10**power:,}") for power in range(first, last + 1)]),
    )


def _apart(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    """Those whose texts stay within the drawing and do not run into one before."""
    kept: list[Tick] = []
    end: float = -MARGINS[0]
    for tick in ticks:
        half = CHARACTER * len(tick.text) / 2
        if tick.position - half >= end and tick.position + half <= RATIO_WIDTH + MARGINS[1]:
            kept.append(tick)
            end = tick.position + half + CHARACTER
    return tuple(kept)
