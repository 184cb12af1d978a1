"""The arrays in an .npz file: their headers, their values, and rows of planes as images."""

import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from memaudit.data.readers.npy_format import Header, npy_array, read_header
from memaudit.data.readers.zip_members import (
    Members,
    data_start,
    opened_zip,
    stored_start,
    zip_members,
)
from memaudit.data.room import check_memory
from memaudit.errors import DataError
from memaudit.files import open_regular

_HEAD_BYTES = 16 << 10
"""Bytes of a member that hold the header of its array."""
_PIECE = 16 << 20
_JUDGED = 256
_CLEARLY_SMOOTHER = 0.7
"""Images by which the order of bytes is judged, and how much smoother the other one must be."""
OF_IMAGENET = re.compile(
    r"(train_data_batch_(?P<number>[1-9]\d{0,2})|val_data)(?P<npz>\.npz)?", re.ASCII
)
"""What the files of the downsampled ImageNet are called; their labels count from 1."""


def npz_members(path: Path) -> Members:
    """The members of an .npz file that hold arrays, by name with suffix."""
    return zip_members(path, lambda name: name.endswith(".npy"))


def read_npz_array(path: Path, members: Members, key: str) -> np.ndarray:
    """One array of an .npz file."""
    what = f"{key} in {path}"
    member = members[f"{key}.npy"]
    check_memory(member.compress_size + member.file_size, f"Reading {what}")
    try:
        with opened_zip(path, members) as read:
            data = read(member.filename)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(what, error) from error
    return npy_array(data, what)


def _unreadable(what: str, error: Exception) -> DataError:
    return DataError(f"{what} cannot be read: {error}. Fetch or make it again.")


class NpzRows:
    """The rows of an array in an .npz file, which are read when they are needed.

    As np.savez writes it, an array is mapped; a packed one is read as a whole.
    """

    def __init__(self, path: Path, members: Members, key: str) -> None:
        self.what = f"{key} in {path}"
        self._path, self._members, self._key = path, members, key
        self._member = members[f"{key}.npy"]
        start = stored_start if self._is_stored else data_start
        with open_regular(path) as file:
            try:
                self._start = start(file, self._member)
            except zipfile.BadZipFile as error:
                raise _unreadable(self.what, error) from error
            self.header = self._header(file)

    def _header(self, file: BinaryIO) -> Header:
        file.seek(self._start)
        head = file.read(min(self._member.compress_size, _HEAD_BYTES))
        if not self._is_stored:
            try:
                head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, _HEAD_BYTES)
            except zlib.error as error:
                raise _unreadable(self.what, error) from error
        return read_header(io.BytesIO(head), self._member.file_size, self.what)

    @property
    def _is_stored(self) -> bool:
        return self._member.compress_type == zipfile.ZIP_STORED

    def array(self) -> np.ndarray:
        """All of it, mapped where that is possible."""
        header = self.header
        if not self._is_stored:
            return read_npz_array(self._path, self._members, self._key)
        with open_regular(self._path) as file:
            at = self._start + header.start
            return np.memmap(file, header.dtype, "r", at, header.shape, header.order)

    def check(self) -> None:
        """Compare the checksum of a mapped array; a packed one was compared when it was read.

        Raises:
            DataError: it differs.
        """
        if not self._is_stored:
            return
        found = 0
        with open_regular(self._path) as file:
            for piece in _pieces(file, self._start, self._member.file_size):
                found = zlib.crc32(piece, found)
        if found != self._member.CRC:
            raise DataError(f"{self.what}: its checksum does not match. Fetch or make it again.")


def _pieces(file: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    file.seek(start)
    while size > 0 and (piece := file.read(min(_PIECE, size))):
        size -= len(piece)
        yield piece


def planes(array: np.ndarray, what: str) -> np.ndarray:
    """Rows of 3·S·S bytes as images of three planes, as CIFAR and ImageNet64 have them."""
    if array.ndim != 2 or array.dtype != np.uint8:
        return array
    size = math.isqrt(array.shape[1] // 3)
    if size < 2 or 3 * size * size != array.shape[1]:
        raise DataError(f"{what} is uint8 {list(array.shape)}; rows of images have 3·S·S bytes.")
    return array.reshape(-1, 3, size, size)


def refuse_interleaved(images: np.ndarray, what: str) -> None:
    """Refuse rows that were taken for three planes and are smoother as pixels of three bytes.

    Rows of an image differ little from one to the next, if they are its rows.

    Args:
        images: uint8 [N, 3, S, S], as `planes` made them.
        what: their name in the error.
    """
    part = np.ascontiguousarray(images[:_JUDGED]).astype(np.int16)
    N, _, S, _ = part.shape
    other = part.reshape(N, S, S, 3)
    as_planes = np.abs(np.diff(part, axis=2)).mean()
    as_pixels = np.abs(np.diff(other, axis=1)).mean()
    if as_pixels < _CLEARLY_SMOOTHER * as_planes:
        raise DataError(
            f"{what} holds rows of {3 * S * S:,} bytes that are not images of three planes, as "
            f"CIFAR's are: they seem to be pixels of three bytes. Save them as images, [N, {S}, "
            f"{S}, 3], with images.reshape(-1, {S}, {S}, 3)."
        )


def counts_from_one(path: Path, labels: np.ndarray, *, has_mean: bool) -> bool:
    """Whether the labels of rows of planes are ImageNet's from 1 to 1000: train's or val's."""
    if labels.dtype.kind not in "iu" or not labels.size or labels.min() < 1:
        return False
    is_named = OF_IMAGENET.fullmatch(path.name) is not None
    return has_mean or is_named or (int(labels.min()), int(labels.max())) == (1, 1000)
