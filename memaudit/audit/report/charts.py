"""Line charts over the noise level, as numbers that an SVG template draws."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memaudit.audit.diagnostics.optimality import AtSigma, Estimate, Optimality

WIDTH, HEIGHT = 610, 220
"""Of the plot area, in units of the drawing."""
Curve = Callable[[AtSigma], Estimate | None]


@dataclass(frozen=True)
class Line:
    """One curve; told apart by its stroke, so that it survives print and color blindness."""

    name: str
    stroke: str
    """`solid`, `dashed` or `dotted`."""
    points: str
    """Of a polyline: "x,y x,y …"."""
    band: str
    """Of a polygon around it: the interval."""


@dataclass(frozen=True)
class Tick:
    position: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Curves with their axes; the noise level runs to the right, on a logarithmic scale."""

    title: str
    x_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def charts(optimality: Optimality) -> list[Chart]:
    """What the report draws: losses, distances, and with held-out images the MemGap."""
    loss: list[tuple[str, str, Curve]] = [
        ("model, training images", "solid", lambda at: at.train.model_loss),
        ("optimum, training images", "dashed", lambda at: at.train.optimum_loss),
        (
            "model, held-out images",
            "dotted",
            lambda at: at.holdout.model_loss if at.holdout else None,
        ),
    ]
    distance: list[tuple[str, str, Curve]] = [
        ("noised training images", "solid", lambda at: at.train.squared_distance),
        ("the model's own trajectories", "dashed", lambda at: at.trajectory),
        (
            "noised held-out images",
            "dotted",
            lambda at: at.holdout.squared_distance if at.holdout else None,
        ),
    ]
    gap: list[tuple[str, str, Curve]] = [("MemGap", "solid", lambda at: at.mem_gap)]
    drawn = [
        _chart("Denoising loss per pixel value", optimality, loss),
        _chart("Squared distance from model to optimum per pixel value", optimality, distance),
    ]
    if any(at.mem_gap for at in optimality.at_sigma):
        title = "MemGap: 0 for no memory, 1 for the optimum"
        drawn.append(_chart(title, optimality, gap, log=False))
    return drawn


def _chart(
    title: str,
    optimality: Optimality,
    curves: Sequence[tuple[str, str, Curve]],
    *,
    log: bool = True,
) -> Chart:
    sigmas = [at.sigma for at in optimality.at_sigma]
    x_low, x_high = math.floor(math.log10(min(sigmas))), math.ceil(math.log10(max(sigmas)))

    def x(sigma: float) -> float:
        return WIDTH * (math.log10(sigma) - x_low) / (x_high - x_low)

    found = {
        name: [(at.sigma, estimate) for at in optimality.at_sigma if (estimate := curve(at))]
        for name, _, curve in curves
    }
    values = [estimate.value for curve in found.values() for _, estimate in curve]
    if log:
        scaled: Callable[[float], float] = _log10
        y_low, y_high = math.floor(scaled(min(values))), math.ceil(scaled(max(values)))
        y_high = max(y_high, y_low + 1)
        y_ticks = [(10.0**power, f"1e{power}") for power in range(y_low, y_high + 1)]
    else:
        scaled = float
        y_low, y_high = -1, 2
        y_ticks = [(float(value), str(value)) for value in range(y_low, y_high + 1)]

    def y(value: float) -> float:
        share = (scaled(value) - y_low) / (y_high - y_low)
        return HEIGHT * (1 - min(max(share, 0), 1))

    def line(name: str, stroke: str) -> Line:
        points = [(x(sigma), y(e.value), y(e.low), y(e.high)) for sigma, e in found[name]]
        upper = [f"{px:.1f},{high:.1f}" for px, _, _, high in points]
        lower = [f"{px:.1f},{low:.1f}" for px, _, low, _ in reversed(points)]
        return Line(
            name=name,
            stroke=stroke,
            points=" ".join(f"{px:.1f},{value:.1f}" for px, value, _, _ in points),
            band=" ".join(upper + lower),
        )

    return Chart(
        title=title,
        x_label="noise level sigma",
        lines=tuple(line(name, stroke) for name, stroke, _ in curves if found[name]),
        x_ticks=tuple(
            Tick(x(10.0**power), f"{10.0**power:g}") for power in range(x_low, x_high + 1)
        ),
        y_ticks=tuple(Tick(y(value), text) for value, text in y_ticks),
    )


def _log10(value: float) -> float:
    # 0 has no place on a logarithmic axis; below 1e-7 a loss is the rounding of float32.
    return math.log10(max(value, 1e-7))
