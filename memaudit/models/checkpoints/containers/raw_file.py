"""A file, read once: what is opened is the very bytes that were hashed and checked.

The container is told by its first bytes, never by its suffix.
"""

import hashlib
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from memaudit.data.room import free_memory, in_words
from memaudit.errors import CheckpointError
from memaudit.files import open_regular
from memaudit.models.checkpoints.containers.inert_objects import CHECKPOINT, RECORDS
from memaudit.models.checkpoints.containers.safetensors_file import (
    is_safetensors,
    parse_safetensors,
)
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor, read_tensors
from memaudit.models.checkpoints.containers.torch_file import (
    LEGACY_HEAD,
    nested_storage,
    parse_legacy,
    parse_zip,
)
from memaudit.unpickler import Budget, Global, Unpickler

MAX_BYTES = 32 << 30
"""Largest file that is read, all of it into memory; EDM2's largest has 3 GB."""
Container = Literal["safetensors", "torch zip", "torch stream", "pickle"]

LOOKS_LIKE = (
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
    (b"<", "a web page: the download went wrong"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF", "a GGUF file"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
)
PROTOCOL_0 = b"(c}]"
"""First bytes of pickles before protocol 2, which end with a full stop."""


@dataclass(frozen=True)
class RawFile:
    """The bytes of a checkpoint file before they are decoded."""

    path: Path
    container: Container
    data: memoryview = field(repr=False)
    sha256: str


@dataclass(frozen=True)
class Contents:
    """What a file holds, decoded without running anything."""

    container: Container
    value: Any = field(repr=False)
    """safetensors: StoredTensor by name. Others: the object, of plain values and records."""
    metadata: Mapping[str, str]
    """The metadata of a safetensors file; empty for other containers."""
    path: Path
    num_bytes: int
    sha256: str

    def read_tensors(self, tensors: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Copies of some of the file's tensors, by name.

        Raises:
            CheckpointError: together they need more bytes than the file has.
        """
        return read_tensors(tensors, num_bytes=self.num_bytes)


def read_file(path: Path) -> RawFile:
    """Read a file of a known container.

    Raises:
        CheckpointError: it is missing, unreadable, or not of a known container.
    """
    try:
        with open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            last = file.read(1)
            file.seek(0)
            container = _container(file.read(32), last)
            if size > MAX_BYTES:
                raise CheckpointError(f"it has {size:,} bytes; at most {MAX_BYTES:,} are read.")
            free = free_memory()
            if free is not None and size > free:  # a file may have holes, which memory does not
                raise CheckpointError(
                    f"it has {in_words(size)}, all of which are read, and {in_words(free)} of "
                    "memory are free. Use a machine with more memory."
                )
            # Anonymous memory: a mapping of the file would change with it.
            copy = mmap.mmap(-1, size)
            file.seek(0)
            data = memoryview(copy)[: file.readinto(copy)]
    except FileNotFoundError as error:
        raise CheckpointError("there is no such file; check the path.") from error
    except OSError as error:
        raise CheckpointError(f"it cannot be read: {error.strerror}.") from error
    return RawFile(path, container, data, hashlib.sha256(data).hexdigest())


def decode(file: RawFile, budget: Budget) -> Contents:
    """What a file holds; the globals that its pickles name are added to `budget.named`.

    Raises:
        UnsafeCheckpointError: it names something that only running code could give.
        CheckpointError: it is damaged.
    """
    metadata: dict[str, str] = {}
    if file.container == "safetensors":
        value, metadata = parse_safetensors(file.data)
    elif file.container == "torch zip":
        value = parse_zip(file.data, budget)
    elif file.container == "torch stream":
        value = parse_legacy(file.data, budget)
    else:
        value = _parse_pickle(file.data, budget)
    return Contents(
        file.container, value, metadata, file.path, num_bytes=len(file.data), sha256=file.sha256
    )


def _parse_pickle(data: memoryview, budget: Budget) -> Any:
    """The first pickle in `data`, whose tensors carry their storages as nested streams."""

    def load_from_bytes(arguments: tuple[Any, ...]) -> Any:
        match arguments:
            case (bytes() as encoded,):  # by protocol 2, as a text
                return nested_storage(memoryview(bytearray(encoded)), budget)
            case (memoryview() as nested,):
                return nested_storage(nested, budget)
        raise CheckpointError("it has a tensor storage that is not bytes.")

    nested = {Global("torch.storage", "_load_from_bytes"): load_from_bytes}
    return Unpickler(data, CHECKPOINT, {**RECORDS, **nested}, budget).load()


def _container(head: bytes, last: bytes) -> Container:
    if is_safetensors(head):
        return "safetensors"
    if head.startswith(b"PK\3\4"):
        return "torch zip"
    if head.startswith(LEGACY_HEAD):
        return "torch stream"
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "pickle"
    if not head:
        raise CheckpointError("it is empty; a checkpoint is needed.")
    for start, kind in LOOKS_LIKE:
        if head.lstrip().startswith(start):
            raise CheckpointError(f"it is {kind}; a checkpoint is needed.")
    if head[:1] in PROTOCOL_0 and last == b".":
        return "pickle"
    raise CheckpointError(
        f"it starts with the bytes {head[:8].hex(' ')}, with which no checkpoint "
        "starts; a file of torch.save, a pickle or safetensors is needed."
    )
