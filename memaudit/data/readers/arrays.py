"""Images stored as one array: .npy and .npz."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from memaudit.data.layout import DEFAULT_LAYOUT, Layout
from memaudit.data.preparation import Preparation
from memaudit.data.readers.array_names import arrays_of_splits, left_out
from memaudit.data.readers.lazy_images import Contents, numbered_names
from memaudit.data.readers.npy_format import announced, read_header, texts
from memaudit.data.readers.npz_arrays import (
    NpzRows,
    counts_from_one,
    npz_members,
    planes,
    read_npz_array,
    refuse_interleaved,
)
from memaudit.data.readers.number_arrays import flat_labels, number_contents, one_class_each
from memaudit.data.readers.reader import Files, Reader, first_bytes, first_member
from memaudit.data.readers.shards import choose_one
from memaudit.data.readers.zip_members import Members
from memaudit.errors import DataError
from memaudit.files import open_regular
from memaudit.wording import listed


def _is_npy(path: Path) -> bool:
    return first_bytes(path).startswith(b"\x93NUMPY")


def _read_npy(path: Path, files: Files, preparation: Preparation) -> Contents:
    """The images of a .npy file, mapped and not read."""
    with open_regular(path) as file:
        header = read_header(file, files[path.name].st_size, str(path))
        if not math.prod(header.shape):  # nothing can be mapped
            raise DataError(f"{path} holds {announced(header.dtype, header.shape)}, no images.")
        array = np.memmap(file, header.dtype, "r", header.start, header.shape, header.order)
    names = numbered_names(path.name, header.shape[0] if header.shape else 0)
    return number_contents(array, str(path), str(path), names, window=preparation.window)


NPY = Reader(".npy", _is_npy, _read_npy)


def _is_npz(path: Path) -> bool:
    return (first_member(path) or "").endswith(".npy")


def _read_npz(
    path: Path, _files: Files, preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    """The images of an .npz file: `images`, and if present `labels` and `names` [N].

    np.savez calls arrays without a name arr_0, arr_1, …; the first is then taken for the images
    and the second, if there is one, for the labels. array_names.py has what others call them.
    """
    members = npz_members(path)
    found = [name.removesuffix(".npy") for name in members]
    splits = arrays_of_splits(found)
    if not splits:
        raise DataError(f"{path} holds {listed(found)}; an array called `images` is needed.")
    arrays, chosen = choose_one(splits, path, layout)
    key = arrays.images
    images = read_npz_array(path, members, key)
    if key == "data" and images.ndim == 2:
        images = planes(images, f"{key} in {path}")
        if images.ndim == 4 and len(images):
            refuse_interleaved(images, f"{key} in {path}")
    labels = None
    notes: tuple[str, ...] = ()
    if arrays.labels is not None:
        labels = flat_labels(read_npz_array(path, members, arrays.labels))
        if key == "data" and counts_from_one(path, labels, has_mean="mean" in found):
            labels = labels - 1
        if key != "images":  # several answers for each image, as in ChestMNIST, are not classes
            labels, notes = one_class_each(labels, f"{arrays.labels} in {path}")
    if "names.npy" in members:
        names = texts(read_npz_array(path, members, "names"), f"names in {path}")
    else:
        names = numbered_names(path.name, images.shape[0] if images.ndim else 0)
    what = f"{key} in {path}"
    contents = number_contents(
        images, str(path), what, names, window=preparation.window, labels=labels
    )
    like_images = [name for name in found if _num_axes(path, members, name) in (3, 4)]
    notes += left_out(str(path), like_images, splits)
    return chosen.marked(replace(contents, notes=(*contents.notes, *notes)))


def _num_axes(path: Path, members: Members, key: str) -> int:
    """The number of axes of an array; 0 for one that is not of plain numbers."""
    try:
        return len(NpzRows(path, members, key).header.shape)
    except DataError:
        return 0


def _with_layout(layout: Layout) -> Reader:
    return replace(NPZ, read=partial(_read_npz, layout=layout))


NPZ = Reader(".npz", _is_npz, _read_npz, with_layout=_with_layout)
