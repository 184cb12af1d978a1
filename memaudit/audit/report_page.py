"""The page of a report: one HTML file that needs no network and no JavaScript.

What the page says is in templates/report.html.j2, how it looks in templates/report.css.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from memaudit.audit.matches import Leak, Matches
from memaudit.audit.pages import render_template, short
from memaudit.audit.pictures import LARGEST_PICTURE, Picture, embed
from memaudit.audit.report_chart import charts
from memaudit.audit.scan import ScanResult

CLOSEST_PAIRS = 48
"""Pairs shown from the closest on."""
EDGE_PAIRS = 6
"""Pairs shown on each side of the threshold, where the closest ones do not reach it."""
SHOWN_LEAKS = 150
"""Leaking training images shown. With these limits a page of 64×64 images stays under 10 MB."""
SHOWN_KEYS = 8
"""Seeds or names listed for a leak."""
AMPLIFIED = 4
"""Factor of the difference pictures."""
BIN_WIDTH = 1 / 30
"""About the width of a histogram bin; the threshold falls between two bins."""


@dataclass(frozen=True)
class Pair:
    """A generated image beside its neighbours."""

    key: int | str
    """Seed or name."""
    class_index: int | None
    is_copy: bool
    distance_ratio: float
    nearest: str
    """Name of the nearest training image."""
    second: str | None
    """Name of the nearest outside its duplicates; None where there is none."""
    nearest_rms: float
    """Distance in RMS grey levels."""
    second_rms: float | None
    pictures: dict[str, Picture]
    """Heading → picture, in their order."""


@dataclass(frozen=True)
class LeakRow:
    """A training image that leaked, with its closest copy."""

    leak: Leak
    rms: float
    """Distance of the closest copy in RMS grey levels."""
    pictures: tuple[Picture, Picture]
    keys: tuple[int | str, ...]
    """Of its closest copies, at most SHOWN_KEYS."""


@dataclass(frozen=True)
class Bin:
    """Generated images whose distance ratio is in [low, high)."""

    low: float
    high: float
    copies: int
    others: int


def render_page(result: ScanResult, report: dict[str, Any]) -> str:
    """The text of report.html.

    Args:
        result: what a scan found; its images and pairs are shown.
        report: `report_dict(result)`, whose numbers are shown, with `files`: name → SHA-256.
    """
    closest, edge = rows_to_show(result.matches)
    bins = histogram(result.matches, float(result.config.threshold))
    return render_template(
        "report.html.j2",
        report=report,
        headline=result.ratios["distinct"],
        by_seed=result.source["kind"] == "checkpoint",
        finished=datetime.fromisoformat(result.environment["finished"]),
        closest=[_pair(result, row) for row in closest],
        edge=[_pair(result, row) for row in edge],
        leaks=[_leak_row(result, leak) for leak in result.leaks[:SHOWN_LEAKS]],
        bins=bins,
        optimality=result.optimality,
        charts=[] if result.optimality is None else charts(result.optimality),
        ticks=count_ticks(max(bin.copies + bin.others for bin in bins)),
        timings=[(step, duration(seconds)) for step, seconds in result.timings.items()],
        no_second=int((result.matches.nn2_distinct < 0).sum()),
        reduced=max(result.data.image_shape[1:]) > LARGEST_PICTURE,
        amplified=AMPLIFIED,
    )


def rows_to_show(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the closest pairs, copies first, and of further ones on both sides of the edge."""
    order = np.lexsort((matches.distance_ratio, ~matches.memorized_distinct))
    num_copies = int(matches.memorized_distinct.sum())
    if num_copies <= CLOSEST_PAIRS:
        return order[:CLOSEST_PAIRS], order[:0]
    first = max(CLOSEST_PAIRS, num_copies - EDGE_PAIRS)
    return order[:CLOSEST_PAIRS], order[first : num_copies + EDGE_PAIRS]


def histogram(matches: Matches, threshold: float) -> list[Bin]:
    """Counts of the distance ratio d1/d2 over [0, 1], in bins that part at the threshold."""
    width = threshold / max(1, round(threshold / BIN_WIDTH))
    edges = np.append(np.arange(0, 1 - width / 2, width), 1.0)
    copies, others = (
        np.histogram(matches.distance_ratio[rows], edges)[0].tolist()
        for rows in (matches.memorized_distinct, ~matches.memorized_distinct)
    )
    low, high = edges[:-1].tolist(), edges[1:].tolist()
    return [Bin(*values) for values in zip(low, high, copies, others, strict=True)]


def count_ticks(largest: int) -> list[int]:
    """Round numbers from 0 to at least `largest`, for an axis of counts: 3 to 6 of them."""
    for step in (factor * 10**power for power in range(19) for factor in (1, 2, 5)):
        if step * 5 >= largest:
            break
    return list(range(0, max(largest, 2) + step, step))


def duration(seconds: float) -> str:
    """`0.42 s`, `12 s`, `3 min 20 s` or `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.{2 if seconds < 1 else 0}f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _pair(result: ScanResult, row: int) -> Pair:
    matches, data = result.matches, result.data
    nn1, nn2 = int(matches.nn1[row]), int(matches.nn2_distinct[row])
    x, y = result.generated[row], data.images[nn1]
    difference = np.abs(x.astype(int) - y) * AMPLIFIED
    nearest = data.names[nn1]
    second = data.names[nn2] if nn2 >= 0 else None
    pictures = {
        "Generated": embed(x, f"Generated image {short(result.keys[row])}"),
        "Nearest": embed(y, f"Nearest training image {short(nearest)}"),
    }
    if second is not None:
        alt = f"Second nearest training image {short(second)}"
        pictures["Second"] = embed(data.images[nn2], alt)
    pictures[f"Difference ×{AMPLIFIED}"] = embed(
        difference.clip(0, 255).astype(np.uint8),
        f"Difference between generated and nearest, times {AMPLIFIED}",
    )
    squared_distance2 = int(matches.squared_distance2_distinct[row])
    return Pair(
        key=result.keys[row],
        class_index=None if result.class_index is None else int(result.class_index[row]),
        is_copy=bool(matches.memorized_distinct[row]),
        distance_ratio=float(matches.distance_ratio[row]),
        nearest=nearest,
        second=second,
        nearest_rms=result.space.distance(int(matches.squared_distance1[row])),
        second_rms=None if nn2 < 0 else result.space.distance(squared_distance2),
        pictures=pictures,
    )


def _leak_row(result: ScanResult, leak: Leak) -> LeakRow:
    keys = tuple(result.keys[row] for row in leak.rows[:SHOWN_KEYS])
    return LeakRow(
        leak=leak,
        rms=result.space.distance(leak.squared_distance),
        pictures=(
            embed(result.data.images[leak.index], f"Training image {short(leak.name)}"),
            embed(result.generated[leak.best], f"Its closest copy, {short(keys[0])}"),
        ),
        keys=keys,
    )
