"""Sets that are kept in several files of one kind: which files, and of which split."""

import importlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

import numpy as np

from memaudit.data.layout import ALL_SPLITS, Layout, canonical_split, choose_split
from memaudit.data.readers.decoding import SUFFIXES
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.reader import MAX_SUFFIX, files_below, is_hidden
from memaudit.errors import DataError
from memaudit.wording import counted, joined, listed, quoted, shown

T = TypeVar("T")

_NUMBERED = re.compile(r"(?P<split>.*?)[-_.]?(?P<shard>\d{1,9})-of-(?P<count>\d{1,9})(\.[\w.]+)?$")


def library(module: str, path: Path, *, form: str, extra: str) -> Any:
    """A module of a library that only some forms need.

    Raises:
        DataError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise DataError(
            f"{path} is {form}, which is read with {name}, which is not installed: pip install "
            f'{name} (or this package with the extra "{extra}").'
        ) from error


@contextmanager
def errors_of(what: str) -> Iterator[None]:
    """Whatever a library raises for broken bytes, as an error that names what they belong to.

    Errors of the system and a lack of memory stay what they are.
    """
    try:
        yield
    except (DataError, GeneratorExit, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        reason = quoted(str(error) or type(error).__name__)
        raise DataError(f"{what} cannot be read: {reason}. Fetch it again.") from error


def shard_files(folder: Path, suffixes: Sequence[str]) -> list[str]:
    """The files with these suffixes in a folder, at any depth, by name.

    Returns:
        Their paths inside the folder; empty if image files beside them are the set.

    Raises:
        DataError: as `are_the_set`.
    """
    found = files_with(folder, suffixes)
    return found if are_the_set(folder, found) else []


def files_with(folder: Path, suffixes: Sequence[str]) -> list[str]:
    """The files with these suffixes in a folder, at any depth, by name."""
    # TensorFlow numbers shards after the suffix.
    wanted = re.compile(rf"({'|'.join(map(re.escape, suffixes))})(-\d+-of-\d+)?$", re.IGNORECASE)
    return sorted(name for name in files_below(folder) if wanted.search(name))


_CLEARLY = 10
"""How many times the bytes of one kind of files must be those of another to be the set."""
_FEW_PICTURES = 10
_ARRAYS = (".npy", ".pt")
_STORES = (
    *(".arrow", ".beton", ".h5", ".hdf5", ".lmdb", ".mat", ".mds", ".npy", ".npz", ".pt", ".rar"),
    *(".7z", ".tar", ".tar.gz", ".tar.zst", ".tgz", ".zip"),
)
"""Files that may be a whole set, and are opened one by one."""


def are_the_set(folder: Path, stores: Sequence[str]) -> bool:
    """Whether files of a store are the set, and not images that lie beside them.

    Previews lie beside shards, and tables of captions beside images: whatever has ten times the
    bytes of the other is the set, and the rest is counted as not read.

    Args:
        folder: where they lie.
        stores: paths inside it.

    Raises:
        DataError: either may be the set.
    """
    if not stores:
        return False
    pictures = [name for name in files_below(folder) if name.lower().endswith(SUFFIXES)]
    if not pictures:
        return True
    kept, shown_beside = _num_bytes(folder, stores), _num_bytes(folder, pictures)
    if kept >= _CLEARLY * shown_beside:
        return True
    if shown_beside >= _CLEARLY * kept:
        return False
    kinds = joined(sorted({PurePosixPath(name).suffix or "DICOM" for name in stores}))
    raise DataError(
        f"{folder} holds {counted(len(pictures), 'image', 'images')} ({listed(pictures)}) and "
        f"{counted(len(stores), 'file', 'files')} of {kinds} ({listed(stores)}), and either may be "
        "the set. Give a folder or file that holds only what the model was trained on."
    )


def refuse_pictures_of_a_store(
    folder: Path, pictures: Sequence[str], others: Sequence[str]
) -> None:
    """Refuse a few images beside a file that may hold far more of them, such as a preview.

    Raises:
        DataError: with the name of the file, which can be opened itself.
    """
    if len(pictures) > _FEW_PICTURES:
        return
    stores = [name for name in others if name.lower().endswith(_STORES) and not is_hidden(name)]
    stores.sort()
    if stores and not pictures:
        are_arrays = len(stores) > 1 and all(each.lower().endswith(_ARRAYS) for each in stores)
        stack = " If each holds one image, stack them into one array." if are_arrays else ""
        raise DataError(
            f"{folder} holds no image files, but {listed(stores)}. Give the one that is the set, "
            f"such as {folder / stores[0]}.{stack}"
        )
    if stores and _num_bytes(folder, stores) >= _CLEARLY * _num_bytes(folder, pictures):
        raise DataError(
            f"{folder} holds {counted(len(pictures), 'image', 'images')} ({listed(pictures)}) "
            f"beside {listed(stores)}, which may hold the set. Give {folder / stores[0]} if it is "
            "the set, or move the images to a folder of their own."
        )


def _num_bytes(folder: Path, names: Iterable[str]) -> int:
    return sum(os.stat(folder / name).st_size for name in names)


def beside(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Files in a folder that are not among those named, by suffix, most frequent first."""
    taken = set(names)
    counts = Counter(
        PurePosixPath(name).suffix.lower()[:MAX_SUFFIX]
        for name in files_below(folder)
        if name not in taken
    )
    return dict(counts.most_common())


def split_of(name: str) -> str:
    """The split that a path inside a set names; empty if it names none.

    The shards of Hugging Face are called SPLIT-00000-of-00002, whatever the split.
    """
    path = PurePosixPath(name)
    stem = path.name.partition(".")[0]
    for part in (stem, *reversed(path.parts[:-1])):
        for word in re.split(r"[-_. ]", part):
            if split := canonical_split(word):
                return split
    numbered = _NUMBERED.match(path.name)
    return numbered["split"].lower() if numbered else ""


@dataclass(frozen=True)
class Chosen(Generic[T]):
    """What was taken of a set that may have splits."""

    values: list[T]
    """What the split has, or what each one has if all are taken."""
    split: str | None
    others: tuple[str, ...] = ()
    """Splits that were not taken."""
    note: str | None = None

    def marked(self, contents: Contents) -> Contents:
        """The contents of what was taken, which say so."""
        notes = contents.notes if self.note is None else (*contents.notes, self.note)
        return replace(contents, split=self.split, other_splits=self.others, notes=notes)


def choose(splits: Mapping[str, T], path: Path, layout: Layout) -> Chosen[T]:
    """What is meant of a set: one of its splits, all, or what is there if it has none.

    Args:
        splits: what each split has; a set without splits has one called "".
        path: the set, in an error.
        layout: what the user chose.

    Raises:
        DataError: a split that is not there, or one to choose.
    """
    names = list(splits)
    if names == [""]:
        if layout.split not in (None, ALL_SPLITS):
            raise DataError(
                f"{path} is not divided into splits such as train and test: there is no "
                f"{shown(layout.split)}. Leave {{split}} out.",
                field="split",
            )
        return Chosen([splits[""]], None)
    if layout.split == ALL_SPLITS:
        return Chosen(list(splits.values()), ALL_SPLITS)
    split = choose_split(str(path), names, layout.split)
    others = tuple(name for name in names if name != split)
    note = None
    if others and layout.split is None:
        divided = joined([quoted(name) for name in names])
        note = f"{path} is divided into {divided}: only the images of {quoted(split)} were taken."
    return Chosen([splits[split]], split, others, note)


def choose_one(splits: Mapping[str, T], path: Path, layout: Layout) -> tuple[T, Chosen[T]]:
    """As `choose`, of a file whose splits cannot be put together."""
    chosen = choose(splits, path, layout)
    if len(chosen.values) > 1:
        raise DataError(
            f"{path} keeps its splits apart: {joined([quoted(name) for name in splits])}. Choose "
            "one with {split}.",
            field="split",
        )
    return chosen.values[0], chosen


def shards_of_split(names: Iterable[str], path: Path, layout: Layout) -> Chosen[list[str]]:
    """The shards of one split, or of each, in order.

    Raises:
        DataError: as `choose`; or shards are missing, or of several sets.
    """
    splits: dict[str, list[str]] = {}
    for name in sorted(names):
        splits.setdefault(split_of(name), []).append(name)
    chosen = choose(splits, path, layout)
    for found in chosen.values:
        _check_series(found, path)
    return chosen


def _check_series(found: Sequence[str], path: Path) -> None:
    series: dict[tuple[str, int], set[int]] = {}
    for name in found:
        folder, _, file = name.rpartition("/")
        if numbered := _NUMBERED.match(file):
            key = f"{folder}/{numbered['split']}", int(numbered["count"])
            series.setdefault(key, set()).add(int(numbered["shard"]))
    if len(series) > 1:
        held = joined([f"{name.strip('/')}-…-of-{count:05d}" for name, count in sorted(series)])
        raise DataError(f"{path} holds several sets, {held}. Give the folder or file of one.")
    for (name, count), shards in series.items():
        missing = [i for i in range(min(count, 10**6)) if i not in shards]
        if missing:
            raise DataError(
                f"{path} holds {len(shards):,} of the {count:,} files of {name.strip('/')}; number "
                f"{listed(map(str, missing), 3)} is missing. Fetch them all."
            )


def rows_of_parts(rows: np.ndarray, sizes: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Rows of a whole as rows of its parts.

    Args:
        rows: int64 [M], ascending.
        sizes: number of rows of each part.

    Yields:
        The number of a part, and rows in it, int64, ascending; no part without any.
    """
    ends = np.cumsum([0, *sizes])
    cuts = np.searchsorted(rows, ends)
    for part in range(len(sizes)):
        inside = rows[cuts[part] : cuts[part + 1]]
        if len(inside):
            yield part, inside - ends[part]
