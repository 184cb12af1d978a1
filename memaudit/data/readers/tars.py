"""Tars of images: WebDataset's shards, and any other tar of image files.

In a WebDataset, files whose names agree up to the first dot are one sample: an image, and its
class in `.cls` or `.json`, or its caption in `.txt` or `.json`. Shards are a folder of tars, or a
range of them: `shards/{00000..00123}.tar`. A tar without such files is read as the folder that was
packed.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from memaudit.data.images import as_labels, number_classes
from memaudit.data.layout import DEFAULT_LAYOUT, Layout, canonical_split
from memaudit.data.path_ranges import expanded, is_range
from memaudit.data.preparation import Preparation
from memaudit.data.readers.captions import MAX_CAPTION_BYTES, Beside
from memaudit.data.readers.decoding import SUFFIXES
from memaudit.data.readers.encoded_images import encoded_contents
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.reader import (
    MAX_FILE_BYTES,
    MAX_SUFFIX,
    Files,
    Reader,
    is_hidden,
    parse_json,
    stats,
)
from memaudit.data.readers.shards import (
    beside,
    choose,
    rows_of_parts,
    shard_files,
    shards_of_split,
    split_of,
)
from memaudit.data.readers.tar_index import (
    Archive,
    TarFile,
    archives,
    doubt_about_end,
    tar_files,
)
from memaudit.data.readers.tar_members import is_tar
from memaudit.data.readers.tree_contents import ReadFile, count_unread, is_wanted, read_tree
from memaudit.errors import DataError
from memaudit.unpickler import MAX_NAME
from memaudit.wording import counted, joined, listed, shown

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.zst")
_CLASS, _JSON, _TEXT = "cls", "json", "txt"
_LABEL_KEYS = ("label", "cls", "class")
_CAPTION_KEYS = ("caption", "text", "prompt")
_MAX_SIDE_FILE = 1 << 20
"""Most bytes of the class, caption or description of one image."""
_MOST_NOTES = 3
"""Tars that do not end as they should, up to which each is named."""
_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)


def _is_range(path: Path) -> bool:
    return is_range(path) and not path.exists()


def _range_files(path: Path) -> Files:
    names = expanded(str(path))
    missing = [name for name in names if not Path(name).exists()]
    if missing:
        folder = os.path.commonpath([Path(name).parent for name in names])  # paths may be long
        missing = [os.path.relpath(name, folder) for name in missing]
        are = "is" if len(missing) == 1 else "are"
        raise DataError(f"{path} names {len(names):,} files; {listed(missing, 3)} {are} not there.")
    return {name: stats([Path(name)])[Path(name).name] for name in names}


def _read_range(path: Path, files: Files, preparation: Preparation) -> Contents:
    shards = [Path(name) for name in files]
    for shard in shards:
        if not is_tar(shard):
            raise DataError(
                f"{shard} is not a tar. Give files of other forms one by one, or their folder."
            )
    names = [shard.name for shard in shards]
    if len(set(names)) < len(names):  # the range is one of folders
        names = [shard.as_posix() for shard in shards]
    return _read(shards, names, path, preparation)


RANGE = Reader("a range of tars, {000..123}.tar", _is_range, _read_range, _range_files)


def _tar_names(folder: Path) -> list[str]:
    return shard_files(folder, _TARS)


def _is_tar_folder(path: Path) -> bool:
    return path.is_dir() and bool(_tar_names(path))


def _folder_files(path: Path) -> Files:
    return stats([path / name for name in _tar_names(path)], inside=path)


def _read_folder(
    path: Path, files: Files, preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    if len(files) == 1 and not split_of(next(iter(files))):  # as if the tar were given itself
        (name,) = files
        contents = _read([path / name], [name], path, preparation, layout)
        unread = Counter(contents.unread) + Counter(beside(path, files))
        return replace(contents, unread=dict(unread.most_common()))
    chosen = shards_of_split(files, path, layout)
    names = [name for names in chosen.values for name in names]
    contents = _read([path / name for name in names], names, path, preparation)
    unread = Counter(contents.unread) + Counter(beside(path, files))
    return chosen.marked(replace(contents, unread=dict(unread.most_common())))


def _folder_with_layout(layout: Layout) -> Reader:
    return replace(FOLDER, read=partial(_read_folder, layout=layout))


FOLDER = Reader(
    "a folder of tars",
    _is_tar_folder,
    _read_folder,
    _folder_files,
    with_layout=_folder_with_layout,
)


def _read_file(
    path: Path, _files: Files, preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    return _read([path], [path.name], path, preparation, layout)


def _file_with_layout(layout: Layout) -> Reader:
    return replace(FILE, read=partial(_read_file, layout=layout))


FILE = Reader(
    "a tar of images",
    is_tar,
    _read_file,
    may_be_generated=False,
    with_layout=_file_with_layout,
)


@dataclass
class _Shard:
    """The samples of one tar, in order."""

    archive: Archive
    name: str
    images: list[TarFile] = field(default_factory=list)
    classes: list[int | str | None] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    """Number of files that belong to no image, by suffix."""


def _read(
    paths: Sequence[Path],
    names: Sequence[str],
    path: Path,
    preparation: Preparation,
    layout: Layout = DEFAULT_LAYOUT,
) -> Contents:
    source = str(path)
    found = archives(list(paths))
    notes: list[str] = []
    if len(found) == 1:
        files = _files(found[0], source, notes)
        if not _has_samples(files):
            contents = _read_as_tree(found[0], files, source, layout, preparation)
            return replace(contents, notes=(*contents.notes, *notes))
        choose({"": files}, path, layout)  # one shard has no splits
        shards = [_shard(found[0], files, "", source)]
    else:
        shards = [
            _shard(archive, _files(archive, f"{source}: {name}", notes), name, source)
            for archive, name in zip(found, names, strict=True)
        ]
    sizes = [len(shard.images) for shard in shards]
    _refuse_splits(shards, source)
    if not sum(sizes):
        raise DataError(f"{source} holds no images; looked for {', '.join(SUFFIXES)}.")

    def read(rows: np.ndarray) -> Iterator[bytes]:
        for part, inside in rows_of_parts(rows, sizes):
            shard = shards[part]
            file = shard.archive.opened()
            try:
                for row in inside:
                    yield _content(file, shard.archive, shard.images[row], source)
            finally:
                shard.archive.close(file)

    labels, class_names = _labels(shards, source)
    others: Counter[str] = sum((shard.others for shard in shards), Counter())
    contents = encoded_contents(
        source,
        [_full(shard.name, image.name) for shard in shards for image in shard.images],
        read,
        num_bytes=sum(image.size for shard in shards for image in shard.images),
        preparation=preparation,
        labels=labels,
        class_names=class_names,
    )
    captions = [caption for shard in shards for caption in shard.captions]
    return replace(
        contents,
        unread=dict(others.most_common()),
        captions=captions if any(caption is not None for caption in captions) else None,
        notes=(*contents.notes, *_shortened(notes)),
    )


def _refuse_splits(shards: Sequence[_Shard], source: str) -> None:
    """Refuse shards in which folders such as train and val lie side by side."""
    folders = {image.name.rpartition("/")[0] for shard in shards for image in shard.images}
    parts = {part for folder in folders for part in folder.split("/")}
    splits = {split for part in parts if (split := canonical_split(part))}
    if len(splits) > 1:
        raise DataError(
            f"{source} holds folders of the splits {joined(sorted(splits))} within its tars, which "
            "cannot be told apart there. Give the folder that was packed, or tars of one split."
        )


def _shortened(notes: Sequence[str]) -> list[str]:
    """Notes on the ends of many shards, of which all but the first are counted."""
    more = len(notes) - _MOST_NOTES
    shown_notes = list(notes[:_MOST_NOTES])
    return shown_notes + [f"{counted(more, 'more tar ends', 'more tars end')} so."] * (more > 0)


def _full(shard: str, name: str) -> str:
    return f"{shard}/{name}" if shard else name


def _files(archive: Archive, what: str, notes: list[str]) -> list[TarFile]:
    """The files in an archive; a note is added if there may be more."""
    file = archive.opened()
    try:
        file.seek(archive.begin)
        found, end = tar_files(file, archive.size, what)
        file.seek(archive.begin)
        if doubt := doubt_about_end(file, end, archive.size, what):
            notes.append(doubt)
    finally:
        archive.close(file)
    return found


def _content(file: BinaryIO, archive: Archive, found: TarFile, source: str) -> bytes:
    if found.size > MAX_FILE_BYTES:
        raise DataError(
            f"{source}: {found.name} is said to be {found.size:,} bytes long; at most "
            f"{MAX_FILE_BYTES:,} make sense."
        )
    file.seek(archive.begin + found.start)
    data = file.read(found.size)
    if len(data) != found.size:
        raise DataError(f"{source}: {found.name} is cut short.")
    return data


# ------------------------------------------------------------------------------------------------
# WebDataset


def _key(name: str) -> tuple[str, str]:
    """A name up to the first dot, and the rest in lowercase: the sample, and what it is of it."""
    folder, slash, file = name.rpartition("/")
    key, _, kind = file.partition(".")
    return folder + slash + key, kind.lower()


def _has_samples(files: Sequence[TarFile]) -> bool:
    """Whether images have their class or caption beside them, as in a WebDataset."""
    files = [found for found in files if not is_hidden(found.name)]
    images = {_key(found.name)[0] for found in files if found.name.lower().endswith(SUFFIXES)}
    for found in files:
        key, kind = _key(found.name)
        is_side = kind in (_CLASS, _JSON) or (kind == _TEXT and "/" not in key)
        if is_side and key in images:
            return True
    return False


def _shard(archive: Archive, files: Sequence[TarFile], name: str, source: str) -> _Shard:
    shard = _Shard(archive, name)
    samples: dict[str, dict[str, TarFile]] = {}
    shard.others += count_unread(found.name for found in files if is_hidden(found.name))
    for found in files:
        if is_hidden(found.name):
            continue
        key, kind = _key(found.name)
        sample = samples.setdefault(key, {})
        if kind in sample:
            raise DataError(f"{source}: {_full(name, found.name)} is there twice.")
        sample[kind] = found
    file = archive.opened()
    try:
        for sample in samples.values():
            images = [kind for kind in sample if f".{kind}".endswith(SUFFIXES)]
            if len(images) > 1:
                held = listed(sample[kind].name for kind in images)
                raise DataError(
                    f"{source}: {held} are one sample, which must hold one image. Make a set of "
                    "the one that the model was trained on."
                )
            rest = [kind for kind in sample if kind not in images]
            if images:
                shard.images.append(sample[images[0]])
                side = {kind: sample[kind] for kind in (_CLASS, _JSON, _TEXT) if kind in sample}
                label, caption = _described(file, archive, side, source)
                shard.classes.append(label)
                shard.captions.append(caption)
                rest = [kind for kind in rest if kind not in side]
            for kind in rest:
                suffix = PurePosixPath(sample[kind].name).suffix.lower()
                shard.others[suffix[:MAX_SUFFIX]] += 1
    finally:
        archive.close(file)
    return shard


def _described(
    file: BinaryIO, archive: Archive, side: dict[str, TarFile], source: str
) -> tuple[int | str | None, str | None]:
    """The class and the caption that the files beside an image give."""
    label: int | str | None = None
    caption: str | None = None
    for kind, found in side.items():
        if found.size > _MAX_SIDE_FILE:
            raise DataError(
                f"{source}: {found.name} is said to be {found.size:,} bytes long; at most "
                f"{_MAX_SIDE_FILE:,} make sense."
            )
        data = _content(file, archive, found, source)
        text = data.decode("utf-8", "replace").strip()
        if kind == _CLASS:
            label = int(text) if _INTEGER.fullmatch(text) else text
        elif kind == _TEXT:
            caption = text[:MAX_CAPTION_BYTES]
        else:
            values = _json(data, f"{source}: {found.name}")
            if label is None:
                label = next(
                    (v for k in _LABEL_KEYS if isinstance(v := values.get(k), int | str)), None
                )
            if caption is None:
                texts = (values.get(key) for key in _CAPTION_KEYS)
                found_text = next((text for text in texts if isinstance(text, str)), None)
                caption = None if found_text is None else found_text[:MAX_CAPTION_BYTES]
    return label, caption


def _json(data: bytes, what: str) -> dict[str, Any]:
    try:
        found = parse_json(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} is not readable JSON.") from error
    return found if isinstance(found, dict) else {}


def _labels(shards: Sequence[_Shard], source: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    values = [label for shard in shards for label in shard.classes]
    if all(label in (None, -1) for label in values):  # as test sets hide them
        return None, ()
    for shard in shards:
        for image, label in zip(shard.images, shard.classes, strict=True):
            if label is None:
                raise DataError(
                    f"{source}: {_full(shard.name, image.name)} has no class, and others have one."
                )
    texts = [label for label in values if isinstance(label, str)]
    if not texts:
        return as_labels(values, len(values), source), ()
    if len(texts) < len(values) or max(map(len, texts)) > MAX_NAME:
        raise DataError(f"{source} has the class {shown(texts[0])}; integers or names are needed.")
    return number_classes(texts)


# ------------------------------------------------------------------------------------------------
# Other tars


def _read_as_tree(
    archive: Archive,
    files: Sequence[TarFile],
    source: str,
    layout: Layout,
    preparation: Preparation,
) -> Contents:
    """The images of a tar as if it were the folder that was packed."""
    places: dict[str, TarFile] = {}
    for found in files:
        if found.name in places:
            raise DataError(f"{source}: {found.name} is there twice.")
        places[found.name] = found

    @contextmanager
    def opened() -> Iterator[ReadFile]:
        file = archive.opened()
        try:
            yield lambda name: _content(file, archive, places[name], source)
        finally:
            archive.close(file)

    sizes = {name: found.size for name, found in places.items() if is_wanted(name)}
    if not sizes:
        raise DataError(
            f"{source} holds no images; looked for {', '.join(SUFFIXES)}. Extract an archive of "
            "archives, and give the folder."
        )

    def read_beside(name: str, limit: int) -> bytes:
        if places[name].size > limit:
            raise DataError(f"it has {places[name].size:,} bytes; at most {limit:,} make sense")
        with opened() as read:
            return read(name)

    beside = Beside([name for name in places if name not in sizes], read_beside)
    return read_tree(source, sizes, beside, opened, layout, preparation)
