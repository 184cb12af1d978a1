"""The globals that checkpoints need, and the inert record that stands for each.

This is the whole allowlist: whatever else a file names is refused. The real objects are never
touched; what they could be made to do is why each record is built as it is:

- `_reconstruct_persistent_obj` would exec the source text in the file;
- `_rebuild_tensor_v2` would grow a storage that is too small, over other memory;
- `_rebuild_parameter` and OrderedDict would take hooks and attributes along;
- numpy's `scalar` and `_reconstruct` would load nested pickles where the dtype is object;
- `_codecs.encode` would run any codec, of which some are code.
"""

import math
import struct
from dataclasses import dataclass, field
from typing import Any

import torch

from memaudit.errors import CheckpointError, UnsafeCheckpointError
from memaudit.models.checkpoints.containers.plain_objects import PLAIN_OBJECTS
from memaudit.models.checkpoints.containers.stored_tensors import Storage, StoredTensor
from memaudit.unpickler import Construct, Dialect, Global, Record, check_key, encoded_text
from memaudit.wording import shown

CHECKPOINT = Dialect(
    "checkpoint",
    broken=CheckpointError,
    unsafe=UnsafeCheckpointError,
    # An OrderedDict of weights carries the version numbers of its modules.
    attributes=frozenset({"_metadata"}),
    advice={
        "torch.nn.": "It is a whole network, whose code only its own program has: load it there, "
        "and save its state_dict() instead.",
    },
)
PERSISTENCE_VERSION = 6

STORAGE_TYPES = {
    Global("torch", "FloatStorage"): torch.float32,
    Global("torch", "HalfStorage"): torch.float16,
    Global("torch", "BFloat16Storage"): torch.bfloat16,
    Global("torch", "DoubleStorage"): torch.float64,
    Global("torch", "LongStorage"): torch.int64,
    Global("torch", "IntStorage"): torch.int32,
    Global("torch", "ShortStorage"): torch.int16,
    Global("torch", "CharStorage"): torch.int8,
    Global("torch", "ByteStorage"): torch.uint8,
    Global("torch", "BoolStorage"): torch.bool,
}
MODULE_DICT = Global("torch.nn.modules.container", "ModuleDict")

NUMPY_FORMATS = {
    **{"f8": "d", "f4": "f", "f2": "e", "b1": "?", "i8": "q", "i4": "i", "i2": "h", "i1": "b"},
    **{"u8": "Q", "u4": "I", "u2": "H", "u1": "B"},
}
"""Kinds of number that numpy may have left in a configuration, as struct reads them."""
NUMPY_ITEM_SIZES = {code: int(code[1:]) for code in NUMPY_FORMATS}
MAX_ENCODED = 1 << 20
"""Most characters of bytes that protocol 2 writes as text: numbers of numpy's, or an array."""


@dataclass
class ModuleRecord(Record):
    """A torch.nn.ModuleDict: `state` is what its `__dict__` would be."""

    state: dict[str, Any] = field(default_factory=dict, repr=False)

    def set_state(self, state: Any) -> None:
        if type(state) is not dict:
            raise CheckpointError("it holds a ModuleDict whose state is not a mapping.")
        self.state = state


@dataclass
class PersistentRecord(ModuleRecord):
    """An object of a class whose source text EDM stores beside it. The text is never run."""

    class_name: str = ""
    source: str = field(default="", repr=False)

    def set_state(self, state: Any) -> None:
        raise UnsafeCheckpointError(f"it sets the state of its {shown(self.class_name)} twice.")


@dataclass
class NumpyType(Record):
    """A numpy dtype of plain numbers, little-endian or of one byte."""

    code: str

    def set_state(self, state: Any) -> None:
        match state:
            case (3, "<" | "|" | "=", None, None, None, -1, -1, 0):
                return
        raise UnsafeCheckpointError("it holds a numpy dtype that is big-endian, structured or odd.")


@dataclass
class NumpyArray(Record):
    """A numpy array, of which only the shape is kept: no network needs one."""

    shape: tuple[int, ...] = ()

    def set_state(self, state: Any) -> None:
        match state:
            case (1, tuple(shape), NumpyType(code), bool(), bytes() | memoryview() as data):
                if _is_array(shape, code, data):
                    self.shape = shape
                    return
        raise UnsafeCheckpointError("it holds a numpy array that is not plain numbers.")


def _is_array(shape: tuple[Any, ...], code: str, data: bytes | memoryview) -> bool:
    # The number of axes first: a long tuple may be the shape of many arrays.
    counts = len(shape) < 9 and all(type(n) is int and 0 <= n < 2**40 for n in shape)
    return counts and math.prod(shape) * NUMPY_ITEM_SIZES[code] == len(data)


def ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise UnsafeCheckpointError("it builds a dict from arguments, which no checkpoint does.")
    return {}


def set_of(arguments: tuple[Any, ...]) -> set[Any]:
    match arguments:
        case (list(items),) if all(isinstance(item, str | int) for item in items):
            for item in items:
                check_key(item, CHECKPOINT)
            return set(items)
    raise CheckpointError("it builds a set of something other than texts and numbers.")


def persistent_object(arguments: tuple[Any, ...]) -> PersistentRecord:
    match arguments:
        case (
            {
                "type": "class",
                "version": version,
                "module_src": str(source),
                "class_name": str(class_name),
                "state": dict(state),
            },
        ):
            pass
        case _:
            raise CheckpointError("it holds an object of EDM's persistence that is not of a class.")
    if version != PERSISTENCE_VERSION:
        raise CheckpointError(
            f"it was written by version {shown(version)} of EDM's persistence; only "
            f"{PERSISTENCE_VERSION}, the one of all public files, is known."
        )
    return PersistentRecord(state, class_name, source)


def module_dict(arguments: tuple[Any, ...]) -> ModuleRecord:
    if arguments:
        raise UnsafeCheckpointError("it builds a ModuleDict from arguments.")
    return ModuleRecord()


def tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(stride), bool(), hooks) | (
            Storage() as storage,
            int(offset),
            tuple(shape),
            tuple(stride),
            bool(),
            hooks,
            None,
        ) if hooks == {}:
            return StoredTensor(storage, shape, stride, offset)
    raise CheckpointError(
        "it rebuilds a tensor from something other than a storage and its layout."
    )


def parameter(arguments: tuple[Any, ...]) -> StoredTensor:
    match arguments:
        case (StoredTensor() as data, bool(), hooks) if hooks == {}:
            return data
    raise UnsafeCheckpointError("it holds a parameter that is not a tensor without hooks.")


def numpy_type(arguments: tuple[Any, ...]) -> NumpyType:
    match arguments:
        case (str(code), bool() | 0 | 1, bool() | 0 | 1) if code in NUMPY_ITEM_SIZES:
            return NumpyType(code)
    raise UnsafeCheckpointError("it holds a numpy dtype that is not a plain number.")


def numpy_scalar(arguments: tuple[Any, ...]) -> float | int | bool:
    match arguments:
        case (NumpyType(code), bytes() | memoryview() as data) if code in NUMPY_FORMATS:
            if len(data) == NUMPY_ITEM_SIZES[code]:
                numbers: tuple[float | int | bool] = struct.unpack(f"<{NUMPY_FORMATS[code]}", data)
                return numbers[0]
    raise UnsafeCheckpointError("it holds a numpy scalar that is not a plain number.")


def numpy_array(arguments: tuple[Any, ...]) -> NumpyArray:
    match arguments:
        case (Global("numpy", "ndarray"), (0,), _):
            return NumpyArray()
    raise UnsafeCheckpointError("it builds a numpy array of a class of its own.")


def numpy_from_buffer(arguments: tuple[Any, ...]) -> NumpyArray:
    match arguments:
        case (bytes() | memoryview() as data, NumpyType(code), tuple(shape), "C" | "F"):
            if _is_array(shape, code, data):
                return NumpyArray(shape)
    raise UnsafeCheckpointError("it holds a numpy array that is not plain numbers.")


def latin1_bytes(arguments: tuple[Any, ...]) -> bytes:
    found = encoded_text(arguments, max_length=MAX_ENCODED)
    if found is None:
        raise UnsafeCheckpointError("it encodes something other than a short text as latin1.")
    return found


RECORDS: dict[Global, Construct | None] = {
    **PLAIN_OBJECTS,
    Global("torch_utils.persistence", "_reconstruct_persistent_obj"): persistent_object,
    Global("collections", "OrderedDict"): ordered_dict,
    Global("dnnlib.util", "EasyDict"): ordered_dict,
    Global("torch._utils", "_rebuild_parameter"): parameter,
    Global("torch._utils", "_rebuild_tensor_v2"): tensor,
    MODULE_DICT: module_dict,
    Global("numpy.core.multiarray", "scalar"): numpy_scalar,
    Global("numpy._core.multiarray", "scalar"): numpy_scalar,
    Global("numpy", "dtype"): numpy_type,
    Global("numpy.core.multiarray", "_reconstruct"): numpy_array,
    Global("numpy._core.multiarray", "_reconstruct"): numpy_array,
    Global("numpy.core.numeric", "_frombuffer"): numpy_from_buffer,
    Global("numpy._core.numeric", "_frombuffer"): numpy_from_buffer,
    Global("numpy", "ndarray"): None,
    Global("__builtin__", "set"): set_of,
    Global("builtins", "set"): set_of,
    Global("_codecs", "encode"): latin1_bytes,
    **dict.fromkeys(STORAGE_TYPES),
}
"""What pickles in every container may name, and what builds the record; None if nothing does.

torch.storage._load_from_bytes joins them where storages are nested.
"""
