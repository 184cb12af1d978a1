"""Tensors of images that torch.save wrote: a tensor, or a dict, list or tuple of some.

The pickle in such a file is read by `memaudit.unpickler`, which runs nothing; the numbers are
mapped where they lie. Format: a zip, not packed, of `data.pkl` and one file for each storage.
"""

import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from memaudit.data.layout import DEFAULT_LAYOUT, Layout
from memaudit.data.preparation import Preparation
from memaudit.data.readers.array_names import Arrays, arrays_of_splits, left_out
from memaudit.data.readers.lazy_images import Contents, numbered_names
from memaudit.data.readers.number_arrays import number_contents
from memaudit.data.readers.reader import Files, Reader, first_member
from memaudit.data.readers.shards import choose_one
from memaudit.data.readers.zip_members import Members, opened_zip, stored_start, zip_members
from memaudit.errors import DataError, MemauditError
from memaudit.files import open_regular
from memaudit.unpickler import Budget, Construct, Dialect, Global, Record, Unpickler
from memaudit.wording import counted, listed, shown

_MAX_PICKLE = 1 << 20
"""Most bytes of the pickle; a tensor's has 300."""
_MAX_DIMENSIONS = 8
_DIALECT = Dialect("file of images", broken=DataError, unsafe=DataError)
_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "ByteStorage": "|u1",
    "CharStorage": "|i1",
    "BoolStorage": "|b1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
}


@dataclass(frozen=True)
class _Storage(Record):
    """The numbers of one or more tensors."""

    key: str
    dtype: str


@dataclass(frozen=True)
class _Tensor(Record):
    """A tensor: numbers of a storage, at these places."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _storage(key: Any) -> _Storage:
    match key:
        case ("storage", Global("torch", name), str(place), str(), int()) if name in _TYPES:
            return _Storage(place, _TYPES[name])
    raise DataError("it holds tensors of a kind that is not read.")


def _tensor(arguments: tuple[Any, ...]) -> _Tensor:
    match arguments:
        case (_Storage() as storage, int(offset), tuple(shape), tuple(strides), *_) if (
            offset >= 0
            and len(shape) == len(strides) <= _MAX_DIMENSIONS
            and all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, *strides))
        ):
            return _Tensor(storage, offset, shape, strides)
    raise DataError("it holds a tensor that cannot be.")


def _dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise DataError("it holds a dict made from something else.")
    return {}


_ADMITTED: dict[Global, Construct | None] = {
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("collections", "OrderedDict"): _dict,
    **{Global("torch", name): None for name in _TYPES},
}
"""All that such a file may name, and what is built from it."""


def is_torch_file(path: Path) -> bool:
    """Whether a file is a zip that torch.save wrote."""
    return (first_member(path) or "").endswith("data.pkl")


def holds_images(path: Path) -> bool:
    """Whether torch.save wrote tensors of images, and not a checkpoint."""
    if not is_torch_file(path):
        return False
    try:
        _splits(_opened(path)[1], path)
    except (MemauditError, OSError):
        return False
    return True


def _read(
    path: Path, _files: Files, preparation: Preparation, layout: Layout = DEFAULT_LAYOUT
) -> Contents:
    members, tensors = _opened(path)
    splits = _splits(tensors, path)
    arrays, chosen = choose_one(splits, path, layout)
    images = tensors[arrays.images]
    labels = None if arrays.labels is None else tensors[arrays.labels]
    array = _numbers(path, members, images)
    contents = number_contents(
        array,
        str(path),
        str(path),
        numbered_names(path.name, images.shape[0]),
        window=preparation.window,
        labels=None if labels is None else _numbers(path, members, labels),
    )
    like_images = [name for name, tensor in tensors.items() if len(tensor.shape) in (3, 4)]
    notes = left_out(str(path), like_images, splits)
    return chosen.marked(replace(contents, notes=(*contents.notes, *notes)))


def _with_layout(layout: Layout) -> Reader:
    return replace(READER, read=partial(_read, layout=layout))


READER = Reader(
    "a tensor of images that torch.save wrote", is_torch_file, _read, with_layout=_with_layout
)


def _opened(path: Path) -> tuple[Members, Mapping[str, _Tensor]]:
    """The entries of the zip, and its tensors by name."""
    members = zip_members(path, lambda _: True)
    pickles = [name for name in members if name.endswith("data.pkl")]
    if len(pickles) != 1 or members[pickles[0]].file_size > _MAX_PICKLE:
        raise DataError(f"{path} is not a file of images: it has no pickle, or a large one.")
    try:
        with opened_zip(path, members) as read:
            data = read(pickles[0])
        value = Unpickler(memoryview(data), _DIALECT, _ADMITTED, Budget(), _storage).load()
        named = dict(_named(value))
    except (DataError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be opened: {error}") from error
    return members, named


def _is_tensor(value: Any) -> bool:
    return isinstance(value, _Tensor)


def _named(value: Any) -> Iterator[tuple[str, _Tensor]]:
    if isinstance(value, _Tensor):
        yield "images", value
    elif isinstance(value, dict):
        for name, tensor in value.items():
            if isinstance(tensor, _Tensor):
                yield str(name), tensor
    elif isinstance(value, list | tuple):
        if len(value) > 1 and any(len(each.shape) > 2 for each in value[1:] if _is_tensor(each)):
            raise DataError(
                f"it holds {len(value):,} tensors in a list, of which only (images, labels) is "
                "read. Put images together with torch.stack or torch.cat."
            )
        if value and not any(map(_is_tensor, value)):
            raise DataError(
                f"it holds {counted(len(value), 'object', 'objects')} in a list and none is a "
                "tensor, such as pairs of an image and its label. Save (images, labels), with "
                "the images put together with torch.stack."
            )
        # torchvision's processed MNIST: images, labels.
        for name, tensor in zip(("images", "labels"), value, strict=False):
            if isinstance(tensor, _Tensor):
                yield name, tensor


def _splits(tensors: Mapping[str, _Tensor], path: Path) -> dict[str, Arrays]:
    """The names of the tensors of images and labels, by split."""
    images = [name for name, tensor in tensors.items() if len(tensor.shape) in (3, 4)]
    labels = [name for name, tensor in tensors.items() if len(tensor.shape) == 1]
    splits = arrays_of_splits([*images, *labels])
    if not splits or any(arrays.images not in images for arrays in splits.values()):
        held = listed(f"{shown(name)} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise DataError(
            f"{path} holds {held or 'no tensors'}; a tensor of images, [N, C, H, W], is needed, "
            "alone or called images."
        )
    return splits


def _numbers(path: Path, members: Members, tensor: _Tensor) -> np.ndarray:
    """The numbers of a tensor, mapped."""
    name = next((name for name in members if name.endswith(f"/data/{tensor.storage.key}")), None)
    if name is None:
        raise DataError(f"{path} is damaged: it lacks the numbers of a tensor.")
    member = members[name]
    dtype = np.dtype(tensor.storage.dtype)
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((n - 1) * step for n, step in steps)
    is_there = 0 <= last < member.file_size // dtype.itemsize
    if not is_there or not math.prod(tensor.shape):
        raise DataError(
            f"{path} is damaged: a tensor of {list(tensor.shape)} is announced, and its numbers "
            f"take {member.file_size:,} bytes."
        )
    with open_regular(path) as file:
        try:
            begin = stored_start(file, member)
        except zipfile.BadZipFile as error:
            raise DataError(
                f"{path} is damaged: the numbers of a tensor go beyond its end, or are packed."
            ) from error
        stored = np.memmap(file, dtype, "r", begin, (member.file_size // dtype.itemsize,))
    if math.prod(tensor.shape) > len(stored):
        raise DataError(f"{path} is damaged: a tensor repeats its numbers.")
    strides = [step * dtype.itemsize for step in tensor.strides]
    view = np.lib.stride_tricks.as_strided(
        stored[tensor.offset :], tensor.shape, strides, writeable=False
    )
    return view
