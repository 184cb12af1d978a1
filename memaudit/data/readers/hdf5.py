"""HDF5 files of images: BigGAN's `imgs` and `labels`, MATLAB's since 7.3, and others'.

Only what lies in the file itself is read: neither links to other files, nor data sets that are kept
in or put together from other files. Format: https://docs.hdfgroup.org, read with h5py.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from memaudit.data.layout import DEFAULT_LAYOUT, Layout
from memaudit.data.preparation import Preparation
from memaudit.data.readers.array_names import Arrays, arrays_of_splits, left_out
from memaudit.data.readers.lazy_images import Contents, numbered_names
from memaudit.data.readers.number_arrays import (
    flat_labels,
    number_contents,
    one_class_each,
    whole_numbers,
)
from memaudit.data.readers.reader import DEFLATE_RATIO, Files, Reader, first_bytes
from memaudit.data.readers.shards import choose_one, errors_of, library
from memaudit.data.room import check_memory
from memaudit.errors import DataError
from memaudit.files import open_regular
from memaudit.wording import listed

_MAGIC = b"\x89HDF\r\n\x1a\n"
_MATLAB = b"MATLAB 7.3 MAT-file"
_MAX_OBJECTS = 10_000
_MAX_CHUNK = 1 << 30
_MAX_LABELS = 100_000_000
_KEPT = 64 << 20
"""Most bytes of a chunk that is kept for the rows that follow."""


def _is_hdf5(path: Path) -> bool:
    head = first_bytes(path, 520)
    return head.startswith(_MAGIC) or (head.startswith(_MATLAB) and head[512:] == _MAGIC)


def _read(
    path: Path, _files: Files, preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    source = str(path)
    is_matlab = first_bytes(path, 64).startswith(_MATLAB)
    with _opened(path) as file:
        found = _data_sets(file, source)
        splits = _splits(found, path)
        arrays, chosen = choose_one(splits, path, layout)
        images = _DataSet(path, arrays.images, found[arrays.images], is_matlab)
        labels = None
        notes: tuple[str, ...] = ()
        if arrays.labels is not None:
            holder = found[arrays.labels]
            _check(holder, f"{arrays.labels} in {source}")
            if math.prod(holder.shape) > _MAX_LABELS:
                raise DataError(f"{arrays.labels} in {source} is {list(holder.shape)}.")
            labels = flat_labels(holder[()])
            if is_matlab:
                labels = whole_numbers(labels)
            labels, notes = one_class_each(labels, f"{arrays.labels} in {source}")
        notes += left_out(source, _like_images(found), splits)
    contents = number_contents(
        images,
        source,
        f"{arrays.images} in {source}",
        numbered_names(path.name, images.shape[0] if images.shape else 0),
        window=preparation.window,
        labels=labels,
    )
    return chosen.marked(replace(contents, notes=(*contents.notes, *notes)))


def _with_layout(layout: Layout) -> Reader:
    return replace(READER, read=partial(_read, layout=layout))


READER = Reader("an HDF5 file", _is_hdf5, _read, with_layout=_with_layout)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    h5py = library("h5py", path, form="an HDF5 file", extra="data")
    with open_regular(path) as file, errors_of(str(path)):
        with h5py.File(file, "r") as opened:
            yield opened


def _data_sets(file: Any, source: str) -> dict[str, Any]:
    """All data sets in the file itself, by name."""
    found: dict[str, Any] = {}
    count = 0

    def visit(name: str, item: Any) -> None:
        nonlocal count
        count += 1
        if count > _MAX_OBJECTS:
            raise DataError(f"{source} holds more than {_MAX_OBJECTS:,} data sets and groups.")
        if hasattr(item, "shape") and item.shape is not None and item.dtype.kind in "biuf":
            found[name] = item

    file.visititems(visit)  # follows no link to another place
    return found


def _like_images(found: Mapping[str, Any]) -> list[str]:
    """The data sets with as many axes as images have, and more than one value for each."""
    return [
        name
        for name, item in found.items()
        if len(item.shape) in (3, 4) and math.prod(item.shape) > item.shape[0]
    ]


def _splits(found: Mapping[str, Any], path: Path) -> dict[str, Arrays]:
    """The names of the images and labels, by split, or by data set if there are several."""
    images = _like_images(found)
    labels = [name for name in found if name not in images]
    splits = arrays_of_splits([*images, *labels])
    splits = {split: arrays for split, arrays in splits.items() if arrays.images in images}
    if not splits:
        if not images:
            held = listed(f"{name} {list(item.shape)}" for name, item in found.items())
            raise DataError(
                f"{path} holds {held or 'no numbers'}; one data set of images, [N, C, H, W], is "
                "needed, or one called images."
            )
        named = [name for name in labels if name.rpartition("/")[2] in ("labels", "label", "y")]
        label = named[0] if len(named) == len(images) == 1 else None
        return {name if len(images) > 1 else "": Arrays(name, label) for name in images}
    return splits


def _check(item: Any, what: str) -> None:
    """Refuse a data set that lies elsewhere, or announces more than it can hold."""
    if item.external or item.is_virtual:
        raise DataError(f"{what} lies in other files; copy it into one file with h5repack.")
    stored = min(item.id.get_storage_size(), item.file.id.get_filesize())
    num_bytes = math.prod(item.shape) * item.dtype.itemsize
    is_packed = item.compression is not None or bool(item._filters)
    if num_bytes > stored * (DEFLATE_RATIO if is_packed else 1):
        raise DataError(
            f"{what} announces {item.dtype} {list(item.shape)} and holds {stored:,} bytes. Fetch "
            "or make it again."
        )
    if item.chunks is not None:
        chunk = math.prod(item.chunks) * item.dtype.itemsize
        if chunk > _MAX_CHUNK:
            raise DataError(f"{what} is kept in chunks of {chunk:,} bytes; at most 1 GiB are read.")
        check_memory(2 * chunk, f"Reading {what}")


class _DataSet:
    """A data set in a file that is opened for each reading."""

    def __init__(self, path: Path, name: str, item: Any, is_matlab: bool) -> None:
        _check(item, f"{name} in {path}")
        self._path, self._name = path, name
        # MATLAB's first axis is the last one here.
        self._is_matlab = is_matlab and len(item.shape) in (3, 4)
        self.shape: tuple[int, ...] = tuple(map(int, item.shape))
        if self._is_matlab:
            self.shape = (*self.shape[:-2], self.shape[-1], self.shape[-2])
        self.dtype = np.dtype(item.dtype)
        self._rows = item.chunks[0] if item.chunks is not None else 1
        if self._rows * math.prod(self.shape[1:]) * self.dtype.itemsize > _KEPT:
            self._rows = 1
        self._kept: tuple[int, np.ndarray] | None = None

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        if stop - start != 1 or self._rows == 1:
            return self._read(start, stop)
        first = start // self._rows * self._rows
        if self._kept is None or self._kept[0] != first:
            self._kept = first, self._read(first, min(first + self._rows, self.shape[0]))
        return self._kept[1][start - first : stop - first]

    def _read(self, start: int, stop: int) -> np.ndarray:
        with _opened(self._path) as file:
            found = np.asarray(file[self._name][start:stop])
        expected = (stop - start, *self.shape[1:])
        if self._is_matlab:
            found = found.swapaxes(-1, -2)
        if found.shape != expected or found.dtype != self.dtype:
            raise DataError(f"{self._path} changed while it was read.")
        return found
