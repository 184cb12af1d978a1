"""What every reader offers: how to recognize one form of a set of images, and how to read it."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from memaudit.data.readers.lazy_images import Contents

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
    read: Callable[[Path, Files, int | None], Contents]
    """(path, its files, resolution) → contents, with the pixels still unread.

    A reader may ignore the resolution; its images are then resized afterwards.
    """
    files: Callable[[Path], Files] = only_itself
    """The files that decide the images. If one changes, cached images are decoded again."""
    may_be_generated: bool = True
    """Whether a generator may have written images in this form. False for a form that cannot be
    told from a checkpoint's by its first bytes."""


def stats(files: Iterable[Path]) -> Files:
    """The stat of each file, by the file's name."""
    return {file.name: file.stat() for file in files}


def first_bytes(path: Path, count: int = 512) -> bytes:
    """The beginning of a file; empty for a folder."""
    if path.is_dir():
        return b""
    with path.open("rb") as file:
        return file.read(count)


ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
GZIP_MAGIC = b"\x1f\x8b"


def first_member(path: Path) -> str | None:
    """The name of a zip's first file, empty if it has none; None if `path` is not a zip."""
    head = first_bytes(path)
    if not head.startswith(ZIP_MAGIC):
        return None
    return head[30 : 30 + int.from_bytes(head[26:28], "little")].decode("latin1")
