"""CSV files that say one thing of each image: a name and a label, or a name and a group."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from memaudit.errors import DataError
from memaudit.wording import shown

_NAME_COLUMNS = ("name", "file", "filename", "file_name", "image", "image_id", "path", "id")
_WITHOUT_HEADER = (0, 1)
"""The columns of names and values in a file without a header."""


class SideTable(NamedTuple):
    """What a file says of images."""

    values: dict[str, str]
    """Name → value."""
    header: str | None
    """What the file calls the values, in lower case, if it has a header."""


def read_table(data: bytes, file: Path, what: str, columns_of_it: Sequence[str]) -> SideTable:
    """Read a name and a value from each row.

    Args:
        data: of the file.
        file: its name in an error.
        what: the value: "label" or "group".
        columns_of_it: what a header may call it.

    Raises:
        DataError: a row has another form, or an image two values.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8 text (byte {error.start:,}); save it as CSV UTF-8. What is "
            f"lost otherwise could make one {what} of two."
        ) from error
    first, _, _ = text.partition("\n")
    separator = next((mark for mark in ",\t;" if mark in first), ",")
    values: dict[str, str] = {}
    columns, header = _WITHOUT_HEADER, None
    try:
        for number, row in enumerate(csv.reader(io.StringIO(text), delimiter=separator), 1):
            if not row:
                continue
            if number == 1 and (chosen := _columns(row, columns_of_it)):
                columns, header = chosen, row[chosen[1]].strip().lower()
                continue
            if columns is _WITHOUT_HEADER and sum(bool(cell.strip()) for cell in row) > 2:
                raise DataError(
                    f"{file}, line {number}: {shown(separator.join(row))} has {len(row)} columns, "
                    f"and no header says which of them is the {what}. Call two of them name and "
                    f"{what} in the first line."
                )
            if len(row) <= max(columns):
                raise DataError(
                    f"{file}, line {number}: {shown(separator.join(row))} is not a name and a "
                    f"{what}, separated by a comma."
                )
            name, value = (row[column].strip() for column in columns)
            name = name.replace("\\", "/").removeprefix("./")
            if values.setdefault(name, value) != value:
                raise DataError(f"{file} gives two {what}s to {shown(name)}.")
    except csv.Error as error:
        raise DataError(f"{file} is not a CSV file that can be read: {error}.") from error
    return SideTable(values, header)


def keys_of(names: Sequence[str]) -> Iterable[tuple[str, ...]]:
    """What each image may be called: its name, its file's, or that without the suffix.

    The shorter ones only where no other image has the same.
    """
    files = [name.rpartition("/")[2] for name in names]
    stems = [file.rpartition(".")[0] or file for file in files]
    from_outer = [name.split("/", 1)[-1] for name in names]  # as seen from an outer folder
    shorter = [keys for keys in (from_outer, files, stems) if len(set(keys)) == len(keys)]
    return zip(names, *shorter, strict=True)


def rows_of(names: Sequence[str], stated: Mapping[str, str]) -> Iterator[str | None]:
    """What a table says of each image, or None."""
    for keys in keys_of(names):
        yield next((stated[key] for key in keys if key in stated), None)


def _columns(row: Sequence[str], columns_of_it: Sequence[str]) -> tuple[int, int] | None:
    """The columns of names and values, if a row is a header."""
    words = [cell.strip().lower() for cell in row]
    names = [i for i, word in enumerate(words) if word in _NAME_COLUMNS]
    values = [i for i, word in enumerate(words) if word in columns_of_it]
    return (names[0], values[0]) if names and values else None
