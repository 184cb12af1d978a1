"""Entries of an uncompressed zip archive, as views of its bytes.

Parsed here, not by `zipfile`: nothing is copied, and a size that is merely announced allocates
nothing. Only what torch.save writes is accepted: stored entries, no encryption, no comment.
https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

import struct
import zlib
from typing import NamedTuple

from memaudit.errors import CheckpointError
from memaudit.wording import shown

MAX_ENTRIES = 100_000
FULL_16, FULL_32 = 0xFFFF, 0xFFFFFFFF  # "see the zip64 record"


class Entry(NamedTuple):
    """A file in the archive, as a view of the archive's bytes."""

    name: str
    data: memoryview
    crc: int


def zip_entries(data: memoryview) -> dict[str, Entry]:
    """All entries of an archive by name.

    Raises:
        CheckpointError: the archive is damaged, compressed or encrypted.
    """
    try:
        count, position = _directory(data)
        entries: dict[str, Entry] = {}
        for _ in range(count):
            entry, position = _entry(data, position)
            if entry.name in entries:
                raise CheckpointError(f"its archive has two entries {shown(entry.name)}.")
            entries[entry.name] = entry
    except (struct.error, OverflowError, UnicodeDecodeError) as error:
        raise CheckpointError("its zip directory is damaged or cut short.") from error
    if sum(len(entry.data) for entry in entries.values()) > len(data):
        raise CheckpointError("its archive's entries overlap; no checkpoint needs that.")
    return entries


def read_entry(entry: Entry) -> memoryview:
    """The entry's bytes.

    Raises:
        CheckpointError: they do not have the checksum written with them.
    """
    if zlib.crc32(entry.data) != entry.crc:
        raise CheckpointError(
            f"its archive's entry {shown(entry.name)} does not have the checksum written with it: "
            "the file is damaged."
        )
    return entry.data


def _directory(data: memoryview) -> tuple[int, int]:
    """Number of entries and position of the directory, from the record at the file's end."""
    end = len(data) - 22
    if end < 0 or bytes(data[end : end + 4]) != b"PK\5\6":
        raise CheckpointError("its zip archive has no end: the file is cut short or damaged.")
    count, _, start = struct.unpack_from("<HII", data, end + 10)
    locator = end - 20
    if locator >= 0 and bytes(data[locator : locator + 4]) == b"PK\6\7":
        (record,) = struct.unpack_from("<Q", data, locator + 8)
        if bytes(data[record : record + 4]) != b"PK\6\6":
            raise CheckpointError("its zip64 directory is damaged.")
        count, _, start = struct.unpack_from("<QQQ", data, record + 32)
    if count > MAX_ENTRIES:
        raise CheckpointError(f"its archive announces {count:,} entries; no checkpoint needs that.")
    return count, start


def _entry(data: memoryview, position: int) -> tuple[Entry, int]:
    """The directory's entry at `position`, and the position of the next one."""
    if bytes(data[position : position + 4]) != b"PK\1\2":
        raise CheckpointError("its zip directory is damaged or cut short.")
    flags, method = struct.unpack_from("<HH", data, position + 8)
    crc, packed, size, name_size, extra_size, comment_size = struct.unpack_from(
        "<IIIHHH", data, position + 16
    )
    (local,) = struct.unpack_from("<I", data, position + 42)
    extra = position + 46 + name_size
    name = str(data[position + 46 : extra], "utf-8")
    following = extra + extra_size + comment_size
    if FULL_32 in (packed, size, local):
        size, packed, local = _zip64(data[extra : extra + extra_size], size, packed, local)
    if method != 0 or flags & 1 or packed != size:
        raise CheckpointError(
            f"its archive's entry {shown(name)} is compressed or encrypted; torch.save stores."
        )
    return Entry(name, _local_data(data, local, name, size), crc), following


def _zip64(extra: memoryview, *numbers: int) -> list[int]:
    """`numbers`, with those that are full replaced by the 64-bit ones in the extra field."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            wide = extra[position + 4 : position + 4 + size]
            places = iter(range(0, len(wide), 8))
            return [
                struct.unpack_from("<Q", wide, next(places, size))[0] if n == FULL_32 else n
                for n in numbers
            ]
        position += 4 + size
    raise CheckpointError("its zip directory lacks a 64-bit size: it is damaged.")


def _local_data(data: memoryview, position: int, name: str, size: int) -> memoryview:
    if bytes(data[position : position + 4]) != b"PK\3\4":
        raise CheckpointError(f"its archive's entry {shown(name)} is not where it should be.")
    name_size, extra_size = struct.unpack_from("<HH", data, position + 26)
    start = position + 30 + name_size
    if str(data[position + 30 : start], "utf-8") != name:
        raise CheckpointError(f"its archive has another name where {shown(name)} should be.")
    start += extra_size
    if start + size > len(data):
        raise CheckpointError(f"its archive's entry {shown(name)} is cut short.")
    return data[start : start + size]
