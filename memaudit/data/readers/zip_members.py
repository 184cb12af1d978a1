"""The files in a zip, none of which is believed.

A zip is read in place and never unpacked to disk. What its directory announces is compared with the
bytes present before anything is read: neither overlapping members nor sizes that deflate cannot
reach make a small file large.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from memaudit.data.readers.reader import DEFLATE_RATIO
from memaudit.errors import DataError
from memaudit.files import open_regular
from memaudit.wording import shown

Members = dict[str, zipfile.ZipInfo]
"""Name → entry of the directory."""


def zip_members(path: Path, wanted: Callable[[str], bool]) -> Members:
    """The files of a zip whose names are wanted, by name.

    Windows' .NET wrote folders with backslashes, which are read as slashes.

    Raises:
        DataError: the zip is damaged; its members overlap, or announce what they cannot hold; two
            wanted files have the same name.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            directory = archive.start_dir
    except OSError:
        raise
    except Exception as error:  # whatever zipfile raises for a broken directory
        raise DataError(
            f"{path} is not a readable zip: {error}. Fetch or make it again."
        ) from error
    _check_places(path, members, directory)
    found: Members = {}
    for member in members:
        name = member.filename.replace("\\", "/")
        if not wanted(name):
            continue
        if name in found:
            raise DataError(
                f"{path} holds two files with the same name, {shown(name)}; it must be "
                "clear which one counts."
            )
        if member.file_size > DEFLATE_RATIO * member.compress_size + DEFLATE_RATIO:
            raise DataError(
                f"{path}: {shown(member.filename)} is said to unpack from "
                f"{member.compress_size:,} bytes to {member.file_size:,}, which is impossible. "
                "Fetch or make it again."
            )
        found[name] = member
    return found


def _check_places(path: Path, members: list[zipfile.ZipInfo], directory: int) -> None:
    """Refuse members that share bytes with each other or with the directory."""
    in_order = sorted(members, key=lambda member: member.header_offset)
    starts = [member.header_offset for member in in_order] + [directory]
    for member, following in zip(in_order, starts[1:], strict=True):
        # A header takes 30 bytes and its name.
        end = member.header_offset + 30 + member.compress_size
        if member.header_offset < 0 or end > following:
            raise DataError(
                f"{path}: its member {shown(member.filename)} overlaps what comes after it, or "
                "lies outside the file. Fetch or make it again."
            )


@contextmanager
def opened_zip(path: Path, members: Members) -> Iterator[Callable[[str], bytes]]:
    """A function that reads a member by its name; it raises BadZipFile or zlib.error."""
    with open_regular(path) as file:
        yield lambda name: _read_member(file, members[name])


def _read_member(file: BinaryIO, member: zipfile.ZipInfo) -> bytes:
    """The bytes of one member.

    ZipFile.read does the same, but takes longer than decoding a JPEG of 32×32.
    """
    file.seek(data_start(file, member))
    data = file.read(member.compress_size)
    if member.compress_type == zipfile.ZIP_DEFLATED:
        # Bounded by the announced size: a small member may unpack to terabytes.
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max(1, member.file_size))
    elif member.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile(f"it is packed by method {member.compress_type}, not deflate")
    if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
        raise zipfile.BadZipFile("its checksum does not match")
    return data


def stored_start(file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin that is not packed, so that they can be mapped.

    Raises:
        BadZipFile: it is packed, or not all of it is in the file.
    """
    start = data_start(file, member)
    is_plain = member.compress_type == zipfile.ZIP_STORED
    if not is_plain or member.compress_size != member.file_size:
        raise zipfile.BadZipFile("it is packed")
    if start + member.file_size > file.seek(0, os.SEEK_END):
        raise zipfile.BadZipFile("it goes beyond the end of the file")
    return start


def data_start(file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin, packed or not.

    Raises:
        BadZipFile: its header is damaged, or it is encrypted.
    """
    file.seek(member.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\x03\x04" or len(header) < 30:
        raise zipfile.BadZipFile("it is cut short")
    if member.flag_bits & 1:
        raise zipfile.BadZipFile("it is encrypted")
    name_length, extra_length = struct.unpack("<HH", header[26:])
    return member.header_offset + 30 + int(name_length + extra_length)
