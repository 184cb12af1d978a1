"""Folders and zips of image files: which images there are, their classes, their bytes.

Both are trees of named files and mean the same: images lie flat, or in one folder per class, or
anywhere with the labels in a `dataset.json` at the top (EDM's form); image_tree.py says what other
folders mean. Images are ordered by name, as EDM orders them. Hidden files and what macOS adds to a
zip (`__MACOSX`) are ignored.
"""

import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from memaudit.data.fitting import UnlikeError
from memaudit.data.images import as_labels
from memaudit.data.layout import DEFAULT_LAYOUT, Layout
from memaudit.data.preparation import Preparation
from memaudit.data.readers.batch_decoding import EncodedBatch, choose_num_processes, decode_batches
from memaudit.data.readers.captions import Beside, may_describe, read_texts
from memaudit.data.readers.celeba_files import PARTITION, read_numbers
from memaudit.data.readers.decoding import SUFFIXES, decode_image, is_image
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
    Files,
    Reader,
    first_bytes,
    first_member,
    parse_json,
    side_file_bytes,
)
from memaudit.data.readers.unlike import explain_unlike
from memaudit.data.readers.zip_members import opened_zip, zip_members
from memaudit.errors import DataError
from memaudit.files import check_regular, read_regular
from memaudit.wording import listed, shown

ReadFile = Callable[[str], bytes]
"""name → the file's bytes."""

LABELS_FILE = "dataset.json"
"""The file with the classes of all images, in EDM's form."""
OWN_FILES = ("manifest.json",)
"""What memaudit itself writes beside images."""
MAX_SUFFIX = 12
"""Characters of a suffix that are told apart: names may be anything."""


def _folder_files(path: Path) -> Files:
    """The image files under a folder, and its dataset.json."""
    files = {}
    visited = set()
    for folder, folders, names in os.walk(path, onerror=_raise, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link back to a folder above it
            folders.clear()
            continue
        visited.add(real)
        inside = Path(folder).relative_to(path).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        for name in names:
            if _wanted(prefix + name):
                file = os.path.join(folder, name)
                files[prefix + name] = os.stat(file)
                check_regular(files[prefix + name], file)
    return files


def _read_folder(
    path: Path, files: Files, preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    sizes = {name: stat.st_size for name, stat in files.items()}

    @contextmanager
    def opened() -> Iterator[ReadFile]:
        yield lambda name: read_regular(path / name, sizes[name])

    others = [
        name
        for folder, _, names in os.walk(path)
        for name in ((Path(folder).relative_to(path) / name).as_posix() for name in names)
        if not _wanted(name)
    ]
    beside = Beside(others, lambda name, limit: read_regular(path / name, limit))
    return _read_tree(str(path), sizes, beside, opened, layout, preparation)


def _folder_with_layout(layout: Layout) -> Reader:
    return replace(FOLDER, read=partial(_read_folder, layout=layout))


FOLDER = Reader(
    "a folder of image files",
    Path.is_dir,
    _read_folder,
    _folder_files,
    with_layout=_folder_with_layout,
)


def _is_zip(path: Path) -> bool:
    return first_member(path) is not None


def _read_zip(
    path: Path, _files: Files, preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    """The images of a zip, which is read in place and never unpacked to disk."""
    others: list[str] = []

    def wanted(name: str) -> bool:
        if not _wanted(name):
            others.append(name)
        return _wanted(name) or (not _is_hidden(name) and may_describe(name))

    members = zip_members(path, wanted)
    sizes = {name: member.file_size for name, member in members.items() if _wanted(name)}
    opened = partial(opened_zip, path, members)

    def read_beside(name: str, limit: int) -> bytes:
        if members[name].file_size > limit:
            raise DataError(
                f"it is said to have {members[name].file_size:,} bytes; at most {limit:,} make "
                "sense here"
            )
        with opened() as read:
            return read(name)

    return _read_tree(str(path), sizes, Beside(others, read_beside), opened, layout, preparation)


def _zip_with_layout(layout: Layout) -> Reader:
    return replace(ZIP, read=partial(_read_zip, layout=layout))


ZIP = Reader(
    "a .zip of image files",
    _is_zip,
    _read_zip,
    with_layout=_zip_with_layout,
)


def _is_image_file(path: Path) -> bool:
    return is_image(first_bytes(path))


def _read_image_file(path: Path, files: Files, preparation: Preparation) -> Contents:
    sizes = {name: stat.st_size for name, stat in files.items()}

    @contextmanager
    def opened() -> Iterator[ReadFile]:
        yield lambda name: read_regular(path, sizes[name])

    alone = Beside([], lambda name, limit: b"")
    return _read_tree(str(path.parent), sizes, alone, opened, DEFAULT_LAYOUT, preparation)


IMAGE = Reader("one image file", _is_image_file, _read_image_file)


def _raise(error: OSError) -> None:
    raise error


def _count_unread(names: Iterable[str]) -> dict[str, int]:
    """Files that are not taken as images, by suffix, most frequent first; hidden ones aside."""
    counts = Counter(
        PurePosixPath(name).suffix.lower()[:MAX_SUFFIX]
        for name in names
        if not (_is_hidden(name) or name.endswith("/") or name in OWN_FILES)
    )
    return dict(counts.most_common())


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX/")) or "/." in name or "/__MACOSX/" in name


def _wanted(name: str) -> bool:
    return not _is_hidden(name) and (name.lower().endswith(SUFFIXES) or _is_labels_file(name))


def _is_labels_file(name: str) -> bool:
    return f"/{name}".endswith(f"/{LABELS_FILE}")


# ------------------------------------------------------------------------------------------------
# What folders and zips have in common


def _read_tree(
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
        if rows is None:
            kinds.clear()
        try:
            yield from decode_batches(
                encoded(wanted),
                source=source,
                shape=(C, H, W),
                first_name=names[0],
                preparation=preparation,
                kinds=kinds if rows is None else None,
                num_processes=choose_num_processes(sum(sizes[name] for name in wanted), first_file),
            )
        except UnlikeError as error:
            raise explained(error) from error

    others = [name for name in beside.names if tree.belongs(name) and not _is_hidden(name)]
    texts = read_texts(source, names, Beside(others, beside.read), num_known=len(found))
    return Contents(
        source,
        (len(names), C, H, W),
        names,
        batches,
        classes.labels,
        classes.class_names,
        unread=_count_unread(name for name in others if name not in texts.used),
        kinds=kinds,
        captions=texts.all_captions(classes.texts),
        groups=texts.all_groups(),
        repeats=classes.repeats,
        split=tree.split,
        other_splits=tree.other_splits,
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
