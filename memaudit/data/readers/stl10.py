"""STL-10's binary files: `train_X.bin`, `test_X.bin`, `unlabeled_X.bin`, with labels beside them.

Format: per image 3 channels of 96 columns of 96 bytes each; labels are bytes from 1.
https://cs.stanford.edu/~acoates/stl10/
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from memaudit.data.layout import ALL_SPLITS, DEFAULT_LAYOUT, Layout, choose_split
from memaudit.data.readers.lazy_images import Contents, array_contents, numbered_names
from memaudit.data.readers.reader import Files, Reader, side_file_bytes, stats
from memaudit.errors import DataError
from memaudit.files import read_regular

_SPLITS = ("train", "test", "unlabeled")
_SHAPE = (3, 96, 96)
_IMAGE_BYTES = 3 * 96 * 96
_CLASS_NAMES = "class_names.txt"


def _splits(folder: Path) -> list[str]:
    return [split for split in _SPLITS if (folder / f"{split}_X.bin").is_file()]


def _is_stl10(path: Path) -> bool:
    return path.is_dir() and bool(_splits(path))


def _files(path: Path) -> Files:
    names = [f"{split}_{part}.bin" for split in _SPLITS for part in "Xy"]
    return stats(path / name for name in (*names, _CLASS_NAMES) if (path / name).is_file())


def _read(
    path: Path, files: Files, _preparation: object, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    """The images of a split, mapped."""
    found = _splits(path)
    if layout.split == ALL_SPLITS:
        raise DataError(
            f"{path} is divided into {', '.join(found)}, of which some have no labels; choose one "
            "{split}.",
            field="split",
        )
    split = choose_split(str(path), found, layout.split)
    file = f"{split}_X.bin"
    num_images, rest = divmod(files[file].st_size, _IMAGE_BYTES)
    if rest or not num_images:
        raise DataError(
            f"{path / file} has {files[file].st_size:,} bytes, which are not images of "
            f"{_IMAGE_BYTES:,} each. Fetch it again."
        )
    stored = np.memmap(path / file, np.uint8, mode="r", shape=(num_images, *_SHAPE))
    labels = None
    class_names: tuple[str, ...] = ()
    if f"{split}_y.bin" in files:
        numbers = np.frombuffer(read_regular(path / f"{split}_y.bin", num_images), np.uint8)
        labels = numbers.astype(np.int64) - 1
        class_names = _class_names(path, files)
    contents = array_contents(
        stored.transpose(0, 1, 3, 2),  # columns first
        str(path),
        numbered_names(file, num_images),
        labels,
        class_names,
    )
    others = tuple(other for other in found if other != split)
    return replace(contents, split=split, other_splits=others)


def _class_names(path: Path, files: Files) -> tuple[str, ...]:
    if _CLASS_NAMES not in files:
        return ()
    text = read_regular(path / _CLASS_NAMES, side_file_bytes(0)).decode(errors="replace")
    return tuple(text.split())


def _with_layout(layout: Layout) -> Reader:
    return replace(FOLDER, read=partial(_read, layout=layout))


FOLDER = Reader("STL-10's binary files", _is_stl10, _read, _files, with_layout=_with_layout)
