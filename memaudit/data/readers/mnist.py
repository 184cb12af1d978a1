"""MNIST's idx files: gray images, with the labels in a second file beside them.

Format: two zero bytes, a type (8 is uint8), the number of dimensions, each dimension as a
big-endian int32, then the values. A file may be packed by gzip.
"""

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from memaudit.data.readers.lazy_images import Contents, array_contents
from memaudit.errors import DataError

IDX_MAGIC = b"\x00\x00\x08"
_IMAGES = re.compile(r"images[.-]idx3-ubyte(\.gz)?$")


def find_idx_images(names: Iterable[str], folder: Path) -> str | None:
    """The file of training images among the names in a folder, or None without idx images.

    Raises:
        DataError: several sets of which none is called train.
    """
    found = {name.removesuffix(".gz"): name for name in sorted(names, reverse=True)}
    found = {stem: name for stem, name in found.items() if _IMAGES.search(name)}
    if len(found) > 1:
        train = {stem: name for stem, name in found.items() if "train" in stem}
        if len(train) != 1:
            raise DataError(
                f"{folder} holds several sets of images ({', '.join(sorted(found))}); name one."
            )
        found = train
    return next(iter(found.values()), None)


def idx_files(path: Path) -> list[Path]:
    """`path` and its labels file, where that lies beside it."""
    stem = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    labels = [path.with_name(name) for name in (stem, f"{stem}.gz")]
    return [path, *[file for file in labels if file != path and file.is_file()][:1]]


def read_idx(path: Path) -> Contents:
    """The images of an idx file, with the labels beside it where there are any."""
    images_file, *labels_file = idx_files(path)
    images = _read_array(images_file)
    if images.ndim != 3:
        raise DataError(
            f"{path} holds an array {list(images.shape)}; images are [N, H, W]. The file of images "
            "is the one with idx3 in its name."
        )
    labels = _read_array(labels_file[0]) if labels_file else None
    names = [f"{path.name}[{i}]" for i in range(len(images))]
    return array_contents(images[:, None], str(path), names, labels)


def _read_array(path: Path) -> np.ndarray:
    """The uint8 array of an idx file."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            magic = file.read(4)
            if magic[:3] != IDX_MAGIC:
                raise DataError(f"{path} is no idx file of bytes.")
            shape = struct.unpack(f">{magic[3]}I", file.read(4 * magic[3]))
            size = math.prod(shape)
            # Deflate packs at most 1032 to 1: nothing is allocated that the file cannot fill.
            values = file.read(size + 1) if size <= 1032 * path.stat().st_size else b""
    except (EOFError, OSError, zlib.error, struct.error, IndexError) as error:
        raise DataError(f"{path} cannot be unpacked: {error}. Fetch it again.") from error
    if len(values) != size:
        held = "more" if len(values) > size else "fewer"
        raise DataError(f"{path} announces {list(shape)} bytes and holds {held}. Fetch it again.")
    return np.frombuffer(values, np.uint8).reshape(shape)
