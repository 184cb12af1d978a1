"""Images in an LMDB, as LSUN and StyleGAN's for PyTorch have them: a key and an image file each.

The library would map the file and trust what it says. Here the tree is walked by reading, with
every page and length compared with the file; nothing is locked or written.

Format: http://www.lmdb.tech/doc/ (data version 1): pages of a B+ tree, two of which tell the root.
"""

import os
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from memaudit.data.preparation import Preparation
from memaudit.data.readers.decoding import is_image
from memaudit.data.readers.encoded_images import encoded_contents
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.reader import MAX_FILE_BYTES, Files, Reader, first_bytes, stats
from memaudit.data.readers.shards import are_the_set, beside
from memaudit.errors import DataError
from memaudit.files import open_regular
from memaudit.wording import shown

_FILE, _LOCK = "data.mdb", "lock.mdb"
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEADER = 16
"""Bytes at the start of each page: number, flags, where its free space begins and ends."""
_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_NODE = 8
_IN_OVERFLOW, _SUB_DATABASE, _DUPLICATES = 0x01, 0x02, 0x04
_NO_PAGE = (1 << 64) - 1
_MAX_KEY = 511
_MAX_DEPTH = 32
_OF_SIZE = re.compile(rb"(\d{1,5})-(\d{1,9})")
"""StyleGAN's keys: resolution and number."""


class _Value(NamedTuple):
    key: bytes
    start: int
    size: int


def _is_lmdb_file(path: Path) -> bool:
    head = first_bytes(path, _HEADER + 8)
    return len(head) == _HEADER + 8 and struct.unpack_from("<II", head, _HEADER) == (
        _MAGIC,
        _VERSION,
    )


def _is_folder(path: Path) -> bool:
    is_one = (path / _FILE).is_file() and _is_lmdb_file(path / _FILE)
    return is_one and are_the_set(path, [_FILE])


def _folder_files(path: Path) -> Files:
    return stats([path / _FILE])


def _read_folder(path: Path, _files: Files, preparation: Preparation) -> Contents:
    contents = _read(path / _FILE, str(path), preparation)
    unread = Counter(contents.unread) + Counter(beside(path, (_FILE, _LOCK)))
    return replace(contents, unread=dict(unread.most_common()))


def _read_file(path: Path, _files: Files, preparation: Preparation) -> Contents:
    return _read(path, str(path), preparation)


FOLDER = Reader("a folder of LMDB", _is_folder, _read_folder, _folder_files)
FILE = Reader("a file of LMDB", _is_lmdb_file, _read_file)


def _read(file: Path, source: str, preparation: Preparation) -> Contents:
    values, others = _images(file, source)

    def read(rows: np.ndarray) -> Iterator[bytes]:
        with open_regular(file) as opened:
            for row in rows:
                yield _content(opened.fileno(), values[row], source)

    contents = encoded_contents(
        source,
        [_name(value.key) for value in values],
        read,
        num_bytes=file.stat().st_size,
        preparation=preparation,
    )
    return replace(contents, unread={"": others}) if others else contents


def _images(file: Path, source: str) -> tuple[list[_Value], int]:
    """The values that are image files, in order, and the number of others."""
    images: list[_Value] = []
    others = 0
    example = b""
    with open_regular(file) as opened:
        descriptor = opened.fileno()
        for value in _walk(descriptor, os.fstat(descriptor).st_size, source):
            head = os.pread(descriptor, min(value.size, 32), value.start)
            if is_image(head):
                images.append(value)
            elif value.key not in (b"length", b"__len__", b"__keys__"):
                others += 1
                example = example or head
    if not images:
        found = "pickles, which are not run" if example[:1] == b"\x80" else "no image files"
        raise DataError(
            f"{source} holds {others:,} values and {found}. Save the images as PNG, each under "
            "its key, or as a folder."
        )
    sizes = {match[1] for value in images if (match := _OF_SIZE.fullmatch(value.key))}
    if sizes and all(_OF_SIZE.fullmatch(value.key) for value in images):
        largest = max(sizes, key=int)
        images = [value for value in images if value.key.startswith(largest + b"-")]
        images.sort(key=lambda value: int(value.key.partition(b"-")[2]))
    return images, others


def _name(key: bytes) -> str:
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return key.hex()
    return text if text.isprintable() else key.hex()


def _content(descriptor: int, value: _Value, source: str) -> bytes:
    data = os.pread(descriptor, value.size, value.start)
    if len(data) != value.size:
        raise DataError(f"{source}: {_name(value.key)} is cut short.")
    return data


def _walk(descriptor: int, size: int, source: str) -> Iterator[_Value]:
    """All keys in order, and where their values lie."""
    page_size, root = _root(descriptor, size, source)
    if root == _NO_PAGE:
        return
    num_pages = size // page_size
    seen = 0
    stack = [(root, 0)]
    while stack:
        number, depth = stack.pop()
        seen += 1
        if not 2 <= number < num_pages or seen > num_pages or depth > _MAX_DEPTH:
            raise DataError(f"{source} is damaged: its tree leads to page {number:,}.")
        page = os.pread(descriptor, page_size, number * page_size)
        flags, lower = struct.unpack_from("<HH", page, 10)
        count = (lower - _HEADER) // 2
        if not 0 <= count <= (page_size - _HEADER) // 2 or not flags & (_BRANCH | _LEAF):
            raise DataError(f"{source} is damaged: page {number:,} does not belong to a tree.")
        places = struct.unpack_from(f"<{count}H", page, _HEADER)
        try:
            if flags & _BRANCH:
                stack.extend((_child(page, place), depth + 1) for place in reversed(places))
            else:
                for place in places:
                    yield _value(page, place, number * page_size, page_size, size)
        except (struct.error, ValueError) as error:
            reason = error if isinstance(error, ValueError) else "its data end too early"
            raise DataError(f"{source} is damaged: page {number:,}: {reason}.") from error


def _root(descriptor: int, size: int, source: str) -> tuple[int, int]:
    """The size of a page, and the page of the root, of the later of two states."""
    head = os.pread(descriptor, 4096, 0)
    if len(head) < 4096:
        raise DataError(f"{source} is cut short.")
    page_size = struct.unpack_from("<I", head, _HEADER + 24)[0]
    if page_size not in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536) or size < 2 * page_size:
        raise DataError(f"{source} is damaged: it announces pages of {page_size:,} bytes.")
    states = []
    for number in (0, 1):
        page = os.pread(descriptor, 256, number * page_size)
        magic, version = struct.unpack_from("<II", page, _HEADER)
        if (magic, version) == (_MAGIC, _VERSION):
            (root,) = struct.unpack_from("<Q", page, _HEADER + 24 + 48 + 40)
            (flags,) = struct.unpack_from("<H", page, _HEADER + 24 + 48 + 4)
            (transaction,) = struct.unpack_from("<Q", page, _HEADER + 24 + 96 + 8)
            states.append((transaction, root, flags))
    if not states:
        raise DataError(f"{source} is damaged: it has no root.")
    _, root, flags = max(states)
    if flags & 0x04:
        raise DataError(f"{source} holds several values under one key, which is not read.")
    return page_size, root


def _child(page: bytes, place: int) -> int:
    low, high, flags, _ = struct.unpack_from("<HHHH", page, place)
    return int(low | high << 16 | flags << 32)


def _value(page: bytes, place: int, begin: int, page_size: int, size: int) -> _Value:
    low, high, flags, key_size = struct.unpack_from("<HHHH", page, place)
    num_bytes = low | high << 16
    key_at = place + _NODE
    key = page[key_at : key_at + key_size]
    if len(key) != key_size or not 0 < key_size <= _MAX_KEY:
        raise ValueError("a key leads out of it")
    if flags & (_SUB_DATABASE | _DUPLICATES):
        raise ValueError("it holds a database of its own, which is not read")
    at = key_at + key_size
    if flags & _IN_OVERFLOW:
        (number,) = struct.unpack_from("<Q", page, at)
        start = number * page_size + _HEADER
    else:
        start = begin + at
        if at + num_bytes > page_size:
            raise ValueError(f"the value of {shown(_name(key))} leads out of it")
    if start + num_bytes > size:
        raise ValueError(f"the value of {shown(_name(key))} leads out of the file")
    if num_bytes > MAX_FILE_BYTES:
        raise ValueError(f"{shown(_name(key))} is said to have {num_bytes:,} bytes")
    return _Value(key, start, num_bytes)
