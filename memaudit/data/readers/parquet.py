"""Parquet files of images: one, or a folder of them, as Hugging Face's hub has them.

Format: https://parquet.apache.org/docs/file-format/, read with pyarrow.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from memaudit.data.layout import DEFAULT_LAYOUT, Layout
from memaudit.data.preparation import Preparation
from memaudit.data.readers.captions import METADATA_TABLE
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.reader import Files, Reader, first_bytes, stats
from memaudit.data.readers.shards import (
    are_the_set,
    beside,
    errors_of,
    files_with,
    library,
    shards_of_split,
)
from memaudit.data.readers.tables import EXTRA, read_table
from memaudit.data.room import check_memory
from memaudit.errors import DataError
from memaudit.files import open_regular

_BATCH_BYTES = 4 << 20
_MOST_ROWS = 1024
_FEW_ROWS = 16
"""Rows that are read at a time, of small images and of others."""
_PAGE_BYTES = 2 << 30
"""Most bytes of one page of a parquet file: the format has 31 bits for it."""


class _ParquetShard:
    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        with self._opened() as file:
            metadata = file.metadata
            self.num_rows = int(metadata.num_rows)
            self.schema = file.schema_arrow
            # pyarrow ends the process where it is asked for columns and their description is wrong.
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            self._groups = [(int(g.num_rows), int(g.total_byte_size)) for g in groups]
        sizes = [rows for rows, _ in self._groups]
        if min(sizes, default=0) < 0 or sum(sizes) != self.num_rows:
            raise DataError(f"{self.name} is damaged: its parts have {sum(sizes):,} rows in all.")

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        parquet = library("pyarrow.parquet", self.path, form="a parquet file", extra=EXTRA)
        with open_regular(self.path) as file, errors_of(self.name):
            yield parquet.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)

    @property
    def num_bytes(self) -> int:
        return self.path.stat().st_size

    def batches(
        self, columns: Sequence[str], rows: np.ndarray | None = None
    ) -> Iterator[tuple[int, Any]]:
        starts = np.cumsum([0, *(size for size, _ in self._groups)])
        with self._opened() as file:
            for i, (size, num_bytes) in enumerate(self._groups):
                start, end = starts[i : i + 2]
                if rows is not None and not np.any((rows >= start) & (rows < end)):
                    continue
                check_memory(min(max(0, num_bytes), _PAGE_BYTES), f"Reading {self.name}")
                # Many rows may share one value of the file.
                most = _MOST_ROWS if num_bytes < _BATCH_BYTES else _FEW_ROWS
                at = int(start)
                for batch in file.iter_batches(
                    max(1, min(most, _BATCH_BYTES * size // max(1, num_bytes))),
                    row_groups=[i],
                    columns=list(columns),
                    use_threads=False,
                ):
                    yield at, batch
                    at += batch.num_rows
                if at != end:
                    raise DataError(
                        f"{self.name} is damaged: it holds {at - start:,} rows of {size:,}."
                    )


def _is_parquet(path: Path) -> bool:
    return first_bytes(path, 4) == b"PAR1"


def _read_parquet(path: Path, _files: Files, preparation: Preparation) -> Contents:
    return read_table([_ParquetShard(path, path.name)], path, preparation)


FILE = Reader("a parquet file", _is_parquet, _read_parquet)


def _parquet_files(folder: Path) -> list[str]:
    names = files_with(folder, (".parquet",))
    # img2dataset writes one beside each tar, with the captions; others, one beside images.
    if any(name.rpartition("/")[2] == METADATA_TABLE for name in names) or files_with(
        folder, (".tar",)
    ):
        return []
    return names if are_the_set(folder, names) else []


def _is_parquet_folder(path: Path) -> bool:
    return path.is_dir() and bool(_parquet_files(path))


def _folder_files(path: Path) -> Files:
    return stats([path / name for name in _parquet_files(path)], inside=path)


def _read_parquet_folder(
    path: Path, files: Files, preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    chosen = shards_of_split(files, path, layout)
    shards = [_ParquetShard(path / name, name) for names in chosen.values for name in names]
    contents = replace(read_table(shards, path, preparation), unread=beside(path, files))
    return chosen.marked(contents)


def _folder_with_layout(layout: Layout) -> Reader:
    return replace(FOLDER, read=partial(_read_parquet_folder, layout=layout))


FOLDER = Reader(
    "a folder of parquet files",
    _is_parquet_folder,
    _read_parquet_folder,
    _folder_files,
    with_layout=_folder_with_layout,
)
