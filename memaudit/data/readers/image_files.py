"""Folders and zips of image files: which images there are, their classes, their bytes.

Both are trees of named files and mean the same: images lie flat, or in one folder a class, or
anywhere with the labels in a `dataset.json` at the top (EDM's form). Images are ordered by name,
as EDM orders them. Hidden files and what macOS adds to a zip (`__MACOSX`) are not seen.
"""

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from memaudit.data.readers.batch_decoding import EncodedBatch, choose_num_processes, decode_batches
from memaudit.data.readers.decoding import SUFFIXES, decode_image
from memaudit.data.readers.lazy_images import Contents, as_labels, batch_rows
from memaudit.errors import DataError

Reader = Callable[[str], bytes]
"""name → the file's bytes."""

_MAX_FILE_BYTES = 1 << 30
_MANIFEST = "dataset.json"


def list_folder(path: Path) -> dict[str, os.stat_result]:
    """The image files under a folder, and its dataset.json: name inside the folder → stat."""
    files = {}
    visited = set()
    for folder, folders, names in os.walk(path, onerror=_raise, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link back to a folder above it
            folders.clear()
            continue
        visited.add(real)
        inside = Path(folder).relative_to(path).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        for name in names:
            if _wanted(prefix + name):
                files[prefix + name] = os.stat(os.path.join(folder, name))
    return files


def read_folder(
    path: Path, files: Mapping[str, os.stat_result], resolution: int | None
) -> Contents:
    """The images that `list_folder` found."""

    @contextmanager
    def opened() -> Iterator[Reader]:
        yield lambda name: (path / name).read_bytes()

    sizes = {name: stat.st_size for name, stat in files.items()}
    return _read_tree(str(path), sizes, opened, resolution)


def read_zip(path: Path, resolution: int | None) -> Contents:
    """The images of a zip; they are read where they lie and never written to disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if _wanted(member.filename)]
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is no readable zip: {error}. Fetch or make it again.") from error
    by_name = {member.filename: member for member in members}
    if len(by_name) < len(members):
        raise DataError(f"{path} holds two files of one name; which one counts is not clear.")

    @contextmanager
    def opened() -> Iterator[Reader]:
        with path.open("rb") as file:
            yield lambda name: _read_member(file, by_name[name])

    sizes = {name: member.file_size for name, member in by_name.items()}
    return _read_tree(str(path), sizes, opened, resolution)


def _raise(error: OSError) -> None:
    raise error


def _wanted(name: str) -> bool:
    hidden = name.startswith((".", "__MACOSX/")) or "/." in name or "/__MACOSX/" in name
    return not hidden and (name.lower().endswith(SUFFIXES) or _is_manifest(name))


def _is_manifest(name: str) -> bool:
    return f"/{name}".endswith(f"/{_MANIFEST}")


def _read_member(file: BinaryIO, member: zipfile.ZipInfo) -> bytes:
    """The bytes of one member.

    ZipFile.read does the same and takes longer for it than a JPEG of 32×32 takes to decode.
    """
    file.seek(member.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\x03\x04" or len(header) < 30:
        raise zipfile.BadZipFile("it is cut short")
    name_length, extra_length = struct.unpack("<HH", header[26:])
    file.seek(name_length + extra_length, os.SEEK_CUR)
    data = file.read(member.compress_size)
    if member.flag_bits & 1:
        raise zipfile.BadZipFile("it is encrypted")
    if member.compress_type == zipfile.ZIP_DEFLATED:
        # Bounded by the announced size: a small member may unpack to terabytes.
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max(1, member.file_size))
    elif member.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile(f"it is packed by method {member.compress_type}, not deflate")
    if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
        raise zipfile.BadZipFile("its checksum does not match")
    return data


# ------------------------------------------------------------------------------------------------
# What both have in common


def _read_tree(
    source: str,
    sizes: Mapping[str, int],
    opened: Callable[[], AbstractContextManager[Reader]],
    resolution: int | None,
) -> Contents:
    names = sorted(name for name in sizes if not _is_manifest(name))
    if not names:
        raise DataError(f"{source} holds no images; looked for {', '.join(SUFFIXES)}.")

    with opened() as reader:
        read = _checked(reader, source, sizes)
        manifest = _find_manifest(source, sizes)
        if manifest is None:
            labels, class_names = _class_folders(source, names)
        else:
            labels, class_names = _manifest_labels(source, names, read(manifest)), ()
        first_file = read(names[0])
    first = decode_image(first_file, f"{source}: {names[0]}", resolution)
    C, H, W = first.shape
    rows = batch_rows(first.nbytes)
    num_processes = choose_num_processes(sum(sizes.values()), first_file)

    def encoded() -> Iterator[EncodedBatch]:
        with opened() as reader:
            read = _checked(reader, source, sizes)
            for start in range(0, len(names), rows):
                batch = names[start : start + rows]
                yield EncodedBatch(batch, [read(name) for name in batch])

    def batches() -> Iterator[np.ndarray]:
        return decode_batches(
            encoded(),
            source=source,
            shape=(C, H, W),
            first_name=names[0],
            resolution=resolution,
            num_processes=num_processes,
        )

    return Contents(source, (len(names), C, H, W), names, batches, labels, class_names)


def _checked(reader: Reader, source: str, sizes: Mapping[str, int]) -> Reader:
    """`reader`, but what goes wrong is a DataError that names the file."""

    def read(name: str) -> bytes:
        if sizes[name] > _MAX_FILE_BYTES:
            raise DataError(
                f"{source}: {name} is said to be {sizes[name]} bytes long; the limit for one file "
                f"is {_MAX_FILE_BYTES}."
            )
        try:
            return reader(name)
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{source}: {name} cannot be read: {error}.") from error

    return read


def _class_folders(source: str, names: list[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels and class names where each image lies in the folder of its class."""
    folders = [tuple(name.split("/")[:-1]) for name in names]
    # A zip often holds its own name as one outer folder.
    outer = len(os.path.commonprefix([folder[:-1] for folder in folders]))
    depths = [len(folder) - outer for folder in folders]
    for name, depth in zip(names, depths, strict=True):
        if depth > 1:
            raise DataError(
                f"{source}: {name} lies {depth} folders deep. Images must lie flat or in one "
                f"folder a class, or have their labels in a {_MANIFEST} at the top."
            )
        if depth != depths[0]:
            raise DataError(
                f"{source}: {name} and {names[0]} are not in folders alike. Either all images lie "
                "in a folder of their class or none does."
            )
    if depths[0] == 0:
        return None, ()
    class_names = sorted({folder[-1] for folder in folders})
    index = {class_name: i for i, class_name in enumerate(class_names)}
    labels = np.array([index[folder[-1]] for folder in folders], dtype=np.int64)
    return labels, tuple(class_names)


def _find_manifest(source: str, sizes: Mapping[str, int]) -> str | None:
    """The dataset.json at the top; a deeper one means that `source` is not the data set itself."""
    for name in filter(_is_manifest, sorted(sizes)):
        if name != _MANIFEST:
            raise DataError(
                f"{source} has a {name}; a {_MANIFEST} must lie at the top. Give the folder that "
                "it is in, or a zip made inside that."
            )
    return _MANIFEST if _MANIFEST in sizes else None


def _manifest_labels(source: str, names: list[str], data: bytes) -> np.ndarray | None:
    """Labels from EDM's {"labels": [[name, label], ...]}, or None where that is null."""
    try:
        entries = json.loads(data)["labels"]
        labels = None if entries is None else {str(name): label for name, label in entries}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f'{source}: {_MANIFEST} is neither {{"labels": [[name, label], ...]}} nor '
            '{"labels": null}.'
        ) from error
    if labels is None:
        return None
    for name in names:
        if name not in labels:
            raise DataError(f"{source}: {_MANIFEST} has no label for {name}.")
        if type(labels[name]) is not int:
            raise DataError(
                f"{source}: {_MANIFEST} labels {name} as {labels[name]!r}; a class index (an "
                "integer) is needed."
            )
    if missing := sorted(labels.keys() - set(names)):
        raise DataError(f"{source}: {_MANIFEST} labels {missing[0]}, which is not there.")
    return as_labels([labels[name] for name in names], len(names), source)
