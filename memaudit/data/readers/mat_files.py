"""MATLAB's .mat files before 7.3, such as SVHN's: `X` [H, W, C, N] and `y`.

Format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf, version 5: elements of a
tag and data, packed with deflate each. Only plain arrays of numbers are read, and of each element
as much as its dimensions announce.
"""

import math
import os
import struct
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from memaudit.data.layout import DEFAULT_LAYOUT, Layout
from memaudit.data.preparation import Preparation
from memaudit.data.readers.array_names import arrays_of_splits, left_out
from memaudit.data.readers.lazy_images import Contents, numbered_names
from memaudit.data.readers.number_arrays import (
    flat_labels,
    number_contents,
    one_class_each,
    whole_numbers,
)
from memaudit.data.readers.reader import DEFLATE_RATIO, Files, Reader, first_bytes
from memaudit.data.readers.shards import choose_one
from memaudit.data.room import check_memory
from memaudit.errors import DataError
from memaudit.files import open_regular
from memaudit.wording import listed

_TITLE = b"MATLAB 5.0 MAT-file"
_HEADER = 128
_MATRIX, _PACKED = 14, 15
_HEAD_BYTES = 4096
"""Bytes of an element that hold its dimensions and its name."""
_MAX_ELEMENTS = 10_000
_MAX_DIMENSIONS = 8
_NUMBERS = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
}
"""Kinds of stored numbers."""
_CLASSES = {
    **{6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4"},
    **{14: "i8", 15: "u8"},
}
"""Kinds of arrays."""
_COMPLEX = 0x08


class _Array(NamedTuple):
    """An array that is not read yet."""

    shape: tuple[int, ...]
    dtype: str
    start: int
    """Position of its element's data in the file."""
    size: int
    """Bytes of them."""
    is_packed: bool
    order: str
    values_at: int
    """Position of the tag of its numbers in the unpacked element."""


def _is_mat(path: Path) -> bool:
    return first_bytes(path, len(_TITLE)) == _TITLE


def _read(
    path: Path, _files: Files, preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    source = str(path)
    with open_regular(path) as file:
        found = _arrays(file, source)
        splits = arrays_of_splits(list(found))
        splits = {s: a for s, a in splits.items() if len(found[a.images].shape) in (3, 4)}
        if not splits:
            held = listed(f"{name} {list(array.shape)}" for name, array in found.items())
            raise DataError(
                f"{source} holds {held or 'no numbers'}; an array of images called X or images is "
                "needed, [H, W, C, N]."
            )
        arrays, chosen = choose_one(splits, path, layout)
        what = f"{arrays.images} in {source}"
        images = _values(file, found[arrays.images], what)
        labels = None
        notes: tuple[str, ...] = ()
        if arrays.labels is not None:
            named = f"{arrays.labels} in {source}"
            labels = whole_numbers(flat_labels(_values(file, found[arrays.labels], named)))
            labels, notes = one_class_each(labels, named)
        images_like = [name for name, array in found.items() if len(array.shape) in (3, 4)]
        notes += left_out(source, images_like, splits)
    images = images.transpose(-1, *range(images.ndim - 1))  # [H, W, C, N] → [N, H, W, C]
    is_svhn = arrays == ("X", "y") and images.shape[1:] == (32, 32, 3)
    if is_svhn and labels is not None and len(labels) and labels.min() >= 1 and labels.max() == 10:
        labels = np.where(labels == 10, 0, labels)  # the digit 0
    names = numbered_names(path.name, len(images))
    contents = number_contents(
        images, source, what, names, window=preparation.window, labels=labels
    )
    return chosen.marked(replace(contents, notes=(*contents.notes, *notes)))


def _with_layout(layout: Layout) -> Reader:
    return replace(READER, read=partial(_read, layout=layout))


READER = Reader("a .mat file", _is_mat, _read, with_layout=_with_layout)


def _arrays(file: BinaryIO, source: str) -> dict[str, _Array]:
    """The arrays of plain numbers in a file, by name."""
    found: dict[str, _Array] = {}
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(_HEADER)
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    if order is None:
        raise DataError(f"{source} is not a .mat file of version 5.")
    at = _HEADER
    for _ in range(_MAX_ELEMENTS):
        if at >= size:
            return found
        file.seek(at)
        tag = file.read(8)
        if len(tag) < 8:
            raise DataError(f"{source} is cut short. Fetch it again.")
        kind, length = struct.unpack(f"{order}II", tag)
        if at + 8 + length > size:
            raise DataError(f"{source} is cut short. Fetch it again.")
        try:
            array = _array(file, at, kind, length, order)
        except (struct.error, zlib.error, ValueError) as error:
            raise DataError(f"{source} is damaged at byte {at:,}: {error}.") from error
        if array is not None:
            name, described = array
            if name in found:
                raise DataError(f"{source} holds {name} twice.")
            found[name] = described
        at += 8 + length
    raise DataError(f"{source} holds more than {_MAX_ELEMENTS:,} arrays.")


def _array(
    file: BinaryIO, at: int, kind: int, length: int, order: str
) -> tuple[str, _Array] | None:
    """The name and place of an array of numbers; None for anything else."""
    is_packed = kind == _PACKED
    head = file.read(min(length, _HEAD_BYTES))
    start, size = (at + 8, length) if is_packed else (at, length + 8)
    if is_packed:
        head = zlib.decompressobj().decompress(head, _HEAD_BYTES)
        kind = struct.unpack_from(f"{order}I", head)[0]
    else:
        head = bytes(8) + head
    if kind != _MATRIX:
        return None
    flags = struct.unpack_from(f"{order}I", head, 16)[0]
    if flags & 255 not in _CLASSES or flags >> 8 & _COMPLEX:
        return None
    dims, place = _element(head, 24, order)
    name, place = _element(head, place, order)
    if len(dims) % 4 or not 2 <= len(dims) // 4 <= _MAX_DIMENSIONS:
        raise ValueError("it announces no dimensions")
    shape = struct.unpack(f"{order}{len(dims) // 4}i", dims)
    if min(shape) < 0 or math.prod(max(n, 1) for n in shape) >= 1 << 48:
        raise ValueError(f"it announces {list(shape)}")
    dtype = _CLASSES[flags & 255]
    return name.decode("latin1"), _Array(shape, dtype, start, size, is_packed, order, place)


def _element(data: bytes, at: int, order: str) -> tuple[bytes, int]:
    """The data of an element, and where the next one begins."""
    kind, length = struct.unpack_from(f"{order}II", data, at)
    if kind >> 16:  # a small one, within its tag
        length, begin, end = kind >> 16, at + 4, at + 8
    else:
        begin = at + 8
        end = begin + -(-length // 8) * 8
    if length > 4 and kind >> 16:
        raise ValueError("a small element is larger than four bytes")
    if begin + length > len(data):
        raise ValueError("it ends too early")
    return data[begin : begin + length], end


def _values(file: BinaryIO, array: _Array, what: str) -> np.ndarray:
    """The numbers of an array, in MATLAB's order of axes."""
    count = math.prod(array.shape)
    largest = array.values_at + 16 + 8 * count
    if array.is_packed and count > DEFLATE_RATIO * array.size:
        raise DataError(
            f"{what} announces {list(array.shape)} numbers and holds {array.size:,} bytes."
        )
    check_memory(array.size + 9 * count if array.is_packed else array.size, f"Reading {what}")
    file.seek(array.start)
    data = file.read(array.size)
    try:
        if array.is_packed:
            data = zlib.decompressobj().decompress(data, largest)
        kind, _ = struct.unpack_from(f"{array.order}II", data, array.values_at)
        kind &= 0xFFFF
        if kind not in _NUMBERS:
            raise ValueError("its numbers are of an unknown kind")
        stored = np.dtype(array.order + _NUMBERS[kind])
        values, _ = _element(data, array.values_at, array.order)
        if len(values) != count * stored.itemsize:
            raise ValueError(f"it announces {list(array.shape)} numbers and holds other")
    except (struct.error, zlib.error, ValueError) as error:
        raise DataError(f"{what} is damaged: {error}. Fetch it again.") from error
    numbers = np.frombuffer(values, stored).reshape(array.shape, order="F")
    return numbers if stored == np.dtype(array.dtype) else numbers.astype(array.dtype)
