"""The page of a report: one HTML file that needs no network and no JavaScript.

What the page says is in templates/report.html.j2, how it looks in templates/report.css.
"""

import base64
import io
import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from memaudit.audit.report_chart import charts
from memaudit.audit.scan import Leak, Matches, ScanResult
from memaudit.audit.statistics import percent
from memaudit.data.writers import to_picture

CLOSEST_PAIRS = 48
"""Pairs shown from the closest on."""
EDGE_PAIRS = 6
"""Pairs shown on each side of the threshold, where the closest ones do not reach it."""
SHOWN_LEAKS = 150
"""Leaking training images shown. With these limits a page of 64×64 images stays under 10 MB."""
SHOWN_KEYS = 8
"""Seeds or names listed for a leak."""
LARGEST_PICTURE = 64
"""Pixels; pictures of larger images are averaged down."""
AMPLIFIED = 4
"""Factor of the difference pictures."""
BIN_WIDTH = 1 / 30
"""About the width of a histogram bin; the threshold falls between two bins."""


@dataclass(frozen=True)
class Picture:
    """An image of the page."""

    uri: str
    """data: URI of a PNG."""
    alt: str
    width: int
    """In pixels of the image."""
    height: int


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
    environment = Environment(
        loader=PackageLoader("memaudit.audit"),
        autoescape=True,
        finalize=printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, grouped="{:,}".format, short=short)
    closest, edge = rows_to_show(result.matches)
    bins = histogram(result.matches, float(result.config.threshold))
    return environment.get_template("report.html.j2").render(
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


def rms_grey_levels(squared_distance: int, image_shape: tuple[int, int, int]) -> float:
    """sqrt(S/D): 0 where images are equal, 255 for black against white."""
    return math.sqrt(squared_distance / math.prod(image_shape))


def duration(seconds: float) -> str:
    """`0.42 s`, `12 s`, `3 min 20 s` or `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.{2 if seconds < 1 else 0}f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def short(text: Any, length: int = 100) -> str:
    """`text` with its middle left out where it is longer than `length`."""
    text = str(text)
    half = (length - 3) // 2
    return text if len(text) <= length else f"{text[:half]} … {text[-half:]}"


def printable(value: Any) -> Any:
    """Text with everything that has no shape of its own escaped; other values as they are.

    Names come from strangers: bytes that are no text (surrogates) could not be encoded, and marks
    that turn the direction of writing would show a name that is not there.
    """
    if type(value) is not str:  # a Markup was made by the template itself
        return value
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in value
    )


def _pair(result: ScanResult, row: int) -> Pair:
    matches, data = result.matches, result.data
    nn1, nn2 = int(matches.nn1[row]), int(matches.nn2_distinct[row])
    x, y = result.generated[row], data.images[nn1]
    difference = np.abs(x.astype(int) - y) * AMPLIFIED
    nearest = data.names[nn1]
    second = data.names[nn2] if nn2 >= 0 else None
    pictures = {
        "Generated": _picture(x, f"Generated image {short(result.keys[row])}"),
        "Nearest": _picture(y, f"Nearest training image {short(nearest)}"),
    }
    if second is not None:
        alt = f"Second nearest training image {short(second)}"
        pictures["Second"] = _picture(data.images[nn2], alt)
    pictures[f"Difference ×{AMPLIFIED}"] = _picture(
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
        nearest_rms=rms_grey_levels(int(matches.squared_distance1[row]), data.image_shape),
        second_rms=None if nn2 < 0 else rms_grey_levels(squared_distance2, data.image_shape),
        pictures=pictures,
    )


def _leak_row(result: ScanResult, leak: Leak) -> LeakRow:
    keys = tuple(result.keys[row] for row in leak.rows[:SHOWN_KEYS])
    return LeakRow(
        leak=leak,
        rms=rms_grey_levels(leak.squared_distance, result.data.image_shape),
        pictures=(
            _picture(result.data.images[leak.index], f"Training image {short(leak.name)}"),
            _picture(result.generated[leak.best], f"Its closest copy, {short(keys[0])}"),
        ),
        keys=keys,
    )


def _picture(pixels: np.ndarray, alt: str) -> Picture:
    """uint8 [C, H, W] as a picture of the page."""
    picture = to_picture(pixels)
    picture = picture.reduce(max(1, math.ceil(max(picture.size) / LARGEST_PICTURE)))
    png = io.BytesIO()
    picture.save(png, format="png")
    uri = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    return Picture(uri=uri, alt=alt, width=picture.width, height=picture.height)
