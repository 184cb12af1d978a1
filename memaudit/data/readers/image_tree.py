"""What the folders that images lie in mean: splits, classes, buckets, or how often each is shown.

Only names are looked at. Folders that all images have in common say nothing and are passed over,
however many there are.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from memaudit.data.images import number_classes
from memaudit.data.layout import ALL_SPLITS, Layout, canonical_split, choose_split
from memaudit.errors import DataError
from memaudit.wording import counted, joined, listed, quoted, shown, some

Folder = tuple[str, ...]
"""A folder by its parts, from the outermost."""

_NUMBER = re.compile(r"(\d{1,18})$", re.ASCII)
_REPEATS = re.compile(r"([1-9]\d{0,3})_(.+)", re.ASCII | re.DOTALL)
"""kohya's folders: the number of times that each image is shown in an epoch, and a text."""
_FEW_CLASSES = 10
"""Folders numbered with fewer than three digits, up to which they are taken for classes."""
_MAX_SPLITS = 20


@dataclass(frozen=True)
class Tree:
    """The images that are meant, and the folder inside which the rest of their names counts."""

    names: list[str]
    """Names of the images, in their order."""
    inside: Folder
    """The folder that is the set: of the split, or of all images."""
    split: str | None = None
    other_splits: tuple[str, ...] = ()
    """Splits whose images were not taken."""
    notes: tuple[str, ...] = ()

    def belongs(self, name: str) -> bool:
        """Whether a file lies beside the images that are meant, not in another split."""
        if not self.inside:
            return True  # no folder is a split
        *outer, _ = self.inside
        place = _folder(name)
        is_within = list(place[: len(outer)]) == outer and len(place) > len(outer)
        return not (is_within and place[len(outer)] in self.other_splits)


@dataclass(frozen=True)
class Classes:
    """What folders say of each image."""

    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    repeats: np.ndarray | None = None
    """int64 [N]: how often each image is shown in an epoch."""
    texts: Sequence[str] | None = None
    """[N]: what the folder of each image says, where it stands for a missing caption."""
    notes: tuple[str, ...] = ()


def find_images(source: str, names: Iterable[str], layout: Layout, *, is_one_set: bool) -> Tree:
    """The images of a tree of files that are meant, by the split that they lie in.

    Folders `train`, `val`, `test` and the like are splits where nothing else holds images, or where
    two of them do.

    Args:
        source: its name in an error.
        names: the names of all images.
        layout: what the user chose.
        is_one_set: whether a file says of all images that they are one set.

    Raises:
        DataError: a split that is not there, or one to choose.
    """
    names = sorted(names)
    folders = {_folder(name) for name in names}
    common: Folder = tuple(os.path.commonprefix(list(folders)))
    at = next((i for i, part in enumerate(common) if canonical_split(part)), None)
    if at is not None:
        splits = [common[at]]
    else:
        at = len(common)
        splits = [] if is_one_set and layout.split is None else _splits(folders, at)
    outer = common[:at]
    if not splits or layout.split == ALL_SPLITS:
        if layout.split not in (None, ALL_SPLITS):
            raise DataError(
                f"{source} is not divided into splits such as train and test: there is no "
                f"{shown(layout.split)}. Leave {{split}} out.",
                field="split",
            )
        split = ALL_SPLITS if splits else None
        return Tree(names, outer if splits else (), split)
    split = choose_split(source, splits, layout.split)
    inside = (*outer, split)
    prefix = "/".join(inside) + "/"
    chosen = [name for name in names if name.startswith(prefix)]
    others = tuple(other for other in splits if other != split)
    notes = []
    if others and layout.split is None:
        notes.append(_left_out(source, splits, split, len(chosen)))
    beside = sum(len(_folder(name)) == at for name in names)
    if beside:
        notes.append(
            f"{counted(beside, 'image', 'images')} in {source} beside the folders "
            f"{some(splits)} lie in no split and were not taken."
        )
    return Tree(chosen, inside, split, others, tuple(notes))


def _splits(folders: set[Folder], at: int) -> list[str]:
    """The folders at a depth that are splits, in order; none if they are something else."""
    tops = {folder[at] for folder in folders if len(folder) > at}
    known = {canonical_split(top) for top in tops}
    is_only = None not in known and not any(len(folder) == at for folder in folders)
    if not is_only and len(known - {None}) < 2:
        return []
    return sorted(tops) if tops and len(tops) <= _MAX_SPLITS else []


def images_of_split(
    source: str, names: Iterable[str], splits: Mapping[str, str], file: str, layout: Layout
) -> Tree:
    """The images that are meant, where a file says which split each belongs to.

    Args:
        source: its name in an error.
        names: the names of all images.
        splits: name of an image's file, without folders → split.
        file: where that is said.
        layout: what the user chose.

    Raises:
        DataError: an image of no split, a split that is not there, or one to choose.
    """
    names = sorted(names)
    by_split: dict[str, list[str]] = {}
    for name in names:
        by_split.setdefault(splits.get(PurePosixPath(name).name, ""), []).append(name)
    if missing := by_split.pop("", []):
        raise DataError(
            f"{source}: {file} has no split for {counted(len(missing), 'image', 'images')}: "
            f"{listed(missing)}. Complete it, or remove it to take all images."
        )
    common: Folder = tuple(os.path.commonprefix([_folder(name) for name in names]))
    if layout.split == ALL_SPLITS:
        return Tree(names, common, ALL_SPLITS)
    split = choose_split(source, sorted(by_split), layout.split)
    others = tuple(other for other in sorted(by_split) if other != split)
    notes: tuple[str, ...] = ()
    if others and layout.split is None:
        notes = (_left_out(source, [split, *others], split, len(by_split[split])),)
    return Tree(by_split[split], common, split, others, notes)


def _left_out(source: str, splits: Sequence[str], split: str, num_images: int) -> str:
    other = next(each for each in splits if each != split)
    return (
        f"{source} is divided into {joined([quoted(each) for each in splits])}: only the "
        f"{counted(num_images, 'image', 'images')} of {quoted(split)} were taken. Those of "
        f"{quoted(other)} can serve as held-out images."
    )


def folder_classes(source: str, tree: Tree, *, wanted: bool = False) -> Classes:
    """What the folders of the images mean, where no file says it.

    Folders are classes if there are two and more and each image lies in exactly one of them, below
    those that all have in common; unless they are buckets, which divide files that are numbered
    throughout.

    Args:
        source: its name in an error.
        tree: the images.
        wanted: whether the user says that folders are classes, whatever they look like.

    Raises:
        DataError: folders are wanted as classes, and an image lies in none.
    """
    skipped = len(tree.inside)
    if tree.split == ALL_SPLITS:
        skipped += 1  # the splits are not classes
    all_folders = [_folder(name)[skipped:] for name in tree.names]
    folders = set(all_folders)
    outer = len(os.path.commonprefix([folder[:-1] for folder in folders]))
    depths = sorted({len(folder) - outer for folder in folders})
    if wanted:
        return _classes_wanted(source, tree, all_folders, outer)
    if depths == [0]:
        return Classes()
    if depths == [2] and _repeats({folder[-1] for folder in all_folders}) is not None:
        above = sorted({folder[0] for folder in all_folders})
        return Classes(
            notes=(
                f"{source} holds kohya's folders of repeats below {listed(above)}. All were taken, "
                f"without their repeats; give {shown(above[0])} alone if the others hold images "
                "for regularization.",
            )
        )
    if depths != [1]:
        deep = f"{depths[0]} to {depths[-1]}" if len(depths) > 1 else f"{depths[0]}"
        return Classes(
            notes=(
                f"Folders in {source} are not classes: images lie {deep} folders deep. They were "
                "opened without labels.",
            )
        )
    texts = [folder[-1] for folder in all_folders]
    if _are_buckets(tree.names, texts):
        return Classes(
            notes=(
                f"Folders in {source} are not classes: their names are numbers, and the files in "
                "them are numbered throughout. They were opened without labels.",
            )
        )
    repeats = _repeats(set(texts))
    if repeats is not None:
        return _shown_repeatedly(source, texts, repeats)
    if len(set(texts)) == 1:
        return Classes()  # every class-conditional model has two classes and more
    return Classes(*number_classes(texts))


def _classes_wanted(source: str, tree: Tree, folders: Sequence[Folder], outer: int) -> Classes:
    for name, folder in zip(tree.names, folders, strict=True):
        if len(folder) <= outer:
            raise DataError(
                f"{source}: {shown(name)} lies in no folder of its own class, as {{labels_from}} "
                "folder needs. Move it, or give the labels in a CSV file.",
                field="labels_from",
            )
    return Classes(*number_classes(["/".join(folder[outer:]) for folder in folders]))


def _are_buckets(names: Sequence[str], folders: Sequence[str]) -> bool:
    """Whether folders merely divide files that are numbered throughout, as FFHQ's do.

    Their names are numbers. Either a folder is named by the first number that may be in it, 00000
    and 01000, or they are consecutive, and so many or so long that they are not a few classes.
    """
    kinds = set(folders)
    if len(kinds) < 2 or not all(re.fullmatch(r"\d{1,18}", kind, re.ASCII) for kind in kinds):
        return False
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for name, folder in zip(names, folders, strict=True):
        number = _NUMBER.search(name.rpartition(".")[0])
        if number is None:
            return False
        value = int(number[1])
        first[folder] = min(first.get(folder, value), value)
        last[folder] = max(last.get(folder, value), value)
    in_order = sorted(kinds, key=int)
    pairs = list(zip(in_order, in_order[1:], strict=False))
    if len(set(map(int, in_order))) < len(in_order) or any(last[a] >= first[b] for a, b in pairs):
        return False
    if all(len(names) > len(kinds) and int(a) <= first[a] and last[a] < int(b) for a, b in pairs):
        return int(in_order[-1]) <= first[in_order[-1]]
    is_consecutive = all(int(b) == int(a) + 1 for a, b in pairs)
    return is_consecutive and (len(kinds) > _FEW_CLASSES or min(map(len, kinds)) >= 3)


def _repeats(folders: set[str]) -> dict[str, tuple[int, str]] | None:
    """Repeats and text of each folder, if all have kohya's form; None for numbered classes."""
    found = {folder: _REPEATS.fullmatch(folder) for folder in folders}
    parts = {folder: (int(match[1]), match[2].strip()) for folder, match in found.items() if match}
    if len(parts) < len(folders):
        return None
    numbers = sorted(number for number, _ in parts.values())
    is_numbering = numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 1
    return None if is_numbering else parts


def _shown_repeatedly(
    source: str, folders: Sequence[str], parts: dict[str, tuple[int, str]]
) -> Classes:
    repeats = np.array([parts[folder][0] for folder in folders], dtype=np.int64)
    labels: np.ndarray | None
    labels, class_names = number_classes([parts[folder][1] for folder in folders])
    if len(parts) == 1:
        labels, class_names = None, ()
    often = sorted(parts.items(), key=lambda item: (-item[1][0], item[0]))
    said = [
        f"{quoted(folder)}: {counted(number, 'time', 'times')}" for folder, (number, _) in often
    ]
    notes: tuple[str, ...] = ()
    if repeats.max() > 1:
        notes = (
            f"Folders in {source} say how often a training shows their images in an epoch "
            f"({some(said)}). Each image is searched once; those shown more often are likely to "
            "be copied first.",
        )
    texts = [parts[folder][1] for folder in folders]  # as kohya's trainer takes it
    return Classes(labels, class_names, repeats, texts, notes)


def _folder(name: str) -> Folder:
    return tuple(name.split("/")[:-1])
