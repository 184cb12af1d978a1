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
from memaudit.audit.report.words import say
from memaudit.audit.scanned import Scanned
from memaudit.wording import short

CLOSEST_PAIRS = 16
"""Cards shown: one per training image, with the closest of its pairs."""
EDGE_PAIRS = 3
"""Pairs shown on each side of the threshold if the cards do not hold every copy."""
SHOWN_LEAKS = 40
"""Leaking training images listed."""
SHEET_PICTURES = 240
"""Pictures on the contact sheet. These limits keep a page of 64×64 images under 10 MB."""
SHEET_COPIES = 24
"""Copies of one training image on the contact sheet."""
SHEET_SIZE = 32
"""Pixels of the longer edge of its pictures."""
SHOWN_KEYS = 8
"""Seeds, names or duplicates listed for a leak."""
AMPLIFIED = 4
"""Factor of the difference pictures."""


HEADINGS = ("generated", "nearest", "second", "copied", "as_found")
"""Pictures of a pair, by the name of their heading's words."""
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
    framed: frozenset[str] = frozenset()
    """Headings of the pictures that have the frames."""
    num_copies: int = 0
    """Copies of the same training image, this one among them."""
    other_keys: tuple[int | str, ...] = ()
    """Seeds or names of further copies of it, the closest first, at most SHOWN_KEYS."""


@dataclass(frozen=True)
class SheetRow:
    """A training image on the contact sheet, and its copies."""

    name: str
    training: Picture | None
    copies: tuple[Picture | None, ...]
    """The closest first."""
    hits: int
    """All its copies."""


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
    """Rows of the closest pair of each training image, copies first; and, if these leave out
    copies, of further pairs around the threshold.
    """
    order = np.lexsort((matches.distance_ratio, ~matches.is_copy))
    _, first = np.unique(matches.copied[order], return_index=True)
    closest = order[np.sort(first)][:CLOSEST_PAIRS]
    num_copies = int(matches.is_copy.sum())
    if num_copies <= CLOSEST_PAIRS:
        return closest, order[:0]
    edge = order[max(0, num_copies - EDGE_PAIRS) : num_copies + EDGE_PAIRS]
    return closest, edge[~np.isin(edge, closest)]


def nearest_of(result: Scanned, row: int) -> tuple[str, str]:
    """Name of the training image that an image copies, or is nearest to, and the distance."""
    matches = result.matches
    found = tuple(_found(result, row))
    if found and not matches.is_pixel_copy[row]:
        return found[0].name, found[0].distance
    return (
        result.data.names[int(matches.nn1[row])],
        distance_text(result.space, matches.squared_distance1[row]),
    )


def contact_sheet(result: Scanned, shown: Pictures = "full") -> tuple[SheetRow, ...]:
    """Training images with their copies, most copied first, as many as there is room for."""
    if shown == "none":
        return ()
    rows: list[SheetRow] = []
    room = SHEET_PICTURES
    for leak in result.leaks:
        if room < 2:
            break
        copies = leak.rows[: min(SHEET_COPIES, room - 1)]
        name = short(leak.name)
        pictures = [
            embed(result.generated[row], _copy_of(result, row, name), shown, SHEET_SIZE)
            for row in copies
        ]
        original = embed(
            result.data.images[leak.index], say("pairs.training", name=name), shown, SHEET_SIZE
        )
        rows.append(SheetRow(leak.name, original, tuple(pictures), leak.hits))
        room -= 1 + len(copies)
    return tuple(rows)


def _copy_of(result: Scanned, row: int, name: str) -> str:
    return say("pairs.copy_of", key=short(result.keys[row]), name=name)


def pair(result: Scanned, row: int, shown: Pictures = "full") -> Pair:
    """Make the pair of one row of the matches, with its pictures."""
    matches, data = result.matches, result.data
    found = tuple(_found(result, row))
    others, num_copies = _other_copies(result, row)
    by_rule = found[0] if found and not matches.is_pixel_copy[row] else None
    nn1, nn2 = int(matches.nn1[row]), int(matches.nn2_distinct[row])
    x, y = result.generated[row], data.images[nn1]
    nearest = data.names[nn1]
    second = data.names[nn2] if nn2 >= 0 else None
    heading = {name: say(f"pairs.{name}") for name in HEADINGS}
    heading["difference"] = say("pairs.difference", times=AMPLIFIED)
    alt = say("pairs.generated_alt", name=short(result.keys[row]))
    pictures = {heading["generated"]: embed(x, alt, shown)}
    boxes: tuple[Box, ...] = ()
    framed: frozenset[str] = frozenset()
    if by_rule is None:
        alt = say("pairs.nearest_alt", name=short(nearest))
        pictures[heading["nearest"]] = embed(y, alt, shown)
        if second is not None:
            alt = say("pairs.second_alt", name=short(second))
            pictures[heading["second"]] = embed(data.images[nn2], alt, shown)
        difference_alt = say("pairs.difference_alt", times=AMPLIFIED)
    else:
        original = data.images[int(matches.copied[row])]
        y, boxes = RULE[by_rule.rule].show(original, by_rule.where)
        alt = say("pairs.training", name=short(by_rule.name))
        pictures[heading["copied"]] = embed(original, alt, shown)
        pictures[heading["as_found"]] = embed(
            y, say("pairs.as_found_alt", where=by_rule.where), shown
        )
        difference_alt = say("pairs.difference_found_alt", times=AMPLIFIED)
        framed = frozenset(heading[name] for name in ("generated", "as_found", "difference"))
    difference = np.abs(x.astype(int) - y) * AMPLIFIED
    pictures[heading["difference"]] = embed(
        difference.clip(0, 255).astype(np.uint8), difference_alt, shown
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
        framed=framed,
        num_copies=num_copies,
        other_keys=others,
    )


def _other_copies(result: Scanned, row: int) -> tuple[tuple[int | str, ...], int]:
    """Keys of further copies of the training image that an image copies, and how many it has."""
    if not result.matches.is_copy[row]:
        return (), 0
    copied = int(result.matches.copied[row])
    leak = next(leak for leak in result.leaks if leak.index == copied)
    keys = [result.keys[other] for other in leak.rows if other != row]
    return tuple(keys[:SHOWN_KEYS]), leak.hits


def _found(result: Scanned, row: int) -> Iterator[FoundBy]:
    """What further rules say of an image."""
    for found in result.matches.finds:
        if found.index[row] >= 0:
            distance = f"{found.distance(row):.2f}"
            if found.squared_distance.dtype.kind == "i":
                distance = say("first.gray_levels", distance=distance)
            name = result.data.names[int(found.index[row])]
            yield FoundBy(found.rule, name, found.where[row], distance)


def leak_row(result: Scanned, leak: Leak, shown: Pictures = "full") -> LeakRow:
    """Make the row of a leaking training image, with its pictures."""
    names = result.data.names
    keys = tuple(result.keys[row] for row in leak.rows[:SHOWN_KEYS])
    return LeakRow(
        leak=leak,
        distance=f"{leak_distance(leak, result.space):.{2 if result.space.exact else 4}f}",
        pictures=(
            embed(
                result.data.images[leak.index],
                say("pairs.training", name=short(leak.name)),
                shown,
                SHEET_SIZE,
            ),
            embed(
                result.generated[leak.best],
                say("pairs.closest_copy", key=short(keys[0])),
                shown,
                SHEET_SIZE,
            ),
        ),
        keys=keys,
        duplicates=tuple(names[i] for i in result.duplicates.get(leak.index, ())[:SHOWN_KEYS]),
        caption=""
        if result.data.captions is None or shown != "full"
        else caption_text(result.data.captions[leak.index]),
    )


def distance_text(space: Space, squared_distance: float) -> str:
    """A distance with its unit, where it has one."""
    if space.exact:
        return say("first.gray_levels", distance=f"{space.distance(squared_distance):.2f}")
    return f"{space.distance(squared_distance):.4f}"
