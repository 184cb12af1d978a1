"""What every reader offers: how to recognize one form of a set of images, and how to read it."""

import gc
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memaudit.data.layout import Layout
from memaudit.data.preparation import Preparation
from memaudit.data.readers.lazy_images import Contents
from memaudit.files import check_regular, open_regular

Files = Mapping[str, os.stat_result]
"""Name inside the source → stat, for every file that decides its images, names and labels."""


def only_itself(path: Path) -> Files:
    """The files of a source that is a single file."""
    return stats([path])


@dataclass(frozen=True)
class Reader:
    """One form that a set of images may have; `sources.READERS` lists them all."""

    form: str
    """The form in words, for the error that lists what can be read."""
    recognizes: Callable[[Path], bool]
    """Whether an existing file or folder has this form, judged by its content."""
    read: Callable[[Path, Files, Preparation], Contents]
    """(path, its files, preparation) → contents, with the pixels still unread.

    A reader may ignore the preparation if its images are of one size, gray or RGB, and 8-bit; they
    are then prepared afterwards.
    """
    files: Callable[[Path], Files] = only_itself
    """The files that decide the images. If one changes, cached images are decoded again."""
    may_be_generated: bool = True
    """Whether a generator may have written images in this form. False for a form that cannot be
    told from a checkpoint's by its first bytes."""
    with_layout: "Callable[[Layout], Reader] | None" = None
    """The same reader for sources whose split or labels the user chose; None where a form has
    neither splits nor folders."""


def stats(files: Iterable[Path], *, inside: Path | None = None) -> Files:
    """The stat of each file, by the file's name, or by its path inside a folder.

    Raises:
        OSError: one of them is missing, or not a regular file.
    """
    found = {}
    for file in files:
        name = file.name if inside is None else file.relative_to(inside).as_posix()
        found[name] = file.stat()
        check_regular(found[name], file)
    return found


def files_below(folder: Path) -> Iterator[str]:
    """The paths of all files inside a folder, at any depth; hidden files and folders aside.

    Links to folders are followed; a folder that is reached twice is listed once.

    Raises:
        OSError: a folder cannot be listed.
    """
    visited = set()
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        real = os.path.realpath(folder / inside)
        if real in visited:
            continue
        visited.add(real)
        folders = []
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(f"{inside}{entry.name}/")
                else:
                    yield inside + entry.name
        waiting += sorted(folders, reverse=True)


def first_bytes(path: Path, count: int = 512) -> bytes:
    """The beginning of a regular file; empty for a folder."""
    if path.is_dir():
        return b""
    with open_regular(path) as file:
        return file.read(count)


MAX_FILE_BYTES = 1 << 30
"""Most bytes of one file in a set; the largest image that is decoded takes 200 MB."""
MAX_SUFFIX = 12
"""Characters of a suffix that are told apart: names may be anything."""
DEFLATE_RATIO = 1032
"""Most bytes that deflate packs into one."""


def side_file_bytes(num_images: int) -> int:
    """Most bytes of a JSON file that describes a set of images: 1 MB, and 1 kB an image."""
    return (1 << 20) + (num_images << 10)


def parse_json(data: bytes) -> Any:
    """What a JSON file that describes a set of images says.

    Raises:
        ValueError, RecursionError: it is not JSON, or nested too deeply.
    """
    # Millions of lists would be looked through for garbage again and again: 22 s instead of 4.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return json.loads(data)
    finally:
        if was_enabled:
            gc.enable()


ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
GZIP_MAGIC = b"\x1f\x8b"


def first_member(path: Path) -> str | None:
    """The name of a zip's first file, empty if it has none; None if `path` is not a zip."""
    head = first_bytes(path)
    if not head.startswith(ZIP_MAGIC):
        return None
    return head[30 : 30 + int.from_bytes(head[26:28], "little")].decode("latin1")
