"""Texts that lie beside images: `x.txt`, `metadata.jsonl` (.csv, .parquet), COCO's captions.

They decide neither pixels nor verdict. What is wrong with one is a note, and the images are opened
without it; the files are as hostile as any other.
"""

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from memaudit.data.readers.celeba_files import IDENTITY, OTHERS, PARTITION, read_numbers
from memaudit.data.readers.reader import parse_json, side_file_bytes
from memaudit.data.readers.shards import errors_of, library
from memaudit.errors import DataError
from memaudit.wording import counted, listed, quoted, shown

ReadSide = Callable[[str, int], bytes]
"""(name, most bytes) → the file's bytes."""

_TEXT_SUFFIXES = (".txt", ".caption")
_TEXT_KEYS = ("text", "caption", "prompt")
_GROUP_KEY = "group"
_FILE_KEY = "file_name"
MAX_CAPTION_BYTES = 1 << 14
"""Most bytes of one caption: more than any text encoder reads."""
MAX_GROUP = 256
"""Most characters of a group's name."""
METADATA_TABLE = "metadata.parquet"
"""A table that lies beside images and describes them."""
_PACKED = 16
"""Bytes of texts in a table for each byte that a file of texts may have."""
_ROWS = 1024


@dataclass(frozen=True)
class Beside:
    """The files beside the images of a set."""

    names: Sequence[str]
    read: ReadSide


@dataclass
class Texts:
    """What the files beside images say of them."""

    names: Sequence[str]
    captions: dict[str, str] = field(default_factory=dict)
    """Name → text."""
    groups: dict[str, str] = field(default_factory=dict)
    """Name → what the image belongs to."""
    used: set[str] = field(default_factory=set)
    """The files that were understood."""
    notes: list[str] = field(default_factory=list)

    def all_captions(self, default: Sequence[str] | None) -> list[str | None] | None:
        """[N], or None if no image has one. `default` is for images without one, [N]."""
        if default is not None:
            pairs = zip(self.names, default, strict=True)
            return [self.captions.get(name, text) for name, text in pairs]
        return [self.captions.get(name) for name in self.names] if self.captions else None

    def all_groups(self) -> list[str | None] | None:
        """[N], or None if no image has one."""
        return [self.groups.get(name) for name in self.names] if self.groups else None


def may_describe(name: str) -> bool:
    """Whether a file of this name may hold texts of images."""
    name = name.lower()
    return name.endswith((*_TEXT_SUFFIXES, ".jsonl", ".csv", ".json", METADATA_TABLE))


def read_texts(
    source: str,
    names: Sequence[str],
    beside: Beside,
    *,
    num_known: int,
) -> Texts:
    """The texts of images.

    Args:
        source: its name in a note.
        names: the images.
        beside: all other files.
        num_known: number of images that the files may describe, those of other splits included.
    """
    texts = Texts(names)
    there = set(names)
    candidates = set(filter(may_describe, beside.names))
    limit = side_file_bytes(num_known)
    for name in sorted(candidates):
        file = PurePosixPath(name)
        reader = _FORMS.get(file.name.lower())
        if reader is None and file.name.startswith("captions_") and file.suffix == ".json":
            reader = _coco
        if reader is None:
            continue
        try:
            reader(texts, there, name, beside.read(name, limit))
        except (DataError, OSError, zipfile.BadZipFile, zlib.error) as error:
            reason = str(getattr(error, "strerror", None) or error).rstrip(".")
            texts.notes.append(f"Captions in {source}, {quoted(name)}, were not read: {reason}.")
        except (ValueError, RecursionError, csv.Error) as error:
            texts.notes.append(
                f"Captions in {source}, {quoted(name)}, were not read: "
                f"{quoted(str(error)) or 'it is not of its form'}."
            )
        else:
            texts.used.add(name)
    _read_single_texts(texts, source, candidates - texts.used, beside.read, limit)
    return texts


def _read_single_texts(
    texts: Texts, source: str, beside: set[str], read: ReadSide, limit: int
) -> None:
    """Texts in a file of their own beside each image, which go before all others."""
    total = 0
    wrong = []
    beside = {name for name in beside if name.endswith(_TEXT_SUFFIXES)}
    for name in texts.names if beside else ():  # millions of names need not be taken apart
        stem = name.rpartition(".")[0]
        file = next((stem + suffix for suffix in _TEXT_SUFFIXES if stem + suffix in beside), None)
        if file is None:
            continue
        try:
            data = read(file, MAX_CAPTION_BYTES)
        except (DataError, OSError, zipfile.BadZipFile, zlib.error):
            wrong.append(file)
            continue
        total += len(data)
        if total > limit:
            texts.notes.append(
                f"The captions of {source} take more than {limit:,} bytes; those from "
                f"{quoted(file)} on were not read."
            )
            return
        texts.used.add(file)
        if text := data.decode("utf-8-sig", errors="replace").strip():
            texts.captions[name] = text
    if wrong:
        texts.notes.append(
            f"{counted(len(wrong), 'caption', 'captions')} of {source} could not be read "
            f"({listed(wrong)}): a caption is a file of at most {MAX_CAPTION_BYTES:,} bytes."
        )


def _metadata(
    texts: Texts, there: set[str], name: str, rows: Iterable[tuple[int, Mapping[str, Any]]]
) -> None:
    """Take texts from rows that name files as seen from the folder of `name`."""
    folder = name[: len(name) - len(PurePosixPath(name).name)]
    captions, groups, missing = {}, {}, []
    for number, row in rows:
        file = row.get(_FILE_KEY)
        if not isinstance(file, str):
            raise ValueError(f"line {number} has no `{_FILE_KEY}`")
        file = file.replace("\\", "/").removeprefix("./")
        if file.startswith("/") or ".." in file.split("/"):
            raise ValueError(f"line {number} leads elsewhere, {shown(file)}")
        image = folder + file
        if image not in there:
            missing.append(file)
            continue
        text = next((row[key] for key in _TEXT_KEYS if isinstance(row.get(key), str)), "")
        if text := text.strip()[:MAX_CAPTION_BYTES]:
            captions[image] = text
        group = row.get(_GROUP_KEY)
        # One that is too long is none: cut short, it might be another one's.
        if (
            isinstance(group, str | int)
            and type(group) is not bool
            and len(str(group)) <= MAX_GROUP
        ):
            groups[image] = str(group)
    texts.captions |= captions
    texts.groups |= groups
    if missing:
        images = counted(len(missing), "image", "images")
        texts.notes.append(
            f"{quoted(name)} describes {images} that {'is' if len(missing) == 1 else 'are'} not "
            f"among those opened ({listed(missing)})."
        )


def _jsonl(texts: Texts, there: set[str], name: str, data: bytes) -> None:
    """Hugging Face's metadata.jsonl: an object with file_name and text in each line."""

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, line in enumerate(data.splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number} is not JSON") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not an object")
            yield number, row

    _metadata(texts, there, name, rows())


def _csv(texts: Texts, there: set[str], name: str, data: bytes) -> None:
    """Hugging Face's metadata.csv: columns file_name and text."""
    reader = csv.reader(io.StringIO(data.decode("utf-8-sig", errors="replace")))
    header = next(reader, [])
    if _FILE_KEY not in header:
        raise ValueError(f"it has no column `{_FILE_KEY}`")
    rows = (
        (number, dict(zip(header, row, strict=False)))
        for number, row in enumerate(reader, 2)
        if row
    )
    _metadata(texts, there, name, rows)


def _parquet(texts: Texts, there: set[str], name: str, data: bytes) -> None:
    """Hugging Face's metadata.parquet: columns file_name and text."""
    parquet = library("pyarrow.parquet", Path(name), form="a parquet file", extra="data")
    most = _PACKED * side_file_bytes(len(texts.names))

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        with errors_of(name), parquet.ParquetFile(io.BytesIO(data), pre_buffer=False) as file:
            known = (_FILE_KEY, *_TEXT_KEYS, _GROUP_KEY)
            columns = [key for key in known if key in file.schema_arrow.names]
            if _FILE_KEY not in columns:
                raise DataError(f"it has no column `{_FILE_KEY}`")
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            total = sum(int(group.total_byte_size) for group in groups)
            if not 0 <= total <= most:
                raise DataError(f"it announces {total:,} bytes; at most {most:,} make sense")
            number, taken = 0, 0
            for batch in file.iter_batches(_ROWS, columns=columns, use_threads=False):
                taken += batch.nbytes
                if taken > most:  # many rows may share one value of the file
                    raise DataError(f"its texts take more than {most:,} bytes")
                for row in batch.to_pylist():
                    number += 1
                    yield number, row

    _metadata(texts, there, name, rows())


def _coco(texts: Texts, there: set[str], name: str, data: bytes) -> None:
    """COCO's captions_*.json; of an image's several captions, the first."""
    try:
        content = parse_json(data)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(content, dict):
        raise ValueError("it is not an object")
    by_file: dict[str, list[str]] = {}
    for image in texts.names:
        by_file.setdefault(PurePosixPath(image).name, []).append(image)
    by_id: dict[int, str] = {}
    for entry in _objects(content, "images"):
        number, file = entry.get("id"), entry.get("file_name")
        if not isinstance(number, int) or not isinstance(file, str):
            raise ValueError("an image lacks `id` or `file_name`")
        found = by_file.get(file.replace("\\", "/").rpartition("/")[2], [])
        if len(found) == 1:
            by_id[number] = found[0]
    captions: dict[str, str] = {}
    for entry in _objects(content, "annotations"):
        number, caption = entry.get("image_id"), entry.get("caption")
        if not isinstance(number, int) or not isinstance(caption, str):
            raise ValueError("an annotation lacks `image_id` or `caption`")
        if number in by_id and (text := caption.strip()[:MAX_CAPTION_BYTES]):
            captions.setdefault(by_id[number], text)
    texts.captions |= captions


def _objects(content: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = content.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f"its `{key}` is not a list of objects")
    return found


def _identities(texts: Texts, there: set[str], name: str, data: bytes) -> None:
    """CelebA's file that says whose face each image shows."""
    numbers = read_numbers(data)
    for image in texts.names:
        if number := numbers.get(PurePosixPath(image).name):
            texts.groups[image] = number


def _known(texts: Texts, there: set[str], name: str, data: bytes) -> None:
    """A file that says nothing an audit needs."""


_FORMS = {
    "metadata.jsonl": _jsonl,
    "metadata.csv": _csv,
    METADATA_TABLE: _parquet,
    IDENTITY.lower(): _identities,
    PARTITION: _known,
    **dict.fromkeys(OTHERS, _known),
}
