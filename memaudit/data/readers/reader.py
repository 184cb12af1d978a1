"""What every reader offers: how to recognize one form of a set of images, and how to read it."""

import gc
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
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


_listings: ContextVar[dict[Path, list[str]] | None] = ContextVar("_listings", default=None)
_PASSED_OVER = (".git", ".cache")
"""Hidden folders of many files, none of which anybody trains on."""


@contextmanager
def listed_once() -> Iterator[None]:
    """Within it, `files_below` lists each folder once, however many readers ask for it."""
    token = _listings.set({})
    try:
        yield
    finally:
        _listings.reset(token)


def files_below(folder: Path, *, hidden: bool = False) -> Iterator[str]:
    """The paths of all files inside a folder, at any depth.

    Links to folders are followed; a folder that is reached twice is listed once.

    Args:
        folder: the folder.
        hidden: whether to name hidden files, and those in hidden folders, too.

    Raises:
        OSError: a folder cannot be listed that is not hidden.
    """
    kept = _listings.get()
    names: Iterable[str] = _all_files_below(folder)
    if kept is not None:
        names = kept[folder] if folder in kept else kept.setdefault(folder, list(names))
    return iter(names) if hidden else (name for name in names if not is_hidden(name))


def _all_files_below(folder: Path) -> Iterator[str]:
    visited = set()
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        real = os.path.realpath(folder / inside)
        if real in visited:
            continue
        visited.add(real)
        folders = []
        try:
            with os.scandir(folder / inside) as entries:
                for entry in entries:
                    if not entry.is_dir():
                        yield inside + entry.name
                    elif entry.name not in _PASSED_OVER:
                        folders.append(f"{inside}{entry.name}/")
        except OSError:
            if not is_hidden(inside):
                raise
        waiting += sorted(folders, reverse=True)


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it lies in, is hidden or macOS's own."""
    return name.startswith((".", "__MACOSX/")) or "/." in name or "/__MACOSX/" in name


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
