"""Folders and zips of image files: which images there are, their classes, their bytes.

Both are trees of named files and mean the same: images lie flat, or in one folder per class, or
anywhere with the labels in a `dataset.json` at the top (EDM's form). Images are ordered by name,
as EDM orders them. Hidden files and what macOS adds to a zip (`__MACOSX`) are ignored.
"""

import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from memaudit.data.images import as_labels
from memaudit.data.readers.batch_decoding import EncodedBatch, choose_num_processes, decode_batches
from memaudit.data.readers.decoding import SUFFIXES, decode_image
from memaudit.data.readers.lazy_images import Contents, batch_rows
from memaudit.data.readers.reader import (
    MAX_FILE_BYTES,
    Files,
    Reader,
    first_member,
    parse_json,
    side_file_bytes,
)
from memaudit.data.readers.zip_members import opened_zip, zip_members
from memaudit.errors import DataError
from memaudit.files import check_regular, read_regular
from memaudit.wording import listed, shown

ReadFile = Callable[[str], bytes]
"""name → the file's bytes."""

LABELS_FILE = "dataset.json"
"""The file with the classes of all images, in EDM's form."""
OWN_FILES = ("manifest.json",)
"""What memaudit itself writes beside images."""
MAX_SUFFIX = 12
"""Characters of a suffix that are told apart: names may be anything."""


def _folder_files(path: Path) -> Files:
    """The image files under a folder, and its dataset.json."""
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
                file = os.path.join(folder, name)
                files[prefix + name] = os.stat(file)
                check_regular(files[prefix + name], file)
    return files


def _read_folder(path: Path, files: Files, resolution: int | None) -> Contents:
    sizes = {name: stat.st_size for name, stat in files.items()}

    @contextmanager
    def opened() -> Iterator[ReadFile]:
        yield lambda name: read_regular(path / name, sizes[name])

    contents = _read_tree(str(path), sizes, opened, resolution)
    names = (
        (Path(folder).relative_to(path) / name).as_posix()
        for folder, _, names in os.walk(path)
        for name in names
    )
    return replace(contents, unread=_count_unread(names))


FOLDER = Reader("a folder of image files", Path.is_dir, _read_folder, _folder_files)


def _is_zip(path: Path) -> bool:
    return first_member(path) is not None


def _read_zip(path: Path, _files: Files, resolution: int | None) -> Contents:
    """The images of a zip, which is read in place and never unpacked to disk."""
    others: list[str] = []

    def wanted(name: str) -> bool:
        if not _wanted(name):
            others.append(name)
        return _wanted(name)

    members = zip_members(path, wanted)
    sizes = {name: member.file_size for name, member in members.items()}
    contents = _read_tree(str(path), sizes, lambda: opened_zip(path, members), resolution)
    return replace(contents, unread=_count_unread(others))


ZIP = Reader("a .zip of image files", _is_zip, _read_zip)


def _raise(error: OSError) -> None:
    raise error


def _count_unread(names: Iterable[str]) -> dict[str, int]:
    """Files that are not taken as images, by suffix, most frequent first; hidden ones aside."""
    counts = Counter(
        PurePosixPath(name).suffix.lower()[:MAX_SUFFIX]
        for name in names
        if not (_is_hidden(name) or _wanted(name) or name.endswith("/") or name in OWN_FILES)
    )
    return dict(counts.most_common())


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX/")) or "/." in name or "/__MACOSX/" in name


def _wanted(name: str) -> bool:
    return not _is_hidden(name) and (name.lower().endswith(SUFFIXES) or _is_labels_file(name))


def _is_labels_file(name: str) -> bool:
    return f"/{name}".endswith(f"/{LABELS_FILE}")


# ------------------------------------------------------------------------------------------------
# What folders and zips have in common


def _read_tree(
    source: str,
    sizes: Mapping[str, int],
    opened: Callable[[], AbstractContextManager[ReadFile]],
    resolution: int | None,
) -> Contents:
    names = sorted(name for name in sizes if not _is_labels_file(name))
    if not names:
        raise DataError(f"{source} holds no images; looked for {', '.join(SUFFIXES)}.")

    with opened() as read_file:
        read = _checked(read_file, source, sizes)
        labels_file = _find_labels_file(source, sizes)
        if labels_file is None:
            labels, class_names = _class_folders(source, names)
        else:
            labels, class_names = _labels_in_file(source, names, read(labels_file)), ()
        first_file = read(names[0])
    first = decode_image(first_file, f"{source}: {names[0]}", resolution)
    C, H, W = first.shape
    size = batch_rows(first.nbytes)

    def encoded(wanted: Sequence[str]) -> Iterator[EncodedBatch]:
        with opened() as read_file:
            read = _checked(read_file, source, sizes)
            for start in range(0, len(wanted), size):
                batch = list(wanted[start : start + size])
                yield EncodedBatch(batch, [read(name) for name in batch])

    def batches(rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        wanted = names if rows is None else [names[i] for i in rows]
        return decode_batches(
            encoded(wanted),
            source=source,
            shape=(C, H, W),
            first_name=names[0],
            resolution=resolution,
            num_processes=choose_num_processes(sum(sizes[name] for name in wanted), first_file),
        )

    return Contents(source, (len(names), C, H, W), names, batches, labels, class_names)


def _checked(read_file: ReadFile, source: str, sizes: Mapping[str, int]) -> ReadFile:
    """`read_file`, but every failure is a DataError that names the file."""
    side_file = side_file_bytes(len(sizes))

    def read(name: str) -> bytes:
        limit = side_file if _is_labels_file(name) else MAX_FILE_BYTES
        if sizes[name] > limit:
            raise DataError(
                f"{source}: {name} is said to be {sizes[name]:,} bytes long; at most {limit:,} "
                "make sense."
            )
        try:
            return read_file(name)
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{source}: {name} cannot be read: {reason}.") from error

    return read


def _class_folders(source: str, names: list[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels and class names, if each image lies in the folder of its class."""
    folders = [tuple(name.split("/")[:-1]) for name in names]
    # A zip often holds its own name as one outer folder.
    outer = len(os.path.commonprefix([folder[:-1] for folder in folders]))
    depths = [len(folder) - outer for folder in folders]
    for name, depth in zip(names, depths, strict=True):
        if depth > 1:
            raise DataError(
                f"{source}: {name} lies {depth} folders deep. Images must lie flat or in one "
                f"folder per class, or have their labels in a {LABELS_FILE} at the top."
            )
        if depth != depths[0]:
            raise DataError(
                f"{source}: {name} and {names[0]} lie at different depths. Either all images "
                "lie in a folder of their class, or none does."
            )
    if depths[0] == 0:
        return None, ()
    class_names = sorted({folder[-1] for folder in folders})
    index = {class_name: i for i, class_name in enumerate(class_names)}
    labels = np.array([index[folder[-1]] for folder in folders], dtype=np.int64)
    return labels, tuple(class_names)


def _find_labels_file(source: str, sizes: Mapping[str, int]) -> str | None:
    """The dataset.json at the top; a deeper one means that `source` is not the data set itself."""
    for name in filter(_is_labels_file, sorted(sizes)):
        if name != LABELS_FILE:
            raise DataError(
                f"{source} has a {name}; a {LABELS_FILE} must lie at the top. Give the folder that "
                "it is in, or a zip made inside that."
            )
    return LABELS_FILE if LABELS_FILE in sizes else None


def _labels_in_file(source: str, names: list[str], data: bytes) -> np.ndarray | None:
    """Labels from EDM's {"labels": [[name, label], ...]}, or None if that is null."""
    try:
        entries = parse_json(data)["labels"]
        labels: dict[str, int] = {}
        for name, label in entries if entries is not None else ():
            if labels.setdefault(name, label) != label:
                raise DataError(f"{source}: {LABELS_FILE} gives two labels to {shown(name)}.")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f'{source}: {LABELS_FILE} is neither {{"labels": [[name, label], ...]}} nor '
            '{"labels": null}.'
        ) from error
    if entries is None:
        return None
    for name in names:
        if name not in labels:
            raise DataError(f"{source}: {LABELS_FILE} has no label for {name}.")
        if type(labels[name]) is not int:
            raise DataError(
                f"{source}: {LABELS_FILE} labels {name} as {shown(labels[name])}; a class index "
                "(an integer) is needed."
            )
    if missing := labels.keys() - set(names):
        raise DataError(
            f"{source}: {LABELS_FILE} labels {listed(map(str, missing), 1)}, which is not there."
        )
    return as_labels([labels[name] for name in names], len(names), source)
