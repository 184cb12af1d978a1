"""Charts of the memorization ratio over a factor, as numbers that an SVG template draws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from memaudit.audit.statistics.intervals import Proportion
from memaudit.wording import percent

WIDTH, HEIGHT = 610, 260
"""Of the plot area, in units of the drawing."""
MARGINS = (70, 30)
"""Left and right of it."""
CHARACTER = 12
"""Width of a character on a narrow screen, where text is drawn larger."""
Stroke = Literal["solid", "dashed", "dotted"]


@dataclass(frozen=True)
class Sample:
    """A ratio to draw."""

    x: float
    ratio: float
    low: float | None = None
    """Interval of a measured ratio; a published one has none."""
    high: float | None = None

    @staticmethod
    def measured(x: float, ratio: Proportion) -> "Sample":
        return Sample(x, ratio.ratio, ratio.low, ratio.high)


@dataclass(frozen=True)
class Series:
    """One curve; told apart by its stroke and the shape of its marks, so that it survives print and
    color blindness."""

    name: str
    samples: tuple[Sample, ...]
    stroke: Stroke = "solid"
    is_published: bool = False


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


@dataclass(frozen=True)
class Line:
    """A curve in the drawing."""

    series: Series
    marks: tuple[Mark, ...]

    @property
    def points(self) -> str:
        """Of a polyline: "x,y x,y …"."""
        return " ".join(f"{mark.x},{mark.y}" for mark in self.marks)


@dataclass(frozen=True)
class Tick:
    position: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Curves with their axes; the ratio runs up from 0 to 100 %."""

    x_label: str
    lines: tuple[Line, ...]
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
) -> Chart:
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
        names = {x: f"{x:,g}" for x in xs}
    else:
        left, right = -0.5, len(x_names) - 0.5
        names = {float(i): name for i, name in enumerate(x_names)}

    def across(x: float) -> float:
        position = x if x_names is not None else math.log(x)
        return round(WIDTH * (position - left) / (right - left), 1)

    def up(ratio: float) -> float:
        return round(HEIGHT * (1 - ratio / top), 1)

    def mark(curve: Series, sample: Sample) -> Mark:
        return Mark(
            x=across(sample.x),
            y=up(sample.ratio),
            top=None if sample.high is None else up(sample.high),
            bottom=None if sample.low is None else up(sample.low),
            text=f"{curve.name}, {names[sample.x]}: {percent(sample.ratio)} %",
        )

    return Chart(
        x_label=x_label,
        lines=tuple(
            Line(
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


def _apart(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    """Those whose texts stay within the drawing and do not run into one before."""
    kept: list[Tick] = []
    end: float = -MARGINS[0]
    for tick in ticks:
        half = CHARACTER * len(tick.text) / 2
        if tick.position - half >= end and tick.position + half <= WIDTH + MARGINS[1]:
            kept.append(tick)
            end = tick.position + half + CHARACTER
    return tuple(kept)
