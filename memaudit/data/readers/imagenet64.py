"""The downsampled ImageNet as it is downloaded: ten batches of training images, and val_data.

Each .npz holds `data` [N, 3·S·S], planes of red, green and blue; `labels` from 1 to 1000; and in
those of training images the `mean`. https://patrykchrabaszcz.github.io/Imagenet32
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from memaudit.data.images import as_labels
from memaudit.data.layout import DEFAULT_LAYOUT, Layout
from memaudit.data.preparation import Preparation
from memaudit.data.readers.lazy_images import Contents, batch_rows, numbered_names
from memaudit.data.readers.npz_arrays import (
    OF_IMAGENET,
    NpzRows,
    counts_from_one,
    npz_members,
    planes,
    read_npz_array,
)
from memaudit.data.readers.number_arrays import flat_labels
from memaudit.data.readers.reader import Files, Reader, stats
from memaudit.data.readers.shards import are_the_set, beside, choose, rows_of_parts
from memaudit.errors import DataError
from memaudit.wording import some

_BATCHES = 10


def _is_folder(path: Path) -> bool:
    return path.is_dir() and are_the_set(path, _names(path))


def _names(path: Path) -> list[str]:
    """The files of the set in a folder, in order."""
    named = [name for name in os.listdir(path) if OF_IMAGENET.fullmatch(name)]
    found = [name for name in named if (path / name).is_file()]  # val_data/ may be a folder
    return sorted(found, key=lambda name: (_number(name) or 1000, name))


def _number(name: str) -> int:
    """The number of a batch of training images; 0 for val_data."""
    match = OF_IMAGENET.fullmatch(name)
    return int(match["number"] or 0) if match else 0


def _files(path: Path) -> Files:
    return stats(path / name for name in _names(path))


def _read(
    path: Path, files: Files, _preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    for name in files:
        if not name.endswith(".npz"):
            raise DataError(
                f"{path / name} is a pickle, which may run anything. Fetch the .npz files of the "
                f"set, or, if you trust it: np.savez('{name}.npz', "
                f"**pickle.load(open('{name}', 'rb')))"
            )
    numbers = [number for name in files if (number := _number(name))]
    if numbers != list(range(1, len(numbers) + 1)):
        missing = sorted(set(range(1, max(numbers) + 1)) - set(numbers))
        raise DataError(
            f"{path} lacks batch {some([str(number) for number in missing])} of the training "
            "images. Fetch all."
        )
    splits = {"train": list(files)[: len(numbers)], "val": list(files)[len(numbers) :]}
    chosen = choose({split: names for split, names in splits.items() if names}, path, layout)
    contents = _put_together(path, [name for names in chosen.values for name in names])
    if 0 < len(numbers) < _BATCHES and chosen.split != "val":
        has = f"{path} has {len(numbers)} of the {_BATCHES} batches of training images."
        contents = replace(contents, notes=(has,))
    return chosen.marked(replace(contents, unread=beside(path, files)))


def _put_together(path: Path, names: list[str]) -> Contents:
    parts: list[NpzRows] = []
    labels: list[np.ndarray] = []
    image_names: list[str] = []
    are_from_one = True
    for name in names:
        members = npz_members(path / name)
        if not {"data.npy", "labels.npy"} <= members.keys():
            raise DataError(f"{path / name} lacks `data` or `labels`, as ImageNet's batches have.")
        part = NpzRows(path / name, members, "data")
        shape = part.header.shape
        if len(shape) != 2 or part.header.dtype != np.uint8 or not shape[0]:
            raise DataError(
                f"{part.what} is {part.header.dtype} {list(shape)}; uint8 [N, 3·S·S] is needed."
            )
        if parts and shape[1] != parts[0].header.shape[1]:
            raise DataError(
                f"{part.what} has rows of {shape[1]:,} bytes, and {names[0]} of "
                f"{parts[0].header.shape[1]:,}. Give batches of one size."
            )
        found = flat_labels(read_npz_array(path / name, members, "labels"))
        labels.append(as_labels(found, shape[0], str(path / name)))
        has_mean = "mean.npy" in members
        are_from_one = are_from_one and counts_from_one(path / name, found, has_mean=has_mean)
        image_names += numbered_names(name, shape[0])
        parts.append(part)
    numbers = np.concatenate(labels)
    first = planes(parts[0].array()[:1], parts[0].what)
    sizes = [part.header.shape[0] for part in parts]

    def batches(rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        step = batch_rows(first.nbytes)
        wanted = np.arange(sum(sizes)) if rows is None else rows
        for number, inside in rows_of_parts(wanted, sizes):
            images = planes(parts[number].array(), parts[number].what)
            for start in range(0, len(inside), step):
                yield np.ascontiguousarray(images[inside[start : start + step]])
            if rows is None:
                parts[number].check()

    shape = (sum(sizes), *first.shape[1:])
    return Contents(
        str(path),
        (shape[0], 3, shape[2], shape[3]),
        image_names,
        batches,
        numbers - 1 if are_from_one else numbers,
    )


def _with_layout(layout: Layout) -> Reader:
    return replace(FOLDER, read=partial(_read, layout=layout))


FOLDER = Reader(
    "a folder of ImageNet64's batches", _is_folder, _read, _files, with_layout=_with_layout
)
