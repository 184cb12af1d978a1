"""Open training or generated images, whatever they are stored in."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from memaudit.data.built_sets import check_finished, restore_source_names
from memaudit.data.cache import cache_entry
from memaudit.data.cache_folder import CacheDir
from memaudit.data.groups import regroup
from memaudit.data.images import ImageSet
from memaudit.data.labels import relabel
from memaudit.data.layout import Layout
from memaudit.data.path_ranges import is_range
from memaudit.data.preparation import AS_STORED, Preparation
from memaudit.data.readers import (
    arrays,
    arrow_streams,
    cifar,
    dicom,
    hdf5,
    image_files,
    imagenet64,
    lmdb_files,
    mat_files,
    mnist,
    nifti,
    parquet,
    stl10,
    tars,
    tfrecords,
    torch_tensors,
)
from memaudit.data.readers.decoding import SUFFIXES
from memaudit.data.readers.foreign_stores import refuse_foreign
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.reader import Reader, files_below, listed_once
from memaudit.data.readers.tree_contents import count_unread
from memaudit.data.room import check_memory
from memaudit.data.roots import find_place
from memaudit.errors import DataError
from memaudit.progress import Progress, silent

# To add a form: a file in readers/ that defines a `Reader`, and a line here. The first reader that
# recognizes a path reads it, so a special form stands before a general one.
READERS: tuple[Reader, ...] = (
    tars.RANGE,  # no file or folder
    cifar.EXTRACTED,
    mnist.FOLDER,
    stl10.FOLDER,
    imagenet64.FOLDER,
    arrow_streams.SAVED,
    tars.FOLDER,
    tfrecords.FOLDER,
    lmdb_files.FOLDER,
    parquet.FOLDER,
    nifti.FOLDER,
    dicom.FOLDER,
    image_files.FOLDER,  # any other folder
    arrays.NPZ,
    torch_tensors.READER,
    image_files.ZIP,  # any other zip
    arrays.NPY,
    parquet.FILE,
    arrow_streams.FILE,
    hdf5.READER,
    nifti.FILE,
    dicom.FILE,
    mat_files.READER,
    lmdb_files.FILE,
    tfrecords.FILE,
    mnist.FILE,
    cifar.BATCH,
    cifar.ARCHIVE,
    image_files.IMAGE,
    tars.FILE,
)

MAPPED_FROM = 64 << 20
"""Bytes of pixels, or of the files that are decoded, from which pixels are cached and mapped."""
KEPT_FROM = 10_000
"""Number of images to decode or resize from which that is done once, however small they are."""

Choose = Callable[[Contents], np.ndarray | None]
"""Which images to take, judged by all but their pixels: int64 [M], ascending, or None for all."""


def open_images(
    path: str | Path,
    preparation: Preparation = AS_STORED,
    *,
    layout: Layout | None = None,
    choose: Choose | None = None,
    cache_dir: CacheDir = None,
    check_all: bool = False,
    progress: Progress = silent,
) -> ImageSet:
    """Images in any of the forms in READERS, recognized by content and not by name.

    - a folder or zip of image files (BMP, GIF, JPEG, PNG, TIFF, WebP): flat, or in one folder per
      class, or in EDM's form with a `dataset.json`, in whole or divided into train, val and test;
      ordered by name
    - `.npz` with `images` (and `labels`, `names`), or `.npy`: uint8 [N, H, W], [N, C, H, W] or
      [N, H, W, C]
    - CIFAR-10's and CIFAR-100's archive for Python, as .tar.gz or extracted (the training images),
      or one of its batches
    - MNIST's idx files, as .gz or not: a folder (the training images) or one file of images
    - shards and stores: parquet, `save_to_disk`, tars and WebDataset (also as a range,
      `shards/{000..123}.tar`), LMDB, HDF5, TFRecord, `.mat`, `.pt`, NIfTI, DICOM; docs/sets.md has
      what is read of each

    The images and classes of a set that `memaudit dataset build` made have the names that they have
    in their source.

    Pixels are taken as they are stored unless `preparation` says otherwise. Sets of 64 MiB and
    more, of pixels or of image files, and sets of 10,000 images and more are decoded once, kept in
    the cache and memory-mapped.

    Args:
        path: the source.
        preparation: how each image becomes pixels of one size and mode; by default as stored.
        layout: the split to take of a source that has some, and where labels come from; by default
            the split train, the labels that the source has, and no groups that count.
        choose: which images to take; `open_selected` in subsets.py makes one of a `Selection`.
        cache_dir: the folder for decoded images; by default $MEMAUDIT_CACHE or the system's cache
            folder. If it cannot be written, images stay in memory. False reads and writes no cache:
            the images are the source's, whatever lies in the cache.
        check_all: whether images from the cache are all compared with the source's, not a random
            part of them: right whoever could write the cache, and as slow as decoding.
        progress: told how many images are read.

    Returns:
        Read-only uint8 [N, C, H, W] with a name for each image, and labels if the source has them.

    Raises:
        DataError: there is nothing, or no images, or a broken image, or sizes, modes or labels
            that do not match; the message names the file.
    """
    preparation = preparation.resolved()
    path = Path(path)
    try:
        check_finished(path)
        layout = layout or Layout()
        place = find_place(path, layout)
        with listed_once():
            reader = _arranged(_reader_for(place.path), path, place.layout)
            files = reader.files(place.path)
            contents = reader.read(place.path, files, preparation)
            contents = _with_pictures_beside(contents, reader, path)
        contents = restore_source_names(contents, path)
        contents = place.marked(replace(contents, source=str(path)))
        contents = relabel(contents, layout.labels_from)
        contents = regroup(contents, layout.groups_from)
        rows = None if choose is None else choose(contents)
        is_mapped = isinstance(contents.array, np.memmap)
        contents = contents if rows is None else contents.take(rows)
        entry = cache_entry(cache_dir, path, files, preparation, contents.split, rows)
        contents = contents.prepared(preparation)
    except OSError as error:
        raise DataError(
            f"{error.filename or path} cannot be read: {error.strerror or error}."
        ) from error
    except MemoryError as error:
        raise _too_large(path) from error
    try:
        is_worthless = is_mapped and contents.array is not None
        if entry is not None and not is_worthless and _is_worth_keeping(contents):
            cached = entry.load(contents, check_all=check_all, progress=progress)
            if cached is None:
                cached = entry.store(contents, check_all=check_all, progress=progress)
            if cached is not None:
                return replace(cached, preparation=preparation)
        return replace(_in_memory(contents, progress), preparation=preparation)
    except MemoryError as error:
        raise _too_large(path) from error


def _is_worth_keeping(contents: Contents) -> bool:
    """Whether the pixels are many, or take long to make."""
    is_large = max(contents.num_bytes, contents.encoded_bytes) >= MAPPED_FROM
    return is_large or (contents.array is None and len(contents.names) >= KEPT_FROM)


def _too_large(path: Path) -> DataError:
    """The last resort, where no limit was known beforehand."""
    return DataError(
        f"{path} needs more memory than there is. Use a part of it, smaller images, or a machine "
        "with more memory."
    )


def _reader_for(path: Path) -> Reader:
    if not path.exists() and not is_range(path):
        raise DataError(f"There is no file or folder {path}.")
    refuse_foreign(path)
    for reader in READERS:
        if reader.recognizes(path):
            return reader
    forms = ", ".join(reader.form for reader in READERS)
    raise DataError(f"{path} has none of the forms that images are read from: {forms}.")


def _with_pictures_beside(contents: Contents, reader: Reader, path: Path) -> Contents:
    """The contents of a store, with the image files in its folder among what was not read."""
    if not path.is_dir() or reader.form == image_files.FOLDER.form:
        return contents
    counts = count_unread(name for name in files_below(path) if name.lower().endswith(SUFFIXES))
    return replace(contents, unread=dict(Counter(contents.unread) | counts))


def _arranged(reader: Reader, path: Path, layout: Layout) -> Reader:
    """The reader for what the user chose, where it is the reader's to see to it."""
    if reader.with_layout is not None:
        return reader.with_layout(layout)
    if layout.split is not None:
        raise DataError(
            f"{path} is not divided into splits; leave {{split}} out, or give the file of the "
            "split.",
            field="split",
        )
    return reader


def _in_memory(contents: Contents, progress: Progress) -> ImageSet:
    images = contents.array
    if images is None:
        check_memory(contents.num_bytes, f"Reading the images of {contents.source}")
        images = np.empty(contents.shape, np.uint8)
        done = 0
        for batch in contents.batches():
            images[done : done + len(batch)] = batch
            done += len(batch)
            progress("Reading images", done, len(images))
    images.flags.writeable = False  # as a mapped one is
    return contents.with_pixels(images)


def as_images(
    images: str | Path | np.ndarray | ImageSet,
    *,
    cache_dir: CacheDir = None,
    check_all: bool = False,
    progress: Progress = silent,
) -> ImageSet:
    """Images given as a path, an array or an image set.

    Args:
        images: anything that `open_images` opens, or uint8 [N, C, H, W], or an ImageSet.
        cache_dir, check_all: as for `open_images`.
        progress: told how far the decoding of images is.

    Raises:
        DataError: images that are missing or broken, or an array of another type or shape.
        TypeError: none of these.
    """
    if isinstance(images, ImageSet):
        return images
    if isinstance(images, str | Path):
        return open_images(images, cache_dir=cache_dir, check_all=check_all, progress=progress)
    array = np.asarray(images)
    if array.dtype == object:
        raise TypeError(
            f"images are a {type(images).__name__}; a path, a uint8 array [N, C, H, W] or an "
            "ImageSet is needed"
        )
    return ImageSet.from_array(array)
