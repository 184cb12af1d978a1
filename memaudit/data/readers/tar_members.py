"""The files in a tar, packed or not, read in passing; nothing is extracted.

Python's tarfile follows what an archive says of long names, extended headers and holes without a
bound. Here every byte that it reads is counted, and only plain files are taken.
"""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from memaudit.data.readers.reader import GZIP_MAGIC, first_bytes
from memaudit.errors import DataError
from memaudit.files import open_regular
from memaudit.wording import quoted

MAX_BYTES = 1 << 30
"""Most bytes of an unpacked archive; CIFAR's have 0.2 GB."""
MAX_MEMBERS = 1000
"""Most files and folders in an archive; CIFAR-10's has nine."""
_BLOCK = 512
_PIECE = 1 << 20
"""Most bytes that are read at a time; a long name or an extended header is read at once."""
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAX_WINDOW = 128 << 20
"""Most bytes that unpacking may look back on; zstd's default."""


def _open_zstd(file: BinaryIO) -> object:
    try:
        import zstandard
    except ImportError as error:
        raise DataError(
            f"{file.name} is packed with zstd, which is read with zstandard, which is not "
            'installed: pip install zstandard (or this package with the extra "data").'
        ) from error
    unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    return unpacker.stream_reader(file, read_across_frames=True)


_UNPACK: dict[bytes, Callable[[BinaryIO], object]] = {
    GZIP_MAGIC: gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
    ZSTD_MAGIC: _open_zstd,
}
"""First bytes of a packed archive, and what unpacks it."""


def is_tar(path: Path) -> bool:
    """Whether a file, once unpacked, begins with the header of a tar."""
    if path.is_dir():
        return False
    try:
        with open_regular(path) as file:
            tarfile.TarInfo.frombuf(unpacked(file, path).read(_BLOCK), "utf-8", "surrogateescape")
        return True
    except DataError:  # a library is missing
        raise
    except OSError as error:
        if error.errno is None:  # damaged, as gzip and bz2 say it
            return False
        raise
    except Exception:  # not a header, or whatever unpacking raises
        return False


def tar_members(path: Path, wanted: Callable[[str], bool], max_bytes: int) -> dict[str, bytes]:
    """The contents of the plain files whose names, without folders, are wanted.

    Args:
        path: the archive.
        wanted: tells by its name whether a file is to be read.
        max_bytes: most bytes of one of them.

    Raises:
        DataError: the archive is damaged or larger than any that is needed, or two wanted files
            have the same name.
    """
    found: dict[str, bytes] = {}
    try:
        with open_regular(path) as file:
            stream = _Forward(unpacked(file, path))
            with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:") as archive:
                for number, member in enumerate(archive):
                    if number == MAX_MEMBERS:
                        raise DataError(f"it holds more than {MAX_MEMBERS:,} files")
                    name = member.name.rpartition("/")[2]
                    if not wanted(name) or not member.isreg() or member.issparse():
                        continue
                    if name in found:
                        raise DataError(f"it holds two files called {name}")
                    if member.size > max_bytes:
                        raise DataError(
                            f"{name} is said to have {member.size:,} bytes; at most "
                            f"{max_bytes:,} make sense"
                        )
                    found[name] = _content(archive, member)
    except RecursionError as error:
        raise DataError(
            f"{path} cannot be unpacked: its headers name one another without end. Fetch it again."
        ) from error
    except Exception as error:  # whatever tarfile and the unpackers raise for broken bytes
        reason = quoted(str(error)) or type(error).__name__
        raise DataError(f"{path} cannot be unpacked: {reason}. Fetch it again.") from error
    return found


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    pieces = []
    while file is not None and (piece := file.read(_PIECE)):
        pieces.append(piece)
    content = b"".join(pieces)
    if len(content) != member.size:
        raise DataError(f"{member.name} is cut short")
    return content


def is_packed(path: Path) -> bool:
    """Whether a file begins as a packed one does."""
    return first_bytes(path, 6).startswith(tuple(_UNPACK))


def first_names(path: Path, count: int) -> list[str]:
    """The names of the first files and folders in a tar, without folders; few if it is damaged."""
    names: list[str] = []
    try:
        with open_regular(path) as file:
            stream = _Forward(unpacked(file, path))
            with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:") as archive:
                for member in archive:
                    names.append(member.name.rpartition("/")[2])
                    if len(names) == count:
                        break
    except OSError as error:
        if error.errno is not None:
            raise
    except Exception:  # whatever tarfile and the unpackers raise for broken bytes
        pass
    return names


def unpacked(file: BinaryIO, path: Path) -> BinaryIO:
    """What a file holds once it is unpacked, as a stream."""
    head = first_bytes(path, 6)
    for magic, unpack in _UNPACK.items():
        if head.startswith(magic):
            return cast(BinaryIO, unpack(file))
    return file


class _Forward(io.RawIOBase):
    """A stream that is read from its beginning to its end, in pieces, up to MAX_BYTES of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        if not 0 <= size <= _PIECE:
            raise DataError(f"a header in it announces {size:,} bytes; at most {_PIECE:,} are read")
        if self._position + size > MAX_BYTES:
            raise DataError(f"it unpacks to more than {MAX_BYTES:,} bytes")
        data = self._file.read(size)
        self._position += len(data)
        return data

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Go on to a position that is not behind."""
        if position < self._position or whence != io.SEEK_SET:
            raise DataError("a file in it begins before the one that precedes it")
        if position > MAX_BYTES:
            raise DataError(f"it unpacks to more than {MAX_BYTES:,} bytes")
        while self._position < position:
            if not self.read(min(_PIECE, position - self._position)):
                break
        return self._position

    def tell(self) -> int:
        """Bytes that were read."""
        return self._position
