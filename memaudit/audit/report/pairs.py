"""The images that a report shows: pairs, and training images that leak."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memaudit.audit.memorization.matches import Leak, Matches
from memaudit.audit.neighbors.rules.registry import RULES
from memaudit.audit.neighbors.rules.rule import Box
from memaudit.audit.neighbors.units import Space
from memaudit.audit.report.html import Picture, embed
from memaudit.audit.report.pictures import Pictures
from memaudit.audit.report.tables import caption_text, leak_distance
from memaudit.audit.scanned import Scanned
from memaudit.wording import short

CLOSEST_PAIRS = 48
"""Number of closest pairs shown."""
EDGE_PAIRS = 6
"""Pairs shown on each side of the threshold if the closest pairs do not reach it."""
SHOWN_LEAKS = 120
"""Leaking training images shown. These limits keep a page of 64×64 images under 10 MB."""
SHOWN_KEYS = 8
"""Seeds, names or duplicates listed for a leak."""
AMPLIFIED = 4
"""Factor of the difference pictures."""


RULE = {rule.name: rule for rule in RULES}


@dataclass(frozen=True)
class Pair:
    """A generated image beside its neighbors."""

    key: int | str
    """Seed or name."""
    class_index: int | None
    is_copy: bool
    distance_ratio: float
    nearest: str
    """Name of the nearest training image."""
    second: str | None
    """Name of the nearest training image that is not its duplicate, or None if all are."""
    nearest_distance: str
    second_distance: str | None
    pictures: dict[str, Picture | None]
    """Pictures by heading, in the order shown; None where pages show none."""
    found: tuple["FoundBy", ...] = ()
    """What further rules found."""
    boxes: tuple[Box, ...] = ()
    """Parts of the generated image to frame, where a further rule alone calls it a copy."""


@dataclass(frozen=True)
class FoundBy:
    """A copy by a further rule."""

    rule: str
    name: str
    """Name of the training image."""
    where: str
    distance: str


@dataclass(frozen=True)
class LeakRow:
    """A training image that leaked, with its closest copy."""

    leak: Leak
    distance: str
    """Distance to its closest copy, with digits for display."""
    pictures: tuple[Picture | None, Picture | None]
    keys: tuple[int | str, ...]
    """Seeds or names of its closest copies, at most SHOWN_KEYS."""
    duplicates: tuple[str, ...]
    """Names of its duplicates in the training set, at most SHOWN_KEYS."""
    caption: str = ""
    """The text beside it, where the set has some and pictures are shown."""


def rows_to_show(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the closest pairs, copies first, and of further pairs around the threshold."""
    order = np.lexsort((matches.distance_ratio, ~matches.is_copy))
    num_copies = int(matches.is_copy.sum())
    if num_copies <= CLOSEST_PAIRS:
        return order[:CLOSEST_PAIRS], order[:0]
    first = max(CLOSEST_PAIRS, num_copies - EDGE_PAIRS)
    return order[:CLOSEST_PAIRS], order[first : num_copies + EDGE_PAIRS]


def pair(result: Scanned, row: int, shown: Pictures = "full") -> Pair:
    """Make the pair of one row of the matches, with its pictures."""
    matches, data = result.matches, result.data
    found = tuple(_found(result, row))
    by_rule = found[0] if found and not matches.is_pixel_copy[row] else None
    nn1, nn2 = int(matches.nn1[row]), int(matches.nn2_distinct[row])
    x, y = result.generated[row], data.images[nn1]
    nearest = data.names[nn1]
    second = data.names[nn2] if nn2 >= 0 else None
    pictures = {"Generated": embed(x, f"Generated image {short(result.keys[row])}", shown)}
    boxes: tuple[Box, ...] = ()
    if by_rule is None:
        pictures["Nearest"] = embed(y, f"Nearest training image {short(nearest)}", shown)
        if second is not None:
            alt = f"Second nearest training image {short(second)}"
            pictures["Second"] = embed(data.images[nn2], alt, shown)
        versus = "nearest"
    else:
        original = data.images[int(matches.copied[row])]
        y, boxes = RULE[by_rule.rule].show(original, by_rule.where)
        pictures["Copied"] = embed(original, f"Training image {short(by_rule.name)}", shown)
        pictures["As found"] = embed(y, f"The same, {by_rule.where}", shown)
        versus = "the same as found"
    difference = np.abs(x.astype(int) - y) * AMPLIFIED
    pictures[f"Difference ×{AMPLIFIED}"] = embed(
        difference.clip(0, 255).astype(np.uint8),
        f"Difference between generated and {versus}, times {AMPLIFIED}",
        shown,
    )
    return Pair(
        key=result.keys[row],
        class_index=None if result.class_index is None else int(result.class_index[row]),
        is_copy=bool(matches.is_copy[row]),
        distance_ratio=float(matches.distance_ratio[row]),
        nearest=nearest,
        second=second,
        nearest_distance=distance_text(result.space, matches.squared_distance1[row]),
        second_distance=None
        if second is None
        else distance_text(result.space, matches.squared_distance2_distinct[row]),
        pictures=pictures,
        found=found,
        boxes=boxes,
    )


def _found(result: Scanned, row: int) -> Iterator[FoundBy]:
    """What further rules say of an image."""
    for found in result.matches.finds:
        if found.index[row] >= 0:
            unit = " gray levels" if found.squared_distance.dtype.kind == "i" else ""
            yield FoundBy(
                found.rule,
                result.data.names[int(found.index[row])],
                found.where[row],
                f"{found.distance(row):.2f}{unit}",
            )


def leak_row(result: Scanned, leak: Leak, shown: Pictures = "full") -> LeakRow:
    """Make the row of a leaking training image, with its pictures."""
    names = result.data.names
    keys = tuple(result.keys[row] for row in leak.rows[:SHOWN_KEYS])
    return LeakRow(
        leak=leak,
        distance=f"{leak_distance(leak, result.space):.{2 if result.space.exact else 4}f}",
        pictures=(
            embed(result.data.images[leak.index], f"Training image {short(leak.name)}", shown),
            embed(result.generated[leak.best], f"Its closest copy, {short(keys[0])}", shown),
        ),
        keys=keys,
        duplicates=tuple(names[i] for i in result.duplicates.get(leak.index, ())[:SHOWN_KEYS]),
        caption=""
        if result.data.captions is None or shown != "full"
        else caption_text(result.data.captions[leak.index]),
    )


def distance_text(space: Space, squared_distance: float) -> str:
    """Format a distance in the unit of its space."""
    return f"{space.distance(squared_distance):.{2 if space.exact else 4}f}"
