"""Where the files in a tar lie, so that each can be read when it is needed.

Format: https://www.gnu.org/software/tar/manual/html_node/Standard.html, and pax's extended headers.
A packed archive is unpacked first, into a file without a name, since it can only be read in order.
"""

import os
import shutil
import tarfile
import tempfile
import weakref
from pathlib import Path
from typing import BinaryIO, NamedTuple

from memaudit.data.readers.tar_members import is_packed, unpacked
from memaudit.data.room import in_words
from memaudit.errors import DataError
from memaudit.files import open_regular
from memaudit.wording import quoted, shown

BLOCK = 512
_MAX_NAME = 64 << 10
"""Most bytes of a long name or an extended header."""
_MAX_CHAIN = 4
"""Most headers that describe the one after them."""
_FILES = (b"0", b"\0", b"7")
_PAX, _PAX_FOR_ALL, _LONG_NAME, _LONG_LINK, _SPARSE = b"x", b"g", b"L", b"K", b"S"

_RATIO = 100
"""Images hardly become smaller when they are packed; headers and labels do."""
_ALWAYS = 256 << 20
_PIECE = 1 << 20


class TarFile(NamedTuple):
    """A plain file in an archive."""

    name: str
    start: int
    """Position of its first byte in the unpacked archive."""
    size: int


def tar_files(file: BinaryIO, size: int, what: str) -> tuple[list[TarFile], int]:
    """The plain files of an unpacked archive in order, and where they end.

    Links and folders are passed over.

    Args:
        file: the archive, which is read and sought from its current position.
        size: bytes from there to its end.
        what: the archive's name in an error.

    Returns:
        The files, and the position of the mark that ends them, or `size` if there is none.

    Raises:
        DataError: it is damaged.
    """
    found: list[TarFile] = []
    begin = file.tell()
    at = 0
    name: str | None = None
    length: int | None = None
    chain = 0
    while at < size:
        file.seek(begin + at)
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            raise DataError(f"{what} is cut short. Fetch it again.")
        if not header.strip(b"\0"):
            return found, at
        try:
            if _number(header[148:156]) != sum(header[:148]) + sum(header[156:]) + 8 * 32:
                raise ValueError("the checksum of a header does not match")
            own_length = _number(header[124:136])
        except ValueError as error:
            raise DataError(
                f"{what} is damaged at byte {at:,}: {error}. Fetch it again."
            ) from error
        kind = header[156:157]
        start = at + BLOCK
        describes = kind in (_PAX, _PAX_FOR_ALL, _LONG_NAME, _LONG_LINK)
        taken = own_length if describes or length is None else length
        if taken < 0 or start + taken > size:
            said = quoted(_text(header[:100]))
            raise DataError(
                f"{what}: {said} is said to have {taken:,} bytes, and {max(0, size - start):,} are "
                "there. Fetch it again."
            )
        at = start + -(-taken // BLOCK) * BLOCK
        if describes:
            chain += 1
            if taken > _MAX_NAME or chain > _MAX_CHAIN:
                raise DataError(f"{what} is damaged: a header in it describes too much.")
            data = file.read(taken)
            if kind == _LONG_NAME:
                name = _text(data)
            elif kind == _PAX:
                name, length = _extended(data, name, length, what)
            continue
        if kind == _SPARSE:
            raise DataError(f"{what} holds files with holes; make it again without --sparse.")
        if kind in _FILES:
            own = name if name is not None else _own_name(header)
            found.append(TarFile(_plain(own), start, taken))
        name, length, chain = None, None, 0
    return found, size


def doubt_about_end(file: BinaryIO, end: int, size: int, what: str) -> str | None:
    """Why there may be more than was read of an unpacked archive, or None.

    Args:
        file: the archive, at its beginning.
        end: where its files end, as `tar_files` returns it.
        size: bytes of the archive.
        what: its name.
    """
    if end >= size:
        return (
            f"{what} lacks the mark of its end, as an archive does that was cut short between two "
            "files. Compare its size with the original's."
        )
    file.seek(end, os.SEEK_CUR)
    if file.read(min(size - end, _PIECE)).strip(b"\0"):  # it is filled up with zeros
        return (
            f"{what} continues after its end, as archives do that were put together with cat. What "
            "follows was not read; trainers that use Python's tarfile do not read it, either."
        )
    return None


def _number(field: bytes) -> int:
    try:
        return int(tarfile.nti(field))  # type: ignore[attr-defined]
    except tarfile.HeaderError as error:
        raise ValueError(str(error)) from error


def _own_name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _extended(
    data: bytes, name: str | None, length: int | None, what: str
) -> tuple[str | None, int | None]:
    """The name and size that an extended header gives: lines of `LENGTH KEY=VALUE`."""
    at = 0
    while at < len(data):
        digits = data[at : at + 20].partition(b" ")[0]
        if not digits.isdigit() or not len(digits) + 2 < int(digits) <= len(data) - at:
            raise DataError(f"{what} is damaged: an extended header cannot be read.")
        key, _, value = data[at + len(digits) + 1 : at + int(digits) - 1].partition(b"=")
        at += int(digits)
        if key == b"path":
            name = value.decode("utf-8", "surrogateescape")
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise DataError(f"{what} is damaged: {shown(value)} is not a size.")
            length = int(value)
        elif key.startswith(b"GNU.sparse"):
            raise DataError(f"{what} holds files with holes; make it again without --sparse.")
    return name, length


class _Room:
    """A file without a name, which is closed with the last archive that lies in it."""

    def __init__(self) -> None:
        self.file: BinaryIO = tempfile.TemporaryFile()
        weakref.finalize(self, self.file.close)


class Archive(NamedTuple):
    """An archive that can be read anywhere."""

    path: Path
    unpacked: _Room | None
    """What it was unpacked into, or None if it is not packed."""
    begin: int
    """Position of the archive in that file."""
    size: int

    def opened(self) -> BinaryIO:
        """The file to read; to be closed only if it is not the one of the unpacked archives."""
        return open_regular(self.path) if self.unpacked is None else self.unpacked.file

    def close(self, file: BinaryIO) -> None:
        """Close what `opened` opened."""
        if self.unpacked is None:
            file.close()


def archives(paths: list[Path]) -> list[Archive]:
    """Archives, of which packed ones are unpacked into a file that nobody else sees.

    Raises:
        DataError: one is damaged, or unpacks to more than any set of images would.
    """
    found = []
    room: _Room | None = None
    for path in paths:
        if not is_packed(path):
            found.append(Archive(path, None, 0, path.stat().st_size))
            continue
        if room is None:
            room = _Room()
        begin = room.file.seek(0, os.SEEK_END)
        found.append(Archive(path, room, begin, _unpack(path, room.file)))
    return found


def _unpack(path: Path, room: BinaryIO) -> int:
    most = _ALWAYS + _RATIO * path.stat().st_size
    size = 0
    with open_regular(path) as file:
        stream = unpacked(file, path)
        while True:
            try:
                piece = stream.read(_PIECE)
            except Exception as error:  # whatever the unpackers raise for broken bytes
                reason = quoted(str(error)) or type(error).__name__
                raise DataError(f"{path} cannot be unpacked: {reason}. Fetch it again.") from error
            if not piece:
                return size
            size += len(piece)
            if size > most:
                raise DataError(
                    f"{path} unpacks to more than {in_words(most)}, which no set of images does."
                )
            free = shutil.disk_usage(tempfile.gettempdir()).free
            if free < (256 << 20):
                raise DataError(
                    f"{path} does not fit into {tempfile.gettempdir()} when it is unpacked. Unpack "
                    "it yourself and give the .tar, or set TMPDIR to a larger disk."
                )
            room.write(piece)
