"""TFRecords of images, as StyleGAN has them: `shape` and `data`, or an image file in each.

Format: length (8 bytes), its CRC, data, its CRC; https://www.tensorflow.org/tutorials/load_data/
tfrecord. The data are a message `Example` of protocol buffers: a map of names to lists of bytes,
floats or integers. StyleGAN has one file for each preparation, `-r05.tfrecords` for 32×32, of which
the largest is the set, and labels in a `.labels` beside them.
"""

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from memaudit.data.images import as_labels, check_shape
from memaudit.data.layout import DEFAULT_LAYOUT, Layout
from memaudit.data.preparation import Preparation
from memaudit.data.readers.checksums import crc32c
from memaudit.data.readers.encoded_images import encoded_contents
from memaudit.data.readers.lazy_images import Contents, batch_rows
from memaudit.data.readers.npy_format import npy_array
from memaudit.data.readers.number_arrays import flat_labels
from memaudit.data.readers.reader import MAX_FILE_BYTES, Files, Reader, first_bytes, stats
from memaudit.data.readers.shards import (
    beside,
    files_with,
    rows_of_parts,
    shard_files,
    shards_of_split,
    split_of,
)
from memaudit.errors import DataError
from memaudit.files import open_regular, read_regular
from memaudit.wording import listed

_SUFFIXES = (".tfrecords", ".tfrecord")
_LEVEL = re.compile(r"-r(\d\d)\.tfrecords?$")
_MAX_LABELS = 1 << 32
_IMAGES = ("image/encoded", "image", "image_raw", "encoded", "jpeg", "png")
_LABELS = ("image/class/label", "label", "labels", "class", "target")
Example = dict[str, Any]


def _is_record_file(path: Path) -> bool:
    head = first_bytes(path, 12)
    if len(head) < 12:
        return False
    length, crc = struct.unpack("<QI", head)
    return bool(0 < length <= MAX_FILE_BYTES and _masked(head[:8]) == crc)


def _record_files(folder: Path) -> list[str]:
    return shard_files(folder, _SUFFIXES) if folder.is_dir() else []


def _is_folder(path: Path) -> bool:
    return bool(_record_files(path))


def _folder_files(path: Path) -> Files:
    names = _record_files(path)
    levels = {int(match[1]) for name in names if (match := _LEVEL.search(name))}
    if levels:
        _refuse_several_sets(names, path)
        largest = max(levels)
        names = [n for n in names if (m := _LEVEL.search(n)) and int(m[1]) == largest]
        labels = files_with(path, (".labels",))
        names += labels if len(labels) == 1 else []
    return stats([path / name for name in names], inside=path)


def _refuse_several_sets(names: list[str], path: Path) -> None:
    """Refuse files that are not all one set in several resolutions, since only one is taken."""
    sets: dict[str, set[str]] = {}
    for name in names:
        sets.setdefault(split_of(name), set()).add(_LEVEL.sub("", name))
    for found in sets.values():
        if len(found) > 1:
            raise DataError(
                f"{path} holds TFRecords of several sets ({listed(sorted(found))}). Give a folder "
                "or file of one."
            )


def _read_folder(
    path: Path, files: Files, preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    labels = [path / name for name in files if name.endswith(".labels")]
    chosen = shards_of_split([n for n in files if not n.endswith(".labels")], path, layout)
    names = [name for names in chosen.values for name in names]
    contents = _read([path / name for name in names], names, str(path), preparation, labels)
    others = beside(path, {*files, *_record_files(path)})
    return chosen.marked(replace(contents, unread=others))


def _folder_with_layout(layout: Layout) -> Reader:
    return replace(FOLDER, read=partial(_read_folder, layout=layout))


def _read_file(path: Path, _files: Files, preparation: Preparation) -> Contents:
    return _read([path], [path.name], str(path), preparation, [])


FOLDER = Reader(
    "a folder of TFRecords",
    _is_folder,
    _read_folder,
    _folder_files,
    with_layout=_folder_with_layout,
)
FILE = Reader("a TFRecord", _is_record_file, _read_file)


def _read(
    paths: list[Path],
    names: list[str],
    source: str,
    preparation: Preparation,
    label_files: list[Path],
) -> Contents:
    places = [_places(path, f"{source}: {name}") for path, name in zip(paths, names, strict=True)]
    sizes = [len(found) for found in places]
    if not sum(sizes):
        raise DataError(f"{source} holds no images.")

    def examples(rows: np.ndarray) -> Iterator[tuple[str, Example]]:
        for part, inside in rows_of_parts(rows, sizes):
            with open_regular(paths[part]) as file:
                for row in inside:
                    what = f"{source}: {names[part]}[{row}]"
                    start, length = places[part][row]
                    yield what, example(_record(file, start, length, what), what)

    all_names = [
        f"{name}[{i}]" for name, size in zip(names, sizes, strict=True) for i in range(size)
    ]
    everything = np.arange(sum(sizes))
    what, first = next(examples(everything[:1]))
    is_raw = "data" in first and "shape" in first
    keys = [name for name in _IMAGES if _is_bytes(first.get(name))]
    if not is_raw and not keys:
        raise DataError(
            f"{what} holds {', '.join(sorted(first)) or 'nothing'}; `shape` and `data`, or an "
            "image file in `image/encoded`, are needed."
        )
    label_key = next((name for name in _LABELS if _is_number(first.get(name))), None)
    labels = None
    if label_key is not None:
        found = []
        for what, values in examples(everything):
            if not _is_number(values.get(label_key)):
                raise DataError(f"{what} has no {label_key}, and the first has one.")
            found.append(values[label_key][0])
        if set(found) != {-1}:
            labels = as_labels(found, len(found), source)
    elif label_files:
        labels = _labels_beside(label_files[0], len(all_names))
    if is_raw:
        return _raw_contents(source, all_names, examples, labels)

    def read(rows: np.ndarray) -> Iterator[bytes]:
        for what, values in examples(rows):
            if not _is_bytes(values.get(keys[0])):
                raise DataError(f"{what} has no {keys[0]}, and the first has one.")
            if len(values[keys[0]]) > 1:
                raise DataError(
                    f"{what} holds {len(values[keys[0]]):,} images in {keys[0]}; one in each "
                    "record is needed. Save each frame as a record of its own."
                )
            yield values[keys[0]][0]

    return encoded_contents(
        source,
        all_names,
        read,
        num_bytes=sum(length for found in places for _, length in found),
        preparation=preparation,
        labels=labels,
    )


def _raw_contents(source: str, names: list[str], examples: Any, labels: Any) -> Contents:
    what, first = next(examples(np.arange(1)))
    shape = _shape(first, what)

    def batches(rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        wanted = np.arange(len(names)) if rows is None else rows
        size = batch_rows(shape[0] * shape[1] * shape[2])
        for start in range(0, len(wanted), size):
            part = wanted[start : start + size]
            images = np.empty((len(part), *shape), np.uint8)
            for i, (what, values) in enumerate(examples(part)):
                if _shape(values, what) != shape:
                    raise DataError(
                        f"{what} is {list(_shape(values, what))}, and the first is {list(shape)}. "
                        "All images must have one size and one mode."
                    )
                images[i] = np.frombuffer(values["data"][0], np.uint8).reshape(shape)
            yield images

    return Contents(source, (len(names), *shape), names, batches, labels)


def _shape(values: Example, what: str) -> tuple[int, int, int]:
    shape, data = values.get("shape"), values.get("data")
    if not _is_bytes(data) or not _is_number(shape) or len(shape or ()) != 3:
        raise DataError(f"{what} lacks `shape` [C, H, W] or `data`.")
    assert shape is not None and data is not None
    C, H, W = shape
    if min(shape) < 1 or C * H * W != len(data[0]):
        raise DataError(f"{what} announces {list(shape)} bytes and holds {len(data[0]):,}.")
    check_shape((1, C, H, W), what)
    return C, H, W


def _labels_beside(path: Path, num_images: int) -> np.ndarray | None:
    """The classes in StyleGAN's .labels: a .npy of integers, or of a one and zeros for each."""
    labels = npy_array(read_regular(path, _MAX_LABELS), str(path))
    if labels.ndim == 2 and labels.shape[1] > 1 and np.all((labels == 0) | (labels == 1)):
        labels = labels.argmax(1)
    if labels.size == 0 or (labels.ndim == 2 and labels.shape[1] == 0):
        return None
    return as_labels(flat_labels(labels), num_images, str(path))


def _is_bytes(value: Any) -> bool:
    return bool(value) and isinstance(value[0], bytes)


def _is_number(value: Any) -> bool:
    return bool(value) and isinstance(value[0], int)


# ------------------------------------------------------------------------------------------------
# Records


def _places(path: Path, what: str) -> list[tuple[int, int]]:
    """Position and length of each record."""
    found = []
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while at < size:
            file.seek(at)
            head = file.read(12)
            if len(head) < 12:
                raise DataError(f"{what} is cut short. Fetch it again.")
            length, crc = struct.unpack("<QI", head)
            if _masked(head[:8]) != crc or at + 16 + length > size:
                raise DataError(f"{what} is damaged or cut short at byte {at:,}. Fetch it again.")
            if length > MAX_FILE_BYTES:
                raise DataError(f"{what} holds a record of {length:,} bytes.")
            found.append((at + 12, length))
            at += 16 + length
    return found


def _record(file: BinaryIO, start: int, length: int, what: str) -> bytes:
    file.seek(start)
    data = file.read(length + 4)
    if len(data) != length + 4 or _masked(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise DataError(f"{what} is damaged: its checksum does not match. Fetch it again.")
    return data[:-4]


def _masked(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def example(data: bytes, what: str) -> Example:
    """The lists in a message `Example`, by name: of bytes, of floats (as one bytes), of integers.

    Raises:
        DataError: it is not such a message.
    """
    found: Example = {}
    try:
        for features in _fields(data, 1):
            for entry in _fields(features, 1):
                name = next(_fields(entry, 1), b"").decode()
                for value in _fields(entry, 2):
                    for field, content in _messages(value):
                        if field == 1:
                            found[name] = list(_fields(content, 1))
                        elif field == 3:
                            found[name] = _integers(content)
    except (ValueError, IndexError) as error:
        raise DataError(f"{what} is not an Example of TensorFlow.") from error
    return found


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message that have a length; others are passed over."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 2:
            length, at = _varint(data, at)
            if length > len(data) - at:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, data[at : at + length]
            at += length
        elif kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("a field of an unknown kind")


def _fields(data: bytes, number: int) -> Iterator[bytes]:
    return (content for field, content in _messages(data) if field == number)


def _integers(data: bytes) -> list[int]:
    """An Int64List: packed, or one by one."""
    found = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value, at = _varint(data, at)
        if tag == 0x08:
            found.append(_signed(value))
        elif tag == 0x0A:
            end = at + value
            if end > len(data):
                raise ValueError("a list is longer than its message")
            while at < end:
                value, at = _varint(data, at)
                found.append(_signed(value))
        else:
            raise ValueError("no list of integers")
    return found


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise ValueError("a number without end")
