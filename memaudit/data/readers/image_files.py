"""Folders and zips of image files: which images there are, their classes, their bytes.

Both are trees of named files and mean the same: images lie flat, or in one folder per class, or
anywhere with the labels in a `dataset.json` at the top (EDM's form); image_tree.py says what other
folders mean. Images are ordered by name, as EDM orders them. Hidden files and what macOS adds to a
zip (`__MACOSX`) are ignored.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from memaudit.data.layout import DEFAULT_LAYOUT, Layout
from memaudit.data.preparation import Preparation
from memaudit.data.readers.captions import Beside, may_describe
from memaudit.data.readers.celeba_files import PARTITION
from memaudit.data.readers.decoding import is_image
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.reader import (
    Files,
    Reader,
    files_below,
    first_bytes,
    first_member,
    is_hidden,
)
from memaudit.data.readers.shards import refuse_pictures_of_a_store
from memaudit.data.readers.tree_contents import ReadFile, is_wanted, read_tree
from memaudit.data.readers.zip_members import opened_zip, zip_members
from memaudit.errors import DataError
from memaudit.files import check_regular, read_regular


def _folder_files(path: Path) -> Files:
    """The image files under a folder, its dataset.json, and the file that divides CelebA."""
    files = {}
    for name in files_below(path):
        if is_wanted(name) or name.rpartition("/")[2] == PARTITION:
            place = f"{path}/{name}"  # a hundred thousand paths need not be taken apart
            files[name] = found = os.stat(place)
            check_regular(found, place)
    return files


def _read_folder(
    path: Path, files: Files, preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    sizes = {name: stat.st_size for name, stat in files.items() if is_wanted(name)}

    @contextmanager
    def opened() -> Iterator[ReadFile]:
        yield lambda name: read_regular(f"{path}/{name}", sizes[name])

    others = [name for name in files_below(path, hidden=True) if not is_wanted(name)]
    refuse_pictures_of_a_store(path, list(sizes), others)
    beside = Beside(others, lambda name, limit: read_regular(path / name, limit))
    return read_tree(str(path), sizes, beside, opened, layout, preparation)


def _folder_with_layout(layout: Layout) -> Reader:
    return replace(FOLDER, read=partial(_read_folder, layout=layout))


FOLDER = Reader(
    "a folder of image files",
    Path.is_dir,
    _read_folder,
    _folder_files,
    with_layout=_folder_with_layout,
)


def _is_zip(path: Path) -> bool:
    return first_member(path) is not None


def _read_zip(
    path: Path, _files: Files, preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    """The images of a zip, which is read in place and never unpacked to disk."""
    others: list[str] = []

    def wanted(name: str) -> bool:
        if not is_wanted(name):
            others.append(name)
        return is_wanted(name) or (not is_hidden(name) and may_describe(name))

    members = zip_members(path, wanted)
    sizes = {name: member.file_size for name, member in members.items() if is_wanted(name)}
    opened = partial(opened_zip, path, members)

    def read_beside(name: str, limit: int) -> bytes:
        if members[name].file_size > limit:
            raise DataError(
                f"it is said to have {members[name].file_size:,} bytes; at most {limit:,} make "
                "sense here"
            )
        with opened() as read:
            return read(name)

    return read_tree(str(path), sizes, Beside(others, read_beside), opened, layout, preparation)


def _zip_with_layout(layout: Layout) -> Reader:
    return replace(ZIP, read=partial(_read_zip, layout=layout))


ZIP = Reader(
    "a .zip of image files",
    _is_zip,
    _read_zip,
    with_layout=_zip_with_layout,
)


def _is_image_file(path: Path) -> bool:
    return is_image(first_bytes(path))


def _read_image_file(path: Path, files: Files, preparation: Preparation) -> Contents:
    sizes = {name: stat.st_size for name, stat in files.items()}

    @contextmanager
    def opened() -> Iterator[ReadFile]:
        yield lambda name: read_regular(path, sizes[name])

    alone = Beside([], lambda name, limit: b"")
    return read_tree(str(path.parent), sizes, alone, opened, DEFAULT_LAYOUT, preparation)


IMAGE = Reader("one image file", _is_image_file, _read_image_file)
