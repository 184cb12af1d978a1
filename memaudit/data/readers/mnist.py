"""MNIST's idx files: gray images, with the labels in a second file beside them.

Format: two zero bytes, a type (8 is uint8), the number of dimensions, each dimension as a
big-endian int32, then the values. A file may be compressed with gzip.
"""

import gzip
import math
import os
import re
import struct
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from memaudit.data.layout import ALL_SPLITS, DEFAULT_LAYOUT, Layout, choose_split
from memaudit.data.preparation import Preparation
from memaudit.data.readers.lazy_images import Contents, array_contents, numbered_names
from memaudit.data.readers.reader import (
    DEFLATE_RATIO,
    GZIP_MAGIC,
    Files,
    Reader,
    first_bytes,
    stats,
)
from memaudit.data.room import check_memory
from memaudit.errors import DataError
from memaudit.files import open_regular

_IDX_MAGIC = b"\x00\x00\x08"
_MAX_DIMENSIONS = 4
_IMAGES = re.compile(r"images[.-]idx3-ubyte(\.gz)?$")


def _is_idx_file(path: Path) -> bool:
    head = first_bytes(path, 3)
    if head[:2] == GZIP_MAGIC:
        try:
            with open_regular(path) as packed, gzip.open(packed) as file:
                head = file.read(3)
        except (EOFError, OSError, zlib.error):
            return False
    return head == _IDX_MAGIC


def _idx_files(path: Path) -> Files:
    """`path` and its labels file, if that lies beside it."""
    stem = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    labels = [path.with_name(name) for name in (stem, f"{stem}.gz")]
    return stats([path, *[file for file in labels if file != path and file.is_file()][:1]])


def _read_idx(path: Path, files: Files, _preparation: Preparation) -> Contents:
    """The images of an idx file, with the labels beside it if there are any."""
    images_file, *labels_file = (path.with_name(name) for name in files)
    images = _read_array(images_file)
    if images.ndim != 3:
        raise DataError(
            f"{path} holds an array {list(images.shape)}; images are [N, H, W]. The file of images "
            "is the one with idx3 in its name."
        )
    labels = _read_array(labels_file[0]) if labels_file else None
    names = numbered_names(path.name, len(images))
    return array_contents(images[:, None], str(path), names, labels)


FILE = Reader("MNIST's idx file of images", _is_idx_file, _read_idx, _idx_files)


def _has_idx_images(path: Path) -> bool:
    return bool(_image_files(path))


def _folder_files(path: Path, layout: Layout = DEFAULT_LAYOUT) -> Files:
    return _idx_files(_images_of_split(path, layout)[0])


def _read_folder(
    path: Path, files: Files, preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    _, *splits = _images_of_split(path, layout)
    contents = _read_idx(path / next(iter(files)), files, preparation)
    return replace(contents, split=splits[0], other_splits=tuple(splits[1:]))


def _with_layout(layout: Layout) -> Reader:
    read, files = partial(_read_folder, layout=layout), partial(_folder_files, layout=layout)
    return replace(FOLDER, read=read, files=files)


FOLDER = Reader(
    "a folder of MNIST's idx files",
    _has_idx_images,
    _read_folder,
    _folder_files,
    with_layout=_with_layout,
)


def _image_files(folder: Path) -> dict[str, Path]:
    """The files of images in a folder by name without .gz; of two, the unpacked one."""
    if not folder.is_dir():
        return {}
    names = [name for name in os.listdir(folder) if _IMAGES.search(name)]
    files = [folder / name for name in sorted(names, reverse=True)]
    return {file.name.removesuffix(".gz"): file for file in files if file.is_file()}


def _images_of_split(folder: Path, layout: Layout) -> tuple[Any, ...]:
    """The file of images in a folder that is meant, its split, and the others; None for no split.

    Raises:
        DataError: several sets, and none or more than one of the split.
    """
    found = _image_files(folder)
    splits = dict.fromkeys(map(_split_of, found))
    if layout.split is None and len(found) == 1:
        return (next(iter(found.values())), *splits)
    if None in splits or len(splits) < len(found):
        of = "train" if layout.split is None else layout.split
        matching = [name for name in found if _split_of(name) == of]
        if len(matching) != 1:
            raise DataError(
                f"{folder} holds several sets of images ({', '.join(sorted(found))}); name one."
            )
        others = [each for each in splits if each not in (None, of)]
        return (found[matching[0]], of, *others)
    if layout.split == ALL_SPLITS:
        raise DataError(
            f"{folder} has its splits in files of their own; choose one {{split}}.", field="split"
        )
    split = choose_split(str(folder), [each for each in splits if each], layout.split)
    name = next(name for name in found if _split_of(name) == split)
    return (found[name], split, *(each for each in splits if each != split))


def _split_of(name: str) -> str | None:
    """The split of a file of images: MNIST's test images are called t10k."""
    if "train" in name:
        return "train"
    return "test" if "t10k" in name or "test" in name else None


def _read_array(path: Path) -> np.ndarray:
    """The uint8 array in an idx file."""
    try:
        with open_regular(path) as stored:
            is_packed = stored.read(2) == GZIP_MAGIC
            stored.seek(0)
            present = os.fstat(stored.fileno()).st_size
            with gzip.open(stored) if is_packed else stored as file:
                magic = file.read(4)
                if magic[:3] != _IDX_MAGIC:
                    raise DataError(f"{path} is not an idx file of bytes.")
                shape = struct.unpack(f">{magic[3]}I", file.read(4 * magic[3]))
                size = math.prod(shape)
                if len(shape) > _MAX_DIMENSIONS:
                    raise DataError(f"{path} announces {len(shape)} dimensions; images have 3.")
                if size > present * (DEFLATE_RATIO if is_packed else 1):
                    raise DataError(
                        f"{path} announces {list(shape)} bytes and holds fewer. Fetch it again."
                    )
                check_memory(size, f"Reading {path}")
                values = file.read(size + 1)
    except (EOFError, OSError, zlib.error, struct.error, IndexError) as error:
        raise DataError(f"{path} cannot be unpacked: {error}. Fetch it again.") from error
    if len(values) != size:
        held = "more" if len(values) > size else "fewer"
        raise DataError(f"{path} announces {list(shape)} bytes and holds {held}. Fetch it again.")
    return np.frombuffer(values, np.uint8).reshape(shape)
