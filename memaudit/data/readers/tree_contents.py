"""The images of a tree of named files, be it a folder, a zip or a tar: what its files mean."""

import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import PurePosixPath

import numpy as np

from memaudit.data.fitting import UnlikeError
from memaudit.data.images import as_labels
from memaudit.data.layout import Layout
from memaudit.data.preparation import Preparation
from memaudit.data.readers.batch_decoding import EncodedBatch, choose_num_processes, decode_batches
from memaudit.data.readers.captions import Beside, read_texts
from memaudit.data.readers.celeba_files import PARTITION, read_numbers
from memaudit.data.readers.decoding import SUFFIXES, decode_image
from memaudit.data.readers.image_tree import (
    Classes,
    Tree,
    find_images,
    folder_classes,
    images_of_split,
)
from memaudit.data.readers.lazy_images import Contents, batch_rows
from memaudit.data.readers.reader import (
    MAX_FILE_BYTES,
    MAX_SUFFIX,
    is_hidden,
    parse_json,
    side_file_bytes,
)
from memaudit.data.readers.unlike import explain_unlike
from memaudit.errors import DataError
from memaudit.wording import listed, shown

ReadFile = Callable[[str], bytes]
"""name → the file's bytes."""

LABELS_FILE = "dataset.json"
"""The file with the classes of all images, in EDM's form."""
OWN_FILES = ("manifest.json",)
"""What memaudit itself writes beside images."""


def count_unread(names: Iterable[str]) -> Counter[str]:
    """Files that are not taken as images, by suffix; of hidden ones, images alone."""
    counts: Counter[str] = Counter()
    for name in names:
        suffix = PurePosixPath(name).suffix.lower()[:MAX_SUFFIX]
        if not is_hidden(name):
            if not name.endswith("/") and name not in OWN_FILES:
                counts[suffix] += 1
        elif suffix in SUFFIXES and not _is_of_macos(name):  # a trainer may well have read it
            counts[f"hidden {suffix}"] += 1
    return counts


def _is_of_macos(name: str) -> bool:
    return name.rpartition("/")[2].startswith("._") or "__MACOSX/" in name


def is_wanted(name: str) -> bool:
    return not is_hidden(name) and (name.lower().endswith(SUFFIXES) or _is_labels_file(name))


def _is_labels_file(name: str) -> bool:
    return name.endswith(LABELS_FILE) and f"/{name}".endswith(f"/{LABELS_FILE}")


def read_tree(
    source: str,
    sizes: Mapping[str, int],
    beside: Beside,
    opened: Callable[[], AbstractContextManager[ReadFile]],
    layout: Layout,
    preparation: Preparation,
) -> Contents:
    """The contents of a tree of files.

    Args:
        source: its name in an error.
        sizes: the bytes of each image and each dataset.json.
        beside: all other files.
        opened: opens a function that reads a file by its name.
        layout: what the user chose.
        preparation: that of `Reader.read`.
    """
    found = [name for name in sizes if not _is_labels_file(name)]
    if not found:
        raise DataError(f"{source} holds no images; looked for {', '.join(SUFFIXES)}.")
    is_one_set = _find_labels_file(source, sizes, found) is not None
    splits = None if is_one_set else _splits_in_file(source, beside, len(found))
    if splits is None:
        tree = find_images(source, found, layout, is_one_set=is_one_set)
    else:
        tree = images_of_split(source, found, splits, PARTITION, layout)
    names = tree.names

    with opened() as read_file:
        read = _checked(read_file, source, sizes)
        classes = _classes(source, sizes, tree, layout, read)
        first_file = read(names[0])

    def explained(error: UnlikeError) -> DataError:
        with opened() as read_file:
            return explain_unlike(source, names, read_file, preparation, error)

    try:
        first = decode_image(first_file, f"{source}: {names[0]}", preparation)
    except UnlikeError as error:
        raise explained(error) from error
    kinds: Counter[str] = Counter()
    C, H, W = first.shape
    size = batch_rows(first.nbytes)

    def encoded(wanted: Sequence[str]) -> Iterator[EncodedBatch]:
        with opened() as read_file:
            read = _checked(read_file, source, sizes)
            for start in range(0, len(wanted), size):
                batch = list(wanted[start : start + size])
                yield EncodedBatch(batch, [read(name) for name in batch])

    def batches(rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        wanted = names if rows is None else [names[i] for i in rows]
        kinds.clear()
        try:
            yield from decode_batches(
                encoded(wanted),
                source=source,
                shape=(C, H, W),
                first_name=names[0],
                preparation=preparation,
                kinds=kinds,
                num_processes=choose_num_processes(sum(sizes[name] for name in wanted), first_file),
            )
        except UnlikeError as error:
            raise explained(error) from error

    others = [name for name in beside.names if tree.belongs(name)]
    seen = [name for name in others if not is_hidden(name)]
    texts = read_texts(source, names, Beside(seen, beside.read), num_known=len(found))
    return Contents(
        source,
        (len(names), C, H, W),
        names,
        batches,
        classes.labels,
        classes.class_names,
        unread=dict(count_unread(name for name in others if name not in texts.used).most_common()),
        kinds=kinds,
        encoded_bytes=sum(sizes[name] for name in names),
        captions=texts.all_captions(classes.texts),
        groups=texts.all_groups(),
        repeats=classes.repeats,
        split=tree.split,
        other_splits=tree.other_splits,
        labels_from="folder" if layout.labels_from == "folder" else None,
        notes=(*tree.notes, *classes.notes, *texts.notes),
    )


def _splits_in_file(source: str, beside: Beside, num_images: int) -> dict[str, str] | None:
    """CelebA's split of each image, by the name of its file; None without such a file."""
    files = [name for name in beside.names if PurePosixPath(name).name == PARTITION]
    if len(files) != 1:
        return None
    try:
        numbers = read_numbers(beside.read(files[0], side_file_bytes(num_images)))
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{source}: {files[0]} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from error
    names = {"0": "train", "1": "val", "2": "test"}
    return {file: names[number] for file, number in numbers.items() if number in names}


def _checked(read_file: ReadFile, source: str, sizes: Mapping[str, int]) -> ReadFile:
    """`read_file`, but every failure is a DataError that names the file."""
    side_file = side_file_bytes(len(sizes))

    def read(name: str) -> bytes:
        limit = side_file if _is_labels_file(name) else MAX_FILE_BYTES
        if sizes[name] > limit:
            raise DataError(
                f"{source}: {name} is said to be {sizes[name]:,} bytes long; at most {limit:,} "
                "make sense."
            )
        try:
            return read_file(name)
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{source}: {name} cannot be read: {reason}.") from error

    return read


def _classes(
    source: str, sizes: Mapping[str, int], tree: Tree, layout: Layout, read: ReadFile
) -> Classes:
    """The classes of the images, by a dataset.json or by their folders."""
    if layout.labels_from is not None:
        # Whatever else was chosen needs only names; sources.py sees to it.
        is_wanted = layout.labels_from == "folder"
        return folder_classes(source, tree, wanted=True) if is_wanted else Classes()
    labels_file = _find_labels_file(source, filter(tree.belongs, sizes), tree.names, strict=True)
    if labels_file is None:
        return folder_classes(source, tree)
    names = [name for name in sizes if not _is_labels_file(name)]
    return Classes(_labels_in_file(source, labels_file, tree.names, names, read(labels_file)))


def _find_labels_file(
    source: str, files: Iterable[str], names: Sequence[str], *, strict: bool = False
) -> str | None:
    """The dataset.json in a folder that all the images named lie in; of several, the innermost.

    Args:
        source: its name in an error.
        files: all files.
        names: the images.
        strict: refuse one that lies elsewhere, which means that `source` is not the data set
            itself.
    """
    common = os.path.commonprefix([name.rpartition("/")[0].split("/") for name in names])
    outside = "/".join(common) + "/"
    found = None
    for name in filter(_is_labels_file, sorted(files, key=len)):
        if outside.startswith(name.removesuffix(LABELS_FILE)):
            found = name
        elif strict:
            raise DataError(
                f"{source} has a {name}; a {LABELS_FILE} must lie at the top. Give the folder that "
                "it is in, or a zip made inside that."
            )
    return found


def _labels_in_file(
    source: str, file: str, names: Sequence[str], known: Iterable[str], data: bytes
) -> np.ndarray | None:
    """Labels from EDM's {"labels": [[name, label], ...]}, or None if that is null.

    Args:
        source, file: their names in an error; images are named as seen from the file's folder.
        names: the images whose labels are needed.
        known: all images that may have one.
        data: the bytes of the file.
    """
    outside = len(file) - len(LABELS_FILE)
    try:
        entries = parse_json(data)["labels"]
        labels: dict[str, int] = {}
        for name, label in entries if entries is not None else ():
            if labels.setdefault(name, label) != label:
                raise DataError(f"{source}: {file} gives two labels to {shown(name)}.")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f'{source}: {file} is neither {{"labels": [[name, label], ...]}} nor '
            '{"labels": null}.'
        ) from error
    if entries is None:
        return None
    found = []
    for name in (name[outside:] for name in names):
        if name not in labels:
            raise DataError(f"{source}: {file} has no label for {name}.")
        if type(labels[name]) is not int:
            raise DataError(
                f"{source}: {file} labels {name} as {shown(labels[name])}; a class index "
                "(an integer) is needed."
            )
        found.append(labels[name])
    if missing := labels.keys() - {name[outside:] for name in known}:
        raise DataError(
            f"{source}: {file} labels {listed(map(str, missing), 1)}, which is not there."
        )
    return as_labels(found, len(names), source)
