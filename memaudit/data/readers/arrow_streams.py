"""The folders of `save_to_disk`, and single streams of Arrow.

Format: https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format. Where the record
batches of a stream lie is found here, so that each is read when it is needed; pyarrow reads them.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from memaudit.data.layout import DEFAULT_LAYOUT, Layout
from memaudit.data.preparation import Preparation
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.reader import Files, Reader, first_bytes, parse_json, stats
from memaudit.data.readers.shards import Chosen, choose, errors_of, library
from memaudit.data.readers.tables import EXTRA, read_table
from memaudit.data.room import check_memory
from memaudit.errors import DataError
from memaudit.files import open_regular, read_regular
from memaudit.wording import shown

_MAX_SIDE_FILE = 16 << 20
"""Most bytes of a JSON file that names the files of a set."""

_CONTINUES = 0xFFFFFFFF
_SCHEMA, _RECORD_BATCH = 1, 3
_MAX_MESSAGE = 16 << 20
"""Most bytes of what precedes the values of a record batch."""


class _Message:
    """What precedes a record batch: a table of FlatBuffers, of which four fields are needed."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        table = self._number("<I", 0)
        self.kind = self._field(table, 1, "<B")
        self.body = self._field(table, 3, "<q")
        at = self._place(table, 2)
        header = at + self._number("<I", at) if at else 0
        self.num_rows = self._field(header, 0, "<q") if self.kind == _RECORD_BATCH else 0
        self.is_packed = self.kind == _RECORD_BATCH and bool(self._place(header, 3))

    def _number(self, form: str, at: int) -> int:
        if at < 0:
            raise struct.error("an offset leads out of it")
        return int(struct.unpack_from(form, self._data, at)[0])

    def _place(self, table: int, field: int) -> int:
        """Where a field of a table is, or 0 if the table leaves it out."""
        fields = table - self._number("<i", table)
        entry = 4 + 2 * field
        if entry + 2 > self._number("<H", fields):
            return 0
        offset = self._number("<H", fields + entry)
        return table + offset if offset else 0

    def _field(self, table: int, field: int, form: str) -> int:
        at = self._place(table, field)
        return self._number(form, at) if at else 0


class _ArrowShard:
    """A stream of record batches, none of which is read before its values are needed."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._pyarrow = library("pyarrow", path, form="a file of Arrow", extra=EXTRA)
        self._places: list[tuple[int, int, int]] = []
        """Position of each record batch, its bytes, its rows."""
        self.schema: Any = None
        with open_regular(path) as file, errors_of(name):
            self._size = file.seek(0, 2)
            at = 0
            while at < self._size and (found := self._message(file, at)) is not None:
                message, start = found
                end = start + message.body
                if message.body < 0 or end > self._size or message.num_rows < 0:
                    raise DataError(f"{name} is cut short. Fetch or make it again.")
                if self.schema is None:
                    if message.kind != _SCHEMA:  # pyarrow takes another for one, and crashes
                        raise DataError(f"{name} is damaged: it does not begin with its schema.")
                    file.seek(at)
                    whole = self._pyarrow.ipc.read_message(file.read(end - at))
                    self.schema = self._pyarrow.ipc.read_schema(whole)
                elif message.kind != _RECORD_BATCH or message.is_packed:
                    what = "packed" if message.is_packed else "stored in a dictionary"
                    raise DataError(
                        f"{name} holds values that are {what}, which `save_to_disk` does not "
                        "write. Save the set with `to_parquet`."
                    )
                else:
                    self._places.append((at, end - at, message.num_rows))
                at = end
        if self.schema is None:
            raise DataError(f"{name} is not a stream of Arrow.")
        self.num_rows = sum(rows for _, _, rows in self._places)

    def _message(self, file: Any, at: int) -> tuple[_Message, int] | None:
        """The message at a position and where its values begin; None at the end."""
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return None
        mark, length = struct.unpack("<II", head)
        if mark != _CONTINUES:
            raise DataError(f"{self.name} is not a stream of Arrow, or an old one.")
        if length == 0:
            return None
        if length > min(_MAX_MESSAGE, self._size - at):
            raise DataError(f"{self.name} is damaged: it announces a message of {length:,} bytes.")
        return _Message(file.read(length)), at + 8 + length

    @property
    def num_bytes(self) -> int:
        return self._size

    def batches(
        self, columns: Sequence[str], rows: np.ndarray | None = None
    ) -> Iterator[tuple[int, Any]]:
        first = 0
        with open_regular(self.path) as file, errors_of(self.name):
            for at, size, num_rows in self._places:
                if rows is None or np.any((rows >= first) & (rows < first + num_rows)):
                    check_memory(size, f"Reading {self.name}")
                    file.seek(at)
                    message = self._pyarrow.ipc.read_message(file.read(size))
                    batch = self._pyarrow.ipc.read_record_batch(message, self.schema)
                    batch.validate(full=True)  # offsets may lead anywhere
                    if batch.num_rows != num_rows:
                        raise DataError(f"{self.name} is damaged: its number of rows is unclear.")
                    yield first, batch
                first += num_rows


_STATE = "state.json"
_DICT = "dataset_dict.json"


def _is_arrow(path: Path) -> bool:
    return path.suffix.lower() == ".arrow" and first_bytes(path, 4) == b"\xff\xff\xff\xff"


def _read_arrow(path: Path, _files: Files, preparation: Preparation) -> Contents:
    return read_table([_ArrowShard(path, path.name)], path, preparation)


FILE = Reader("a stream of Arrow", _is_arrow, _read_arrow)


def _is_saved(path: Path) -> bool:
    return (path / _STATE).is_file() or (path / _DICT).is_file()


def _saved_splits(path: Path, layout: Layout) -> Chosen[str]:
    """The folder of each split that is meant, inside that of the set."""
    splits = {"": ""}
    if (path / _DICT).is_file():
        named = _json(path / _DICT).get("splits")
        if not isinstance(named, list) or not named or not all(map(_is_plain, named)):
            raise DataError(f"{path}: {_DICT} names no splits.")
        splits = {name: f"{name}/" for name in named}
    return choose(splits, path, layout)


def _saved_files(path: Path, layout: Layout = DEFAULT_LAYOUT) -> Files:
    """The files of the splits that are meant of a set that `save_to_disk` wrote."""
    files = [path / _DICT] if (path / _DICT).is_file() else []
    for inside in _saved_splits(path, layout).values:
        folder = path / inside
        state = _json(folder / _STATE)
        if state.get("_indices_data_files"):
            raise DataError(
                f"{folder} holds rows of which only some are the set: {_STATE} names a file of "
                "indices. Save it again with `flatten_indices().save_to_disk`."
            )
        entries = state.get("_data_files")
        if not isinstance(entries, list) or not entries:
            raise DataError(f"{folder}: {_STATE} names no files of data.")
        names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
        for name in names:
            if not _is_plain(name):
                raise DataError(
                    f"{folder}: {_STATE} names {shown(name)}; a file beside it is needed."
                )
        if len(set(names)) != len(names):
            raise DataError(f"{folder}: {_STATE} has a file twice.")
        files += [folder / str(name) for name in names] + [folder / _STATE]
    return stats(files, inside=path)


def _read_saved(
    path: Path, files: Files, preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    names = [name for name in files if not name.endswith((_STATE, _DICT))]
    contents = read_table([_ArrowShard(path / name, name) for name in names], path, preparation)
    return _saved_splits(path, layout).marked(contents)


def _saved_with_layout(layout: Layout) -> Reader:
    read, files = partial(_read_saved, layout=layout), partial(_saved_files, layout=layout)
    return replace(SAVED, read=read, files=files)


SAVED = Reader(
    "a folder of save_to_disk",
    _is_saved,
    _read_saved,
    _saved_files,
    with_layout=_saved_with_layout,
)


def _is_plain(name: Any) -> bool:
    """Whether this is the name of a file in the same folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(read_regular(path, _MAX_SIDE_FILE))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON.") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is not readable JSON.")
    return found
