"""A file, read once: what is opened are the very bytes that were hashed and checked.

The container (safetensors, and others) is told by the first bytes, never by the suffix.
"""

import hashlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.safetensors_file import is_safetensors, parse_safetensors

MAX_BYTES = 64 << 30
Container = Literal["safetensors"]

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


@dataclass(frozen=True)
class Contents:
    """What a file holds, decoded without running anything."""

    container: Container
    value: Any = field(repr=False)
    """safetensors: StoredTensor by name."""
    metadata: Mapping[str, str]
    """Of a safetensors file; empty elsewhere."""
    num_bytes: int
    sha256: str


def read_contents(path: Path) -> Contents:
    """Read and decode a checkpoint file.

    Raises:
        CheckpointError: it is missing, unreadable, cut short or of an unknown container.
    """
    data = _read_once(path)
    sha256 = hashlib.sha256(data).hexdigest()
    value, metadata = parse_safetensors(data)
    return Contents("safetensors", value, metadata, len(data), sha256)


def _read_once(path: Path) -> memoryview:
    """The file's bytes, copied into anonymous memory; only where the first ones are promising."""
    if not path.exists():
        raise CheckpointError("there is no such file; check the path.")
    if not path.is_file():
        raise CheckpointError("it is not a regular file; a checkpoint file is needed.")
    try:
        with path.open("rb") as file:
            head = file.read(32)
            _check_head(head)
            size = path.stat().st_size
            if size > MAX_BYTES:
                raise CheckpointError(
                    f"it has {size:,} bytes; more than {MAX_BYTES:,} are not read."
                )
            data = mmap.mmap(-1, size)
            file.seek(0)
            num_bytes = file.readinto(data)
    except OSError as error:
        raise CheckpointError(f"it cannot be read: {error.strerror}.") from error
    return memoryview(data)[:num_bytes]


def _check_head(head: bytes) -> None:
    if is_safetensors(head):
        return
    if not head:
        raise CheckpointError("it is empty; a checkpoint is needed.")
    for start, kind in LOOKS_LIKE:
        if head.lstrip().startswith(start):
            raise CheckpointError(f"it is {kind}; a checkpoint is needed.")
    raise CheckpointError(
        f"it starts with the bytes {head[:8].hex(' ')} and is no checkpoint that memaudit knows; "
        "safetensors is."
    )
