"""Open training or generated images, whatever they are stored in."""

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from memaudit.data.built_sets import with_source_names
from memaudit.data.cache import cache_entry
from memaudit.data.images import ImageSet
from memaudit.data.readers.arrays import read_npy, read_npz
from memaudit.data.readers.cifar import (
    batch_files,
    read_cifar_files,
    read_cifar_tar,
    training_files,
)
from memaudit.data.readers.image_files import list_folder, read_folder, read_zip
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.mnist import IDX_MAGIC, find_idx_images, idx_files, read_idx
from memaudit.data.writers import MANIFEST
from memaudit.errors import DataError
from memaudit.progress import Progress, silent

MAPPED_FROM = 64 << 20
"""Bytes of pixels from which they are kept in a cache and mapped."""


@dataclass(frozen=True)
class _Source:
    """A path whose form is known."""

    files: Mapping[str, os.stat_result]
    """The files that decide the images, names and labels; a change of theirs is one of those."""
    read: Callable[[int | None], Contents]
    """resolution → contents; what ignores the resolution is resized afterwards."""


def open_images(
    path: str | Path,
    *,
    resolution: int | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress = silent,
) -> ImageSet:
    """Images of any supported form, chosen by content and not by name.

    - a folder or zip of image files (BMP, GIF, JPEG, PNG, TIFF, WebP): flat, or in one folder
      a class, or in EDM's form with a `dataset.json`; ordered by name
    - `.npz` with `images` (and `labels`, `names`), or `.npy`: uint8 [N, H, W], [N, C, H, W] or
      [N, H, W, C]
    - CIFAR-10's and CIFAR-100's archive for Python, as .tar.gz or extracted (the training images),
      or one of its batches
    - MNIST's idx files, as .gz or not: a folder (the training images) or one file of images

    A set that `memaudit dataset build` made has the names that its images and classes have in
    their source.

    Pixels are taken as they are stored: an EXIF orientation is not applied. Those of 64 MiB and
    more are decoded once, kept in the cache and memory-mapped.

    Args:
        path: the source.
        resolution: resize square images to resolution×resolution (Lanczos); by default images keep
            their size.
        cache_dir: where decoded images are kept; by default $MEMAUDIT_CACHE or the system's cache
            folder. Where it cannot be written, images stay in memory.
        progress: told how many images are read.

    Returns:
        Read-only uint8 [N, C, H, W] with a name for each image, and labels where the source has
        them.

    Raises:
        DataError: nothing there, no images, a broken image, mixed sizes or modes, labels that do
            not match; the message names the file.
    """
    if resolution is not None and resolution < 1:
        raise ValueError(f"resolution must be at least 1, got {resolution}")
    path = Path(path)
    try:
        source = _recognize(path)
        entry = cache_entry(cache_dir, path, source.files, resolution)
        if (cached := entry.load(str(path))) is not None:
            return cached
        contents = replace(source.read(resolution), source=str(path))
        if resolution is not None:
            contents = contents.resized(resolution)
    except OSError as error:
        raise DataError(
            f"{error.filename or path} cannot be read: {error.strerror or error}."
        ) from error
    if contents.num_bytes >= MAPPED_FROM and not isinstance(contents.array, np.memmap):
        try:
            return entry.store(contents, progress)
        except OSError:
            pass  # no room, or not ours to write
    return _in_memory(contents, progress)


def _in_memory(contents: Contents, progress: Progress) -> ImageSet:
    images = contents.array
    if images is None:
        images = np.empty(contents.shape, np.uint8)
        done = 0
        for batch in contents.batches():
            images[done : done + len(batch)] = batch
            done += len(batch)
            progress("Reading images", done, len(images))
    images.flags.writeable = False  # as a mapped one is
    return ImageSet(images, contents.names, contents.labels, contents.class_names, contents.source)


# ------------------------------------------------------------------------------------------------
# What is it?


def _recognize(path: Path) -> _Source:
    if not path.exists():
        raise DataError(f"There is no file or folder {path}.")
    return _recognize_folder(path) if path.is_dir() else _recognize_file(path)


def _recognize_folder(path: Path) -> _Source:
    names = [file.name for file in path.iterdir() if file.is_file()]
    if (cifar := training_files(names)) is not None:
        files = [path / name for name in cifar]
        return _Source(_stats(files), lambda _: read_cifar_files(path, files))
    if (idx := find_idx_images(names, path)) is not None:
        return _recognize_file(path / idx)
    images = list_folder(path)
    manifest = _stats([path / MANIFEST]) if MANIFEST in names else {}
    return _Source(
        {**images, **manifest},
        lambda resolution: with_source_names(read_folder(path, images, resolution), path),
    )


def _recognize_file(path: Path) -> _Source:
    with path.open("rb") as file:
        head = file.read(512)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        if _first_member(head).endswith(b".npy"):
            return _Source(_stats([path]), lambda _: with_source_names(read_npz(path), path))
        return _Source(
            _stats([path]),
            lambda resolution: with_source_names(read_zip(path, resolution), path),
        )
    if head[:6] == b"\x93NUMPY":
        return _Source(_stats([path]), lambda _: read_npy(path))
    if head[:3] == IDX_MAGIC or (head[:2] == b"\x1f\x8b" and _unpacked_head(path) == IDX_MAGIC):
        return _Source(_stats(idx_files(path)), lambda _: read_idx(path))
    if head[:2] == b"\x80\x02":
        files = batch_files(path)
        return _Source(_stats(files), lambda _: read_cifar_files(path, files))
    if _is_tar(path):
        return _Source(_stats([path]), lambda _: read_cifar_tar(path))
    raise DataError(
        f"{path} is none of the forms that images are read from: a folder or .zip of image files, "
        ".npz, .npy, CIFAR's archive for Python, MNIST's idx files."
    )


def _stats(files: list[Path]) -> dict[str, os.stat_result]:
    return {file.name: file.stat() for file in files}


def _first_member(head: bytes) -> bytes:
    """The name of a zip's first file, from the zip's first bytes."""
    return head[30 : 30 + int.from_bytes(head[26:28], "little")]


def _unpacked_head(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(3)
    except (EOFError, OSError, zlib.error):
        return b""


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except EOFError:  # packed and cut short
        return False
