"""The original CIFAR-10 and CIFAR-100 archives for Python, packed or extracted.

The archive as a whole means its training images. The test images are its split test, and a batch of
their own: `cifar-10-batches-py/test_batch`, `cifar-100-python/test`.

A batch is a pickle of protocol 2, as Python 2 or 3 writes it: a dict of numbers, strings, lists and
one numpy array of bytes. `memaudit.unpickler` reads it without running anything.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from memaudit.data.layout import ALL_SPLITS, DEFAULT_LAYOUT, Layout, choose_split
from memaudit.data.preparation import Preparation
from memaudit.data.readers.lazy_images import Contents, array_contents
from memaudit.data.readers.reader import Files, Reader, first_bytes, stats
from memaudit.data.readers.tar_members import first_names, is_tar, tar_members
from memaudit.errors import DataError
from memaudit.files import read_regular
from memaudit.unpickler import (
    MAX_NAME,
    Budget,
    Construct,
    Dialect,
    Global,
    Record,
    Unpickler,
    encoded_text,
)
from memaudit.wording import shown

_CIFAR10 = (*(f"data_batch_{i}" for i in range(1, 6)), "batches.meta")
_CIFAR100 = ("train", "meta")
"""The batches of training images, in order, and the file of class names."""
_TEST_BATCH = {_CIFAR10: "test_batch", _CIFAR100: "test"}
_FIRST = 10
"""Files and folders of an archive among which one of these is."""
_MAX_FILE_BYTES = 1 << 28  # CIFAR-100's training images take 155 MB
_DIALECT = Dialect(
    "CIFAR batch",
    broken=DataError,
    unsafe=DataError,
    max_text=_MAX_FILE_BYTES,  # Python 3 writes an array's bytes as a text at protocol 2.
    python2=True,
)


class _ByteType(Record):
    """numpy's dtype of bytes, the only one admitted."""

    def set_state(self, state: Any) -> None:
        """Take its byte order and the like, which say nothing about bytes."""


@dataclass
class _Array(Record):
    """A numpy array of bytes, empty until its state arrives."""

    values: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        match state:
            case (1, tuple(shape), _ByteType(), False | 0, bytes() as values) if (
                len(shape) <= 4
                and all(type(n) is int and n >= 0 for n in shape)
                and math.prod(shape) == len(values)
            ):
                self.values = np.frombuffer(values, np.uint8).reshape(shape)
            case _:
                raise DataError("it holds an array that is not of bytes, one for each place.")


def _byte_type(arguments: tuple[Any, ...]) -> _ByteType:
    match arguments:
        case ("u1" | b"u1", *_):
            return _ByteType()
    raise DataError("it holds a numpy dtype that is not bytes.")


def _array(arguments: tuple[Any, ...]) -> _Array:
    match arguments:
        case (Global("numpy", "ndarray"), *_):
            return _Array()
    raise DataError("it builds a numpy array of a class of its own.")


def _latin1_bytes(arguments: tuple[Any, ...]) -> bytes:
    found = encoded_text(arguments, max_length=_MAX_FILE_BYTES)
    if found is None:
        raise DataError("it encodes something other than a text as latin1.")
    return found


_ADMITTED: dict[Global, Construct | None] = {
    Global("numpy.core.multiarray", "_reconstruct"): _array,
    Global("numpy._core.multiarray", "_reconstruct"): _array,
    Global("numpy", "ndarray"): None,
    Global("numpy", "dtype"): _byte_type,
    Global("_codecs", "encode"): _latin1_bytes,
}
"""All that a batch may name, and what is built from it."""


def _is_extracted(path: Path) -> bool:
    return _training_files(path) is not None


def _extracted_files(path: Path) -> Files:
    names = _training_files(path)
    test = [] if names is None else [_TEST_BATCH[names]]
    return stats(path / name for name in (*(names or ()), *test) if (path / name).is_file())


def _read_extracted(
    path: Path, files: Files, _preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    names, splits = _of_split(path, files, layout)
    parts = {name: read_regular(path / name, _MAX_FILE_BYTES) for name in names}
    return replace(_read(parts, path), split=splits[0], other_splits=splits[1:])


def _extracted_with_layout(layout: Layout) -> Reader:
    return replace(EXTRACTED, read=partial(_read_extracted, layout=layout))


EXTRACTED = Reader(
    "CIFAR's extracted archive",
    _is_extracted,
    _read_extracted,
    _extracted_files,
    with_layout=_extracted_with_layout,
)


def _is_batch(path: Path) -> bool:
    return first_bytes(path, 2) == b"\x80\x02"


def _batch_files(path: Path) -> Files:
    """A single batch and, if it lies beside it, the file of class names."""
    meta = [path.with_name(files[-1]) for files in (_CIFAR10, _CIFAR100)]
    return stats([path, *[file for file in meta if file.is_file()]])


def _read_batch(path: Path, files: Files, _preparation: Preparation) -> Contents:
    return _read(
        {name: read_regular(path.with_name(name), _MAX_FILE_BYTES) for name in files}, path
    )


BATCH = Reader(
    "one of CIFAR's batches", _is_batch, _read_batch, _batch_files, may_be_generated=False
)


def _read_archive(
    path: Path, _files: Files, _preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    """The training images of a .tar.gz, which is read in passing and not extracted."""
    wanted = {*_CIFAR10, *_CIFAR100, *_TEST_BATCH.values()}
    parts = tar_members(path, wanted.__contains__, _MAX_FILE_BYTES)
    if _named_training_files(parts) is None:
        raise DataError(
            f"{path} is not CIFAR's archive for Python (data_batch_1 … data_batch_5 and "
            "batches.meta, or train and meta). Extract other archives and give the folder."
        )
    names, splits = _of_split(path, parts, layout)
    contents = _read({name: parts[name] for name in names}, path)
    return replace(contents, split=splits[0], other_splits=splits[1:])


def _is_archive(path: Path) -> bool:
    return is_tar(path) and not {*_CIFAR10, *_CIFAR100}.isdisjoint(first_names(path, _FIRST))


def _archive_with_layout(layout: Layout) -> Reader:
    return replace(ARCHIVE, read=partial(_read_archive, layout=layout))


ARCHIVE = Reader(
    "CIFAR's archive for Python",
    _is_archive,
    _read_archive,
    may_be_generated=False,
    with_layout=_archive_with_layout,
)


def _of_split(
    path: Path, files: Collection[str], layout: Layout
) -> tuple[list[str], tuple[str, ...]]:
    """The files of a split, and its name before those of the others."""
    training = _named_training_files(files)
    assert training is not None  # the reader looked
    *batches, meta = training
    by_split = {"train": batches}
    if _TEST_BATCH[training] in files:
        by_split["test"] = [_TEST_BATCH[training]]
    if layout.split == ALL_SPLITS:
        return [*(name for names in by_split.values() for name in names), meta], (ALL_SPLITS,)
    split = choose_split(str(path), list(by_split), layout.split)
    return [*by_split[split], meta], (split, *(each for each in by_split if each != split))


def _training_files(folder: Path) -> tuple[str, ...] | None:
    """The files of training images in an extracted archive, or None if `folder` is not one."""
    known = (*_CIFAR10, *_CIFAR100)
    return _named_training_files([name for name in known if (folder / name).is_file()])


def _named_training_files(names: Collection[str]) -> tuple[str, ...] | None:
    """Those of `names` that hold the training images, or None if some are missing."""
    for files in (_CIFAR10, _CIFAR100):
        if set(files) <= set(names):
            return files
    return None


def load_batch(data: bytes) -> dict[str, Any]:
    """The dict in a batch, whose pickle is not run.

    Returns:
        Keys as str; values as ints, bytes or str, lists, and uint8 arrays.

    Raises:
        DataError: anything else, saying what.
    """
    if not data.startswith(b"\x80\x02"):
        raise DataError("it is not a pickle of protocol 2.")
    batch = Unpickler(memoryview(data), _DIALECT, _ADMITTED, Budget()).load()
    if not isinstance(batch, dict):
        raise DataError(f"it holds a {type(batch).__name__}, not a dict.")
    found = {}
    for key, value in batch.items():
        name = key.decode("latin1") if isinstance(key, bytes) else str(key)
        if name in found:
            raise DataError(f"it holds {shown(name)} twice.")
        found[name] = value.values if isinstance(value, _Array) else value
    return found


def _read(parts: Mapping[str, bytes], path: Path) -> Contents:
    """Batches of images put together, with class names from a part that has no images."""
    images: list[np.ndarray] = []
    names: list[str] = []
    labels: list[int] = []
    class_names: tuple[str, ...] = ()
    for name, data in parts.items():
        try:
            part = load_batch(data)
        except DataError as error:
            raise DataError(f"{path}: {name} cannot be opened: {error}") from error
        if "data" not in part:
            texts = _either(part, "label_names", "fine_label_names", f"{path}: {name}")
            class_names = tuple(_class_name(text, f"{path}: {name}") for text in texts)
            continue
        pixels = part["data"]
        if not isinstance(pixels, np.ndarray) or pixels.shape[1:] != (3072,):  # [N, 3·32·32]
            raise DataError(f"{path}: {name} holds no images of 3×32×32 bytes.")
        images.append(pixels.reshape(-1, 3, 32, 32))
        labels.extend(_either(part, "labels", "fine_labels", f"{path}: {name}"))
        names.extend(f"{name}[{i}]" for i in range(len(pixels)))
    if not images:
        raise DataError(f"{path} holds class names but no images; give the folder it is in.")
    return array_contents(np.concatenate(images), str(path), names, labels, class_names)


def _either(part: dict[str, Any], key10: str, key100: str, file: str) -> list[Any]:
    """The list that CIFAR-10 and CIFAR-100 call by different names."""
    found = part.get(key10, part.get(key100))
    if not isinstance(found, list):
        raise DataError(f"{file} lacks `{key10}` (CIFAR-10) or `{key100}` (CIFAR-100).")
    return found


def _class_name(text: Any, file: str) -> str:
    if not isinstance(text, bytes | str) or len(text) > MAX_NAME:
        raise DataError(f"{file} has {shown(text)} as the name of a class; a text is needed.")
    return text.decode("latin1") if isinstance(text, bytes) else text
