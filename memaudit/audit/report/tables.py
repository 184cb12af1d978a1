"""The tables of a report as text: matches.csv, leaks.csv, screening.csv, written and read back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from memaudit.audit.memorization.matches import Leak, Matches
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.memorization.screened import ScreenedRows
from memaudit.audit.neighbors.results import DistinctNeighbors
from memaudit.audit.neighbors.rules.registry import PIXELS
from memaudit.audit.neighbors.rules.rule import Finds
from memaudit.audit.neighbors.units import Space
from memaudit.audit.scanned import Keys
from memaudit.audit.statistics.conformal import ConformalP
from memaudit.escapes import csv_rows, csv_text
from memaudit.wording import printable


@dataclass(frozen=True)
class MatchTable:
    """The content of matches.csv."""

    keys: Keys
    class_index: np.ndarray | None
    """int64 [M]: the class that each image was generated for, or None."""
    matches: Matches
    conformal: ConformalP | None = None
    """The p-value of each distance ratio among those of held-out images, or None without any."""
    groups: np.ndarray | None = None
    """int64 [M, 2]: the groups of nn1 and of nn2_distinct, -1 beside none; None where groups do not
    count."""

    @staticmethod
    def groups_of(matches: Matches, numbers: np.ndarray | None) -> np.ndarray | None:
        """`groups` of matches, given the groups of the training images, int64 [N], if they count"""
        if numbers is None:
            return None
        second = np.where(matches.nn2_distinct < 0, -1, numbers[matches.nn2_distinct])
        return np.stack([numbers[matches.nn1], second], 1)


FIND_COLUMNS = ("index", "squared_distance", "num_values")
"""Columns of what a further rule found, after its name: the training image, S and its values."""
WHERE = "where"
"""The column of where it was found."""


def matches_csv(table: MatchTable) -> str:
    """The text of matches.csv."""
    columns = match_columns(table)
    return csv_text(columns, zip(*columns.values(), strict=True))


def match_columns(table: MatchTable) -> dict[str, Sequence[Any]]:
    """The columns of matches.csv: seed or name, neighbors, and each rule's verdict per image."""
    matches = table.matches
    columns: dict[str, Sequence[Any]] = {_key_column(table.keys): table.keys}
    if table.class_index is not None:
        columns["class_index"] = table.class_index.tolist()
    columns |= {
        "nn1": matches.nn1.tolist(),
        "nn2": matches.nn2.tolist(),
        "nn2_distinct": matches.nn2_distinct.tolist(),
        "squared_distance1": matches.squared_distance1.tolist(),
        "squared_distance2": matches.squared_distance2.tolist(),
        "squared_distance2_distinct": matches.squared_distance2_distinct.tolist(),
        "memorized_paper": matches.memorized_paper.astype(int).tolist(),
        "memorized_distinct": matches.memorized_distinct.astype(int).tolist(),
        "copy": matches.is_copy.astype(int).tolist(),
        "distance_ratio": matches.distance_ratio.tolist(),
    }
    if table.groups is not None:
        columns["nn1_group"], columns["nn2_distinct_group"] = table.groups.T.tolist()
    for found in matches.finds:
        for part, values in zip(
            FIND_COLUMNS,
            (found.index, found.squared_distance, found.num_values),
            strict=True,
        ):
            columns[f"{found.rule}_{part}"] = values.tolist()
        columns[f"{found.rule}_{WHERE}"] = found.where
    if table.conformal is not None:
        columns["p_value"] = table.conformal.p_value.tolist()
        columns["q_value"] = table.conformal.q_value.tolist()
    near = matches.neighbors
    for row, radius in enumerate(near.radii):
        if radius != matches.rule.duplicate_rms:
            columns[f"nn2_distinct_at_{radius:g}"] = near.index_distinct[row].tolist()
            columns[f"squared_distance2_distinct_at_{radius:g}"] = near.squared_distance_distinct[
                row
            ].tolist()
    return columns


def read_matches(
    text: str, rule: Rule, space: Space, *, match: Sequence[str] = (), num_holdout: int = 0
) -> MatchTable:
    """Read what `matches_csv` wrote.

    Args:
        text: the text of matches.csv.
        rule: the rule by which the images were judged.
        space: what the distances are distances of.
        match: the rules that count, where whole images alone do not.
        num_holdout: held-out images behind the p-values, which the table does not say.

    Raises:
        ValueError: the table has another form.
    """
    rows = csv_rows(text)
    header = next(rows, [])
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))

    def indices(name: str) -> np.ndarray:
        return np.array([int(value) for value in columns[name]], dtype=np.int64)

    def distances(name: str) -> np.ndarray:
        values = columns[name]
        if all(value.lstrip("-").isdigit() for value in values):
            return indices(name)
        return np.array([float(value) for value in values])

    prefix = "nn2_distinct_at_"
    suffix_of = {
        float(name.removeprefix(prefix)): name.removeprefix("nn2_distinct")
        for name in header
        if name.startswith(prefix)
    }
    suffix_of[float(rule.duplicate_rms)] = ""
    radii = tuple(sorted(suffix_of))
    try:
        neighbors = DistinctNeighbors(
            radii=radii,
            index=np.stack([indices("nn1"), indices("nn2")], 1),
            squared_distance=np.stack(
                [distances("squared_distance1"), distances("squared_distance2")], 1
            ),
            index_distinct=np.stack([indices(f"nn2_distinct{suffix_of[r]}") for r in radii]),
            squared_distance_distinct=np.stack(
                [distances(f"squared_distance2_distinct{suffix_of[r]}") for r in radii]
            ),
            statistics=None,
            num_values=space.num_values if space.exact else None,
        )
        finds = tuple(
            Finds(
                name,
                index=indices(f"{name}_index"),
                squared_distance=distances(f"{name}_squared_distance"),
                num_values=indices(f"{name}_num_values"),
                where=columns[f"{name}_{WHERE}"],
            )
            for name in match
            if name != PIXELS
        )
        keys: Keys = columns["name"] if "name" in columns else tuple(map(int, columns["seed"]))
    except KeyError as error:
        raise ValueError(f"the column {error} is missing") from error
    classes = indices("class_index") if "class_index" in columns else None
    groups = conformal = None
    if "nn1_group" in columns:
        groups = np.stack([indices("nn1_group"), indices("nn2_distinct_group")], 1)
    if "p_value" in columns:
        conformal = ConformalP(np.array([float(p) for p in columns["p_value"]]), num_holdout)
    return MatchTable(keys, classes, Matches(neighbors, rule, finds), conformal, groups)


def screening_csv(keys: Keys, rows: ScreenedRows, matches: Matches, below: Fraction) -> str:
    """The text of screening.csv: what both samplers say of each seed that was sampled in full.

    Args:
        keys: the seeds.
        rows: what screening said of them.
        matches: of their images by the full sampler.
        below: distance ratio below which a seed is a candidate.
    """
    rule = matches.rule
    columns: dict[str, Sequence[Any]] = {
        "seed": keys,
        "drawn": rows.is_drawn.astype(int).tolist(),
        "candidate": rows.is_copy(rule, below).astype(int).tolist(),
        "screened_nn1": rows.nn1.tolist(),
        "screened_squared_distance1": rows.squared_distance1.tolist(),
        "screened_squared_distance2": rows.squared_distance2.tolist(),
        "screened_distance_ratio": rows.distance_ratio.tolist(),
        "screened_copy": rows.is_copy(rule).astype(int).tolist(),
        "distance_ratio": matches.distance_ratio.tolist(),
        "same_nn1": (rows.nn1 == matches.nn1).astype(int).tolist(),
        "copy": matches.is_copy.astype(int).tolist(),
    }
    return csv_text(columns, zip(*columns.values(), strict=True))


def read_screening(text: str, space: Space) -> ScreenedRows:
    """Read what `screening_csv` wrote of the screened images.

    Raises:
        ValueError: the table has another form.
    """
    rows = csv_rows(text)
    header = next(rows, [])
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    kind: type = int if space.exact else float
    try:
        return ScreenedRows(
            is_drawn=np.array([bool(int(value)) for value in columns["drawn"]]),
            nn1=np.array([int(value) for value in columns["screened_nn1"]], dtype=np.int64),
            squared_distance1=np.array(
                [kind(value) for value in columns["screened_squared_distance1"]]
            ),
            squared_distance2=np.array(
                [kind(value) for value in columns["screened_squared_distance2"]]
            ),
            num_values=space.num_values if space.exact else None,
        )
    except KeyError as error:
        raise ValueError(f"the column {error} is missing") from error


MAX_CAPTION = 1000
"""Characters of a caption in leaks.csv."""


def caption_text(caption: str | None) -> str:
    """A caption as leaks.csv has it: on one line, cut where it is very long, empty for None."""
    return str(printable(" ".join((caption or "").split())[:MAX_CAPTION]))


def leaks_csv(
    leaks: Sequence[Leak],
    keys: Keys,
    space: Space,
    duplicates: Mapping[int, Sequence[int]],
    captions: Mapping[int, str] | None = None,
    *,
    with_rules: bool = False,
) -> str:
    """The text of leaks.csv: one row per leaking training image, most copied first.

    Args:
        leaks: the training images.
        keys: seeds or names of the generated images.
        space: what the distances are distances of.
        duplicates: indices of each image's duplicates, by its index.
        captions: `caption_text` of each image by its index, or None for no column of them.
        with_rules: whether a column says which rule found the closest copy of each.
    """
    column = _key_column(keys)
    header = ["index", "name", "hits", "squared_distance", "distance", f"{column}s", "duplicates"]
    has_groups = any(leak.group is not None for leak in leaks)
    header += ["group"] if has_groups else []
    header += ["rule"] if with_rules else []
    return csv_text(
        header if captions is None else [*header, "caption"],
        (
            (
                leak.index,
                leak.name,
                leak.hits,
                leak.squared_distance,
                leak_distance(leak, space),
                (" " if column == "seed" else ";").join(str(keys[row]) for row in leak.rows),
                " ".join(map(str, duplicates.get(leak.index, ()))),
                *([leak.group or ""] if has_groups else []),
                *([leak.rule] if with_rules else []),
                *([] if captions is None else [captions.get(leak.index, "")]),
            )
            for leak in leaks
        ),
    )


def leak_distance(leak: Leak, space: Space) -> float:
    """Distance of a leak's closest copy: in gray levels of what its rule compares, or of features.

    Args:
        leak: the training image.
        space: what the distances of whole images are distances of.
    """
    if leak.num_values is None:
        return space.distance(leak.squared_distance)
    return math.sqrt(leak.squared_distance / leak.num_values)


class LeakNames(NamedTuple):
    """Facts about training images in leaks.csv that do not follow from the matches."""

    names: dict[int, str]
    """Name of each training image, by its index."""
    duplicates: dict[int, tuple[int, ...]]
    """Indices of each image's duplicates, by its index."""
    captions: dict[int, str] | None = None
    """Caption of each training image, by its index, or None without the column."""
    groups: dict[int, str] | None = None
    """What each training image belongs to, by its index, or None without the column."""


def read_leaks(text: str) -> LeakNames:
    """Read names, duplicates, captions and groups of the training images in leaks.csv.

    Raises:
        ValueError: the table has another form.
    """
    lines = csv_rows(text)
    header = next(lines, [])
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    try:
        return LeakNames(
            {int(row["index"]): row["name"] for row in rows},
            {int(row["index"]): tuple(map(int, row["duplicates"].split())) for row in rows},
            {int(row["index"]): row["caption"] for row in rows} if "caption" in header else None,
            {int(row["index"]): row["group"] for row in rows} if "group" in header else None,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the column {error} is missing") from error


def read_leak_keys(text: str) -> dict[int, tuple[int | str, ...]]:
    """Read the seeds or names of the copies of each training image in leaks.csv, by its index.

    Raises:
        ValueError: the table has another form.
    """
    lines = csv_rows(text)
    header = next(lines, [])
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    try:
        if "seeds" in header:
            return {int(row["index"]): tuple(map(int, row["seeds"].split())) for row in rows}
        return {int(row["index"]): tuple(row["names"].split(";")) for row in rows}
    except KeyError as error:
        raise ValueError(f"the column {error} is missing") from error


def _key_column(keys: Keys) -> str:
    return "seed" if isinstance(keys[0], int) else "name"
