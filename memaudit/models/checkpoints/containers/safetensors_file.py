"""The safetensors container: a JSON header, then the tensors' bytes.

Parsed here rather than by the safetensors library: what is opened must be the bytes that were
hashed, but the library's `safe_open` maps the path again, and its `deserialize` copies every tensor
and leaves out the metadata. https://github.com/huggingface/safetensors#format
"""

import json
from typing import Any

import torch

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.wording import shown

MAX_HEADER = 16 << 20
"""Most bytes of a header. A network of a thousand tensors needs 0.1 MB."""
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def is_safetensors(head: bytes) -> bool:
    """Whether a file that starts with `head` (9 bytes or more) announces a JSON header."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40


def parse_safetensors(data: memoryview) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Tensors by name, and the metadata.

    Raises:
        CheckpointError: the header or the file is damaged or cut short.
    """
    header_size = int.from_bytes(data[:8], "little")
    if header_size > len(data) - 8:
        raise CheckpointError(
            f"the safetensors header is announced as {header_size:,} bytes, but only "
            f"{len(data) - 8:,} bytes follow: the file is cut short."
        )
    if header_size > MAX_HEADER:
        raise CheckpointError(
            f"the safetensors header of {header_size:,} bytes is larger than the {MAX_HEADER:,} "
            "that any network needs."
        )
    try:
        header = json.loads(bytes(data[8 : 8 + header_size]), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the safetensors header is not valid JSON: {error}.") from error
    if not isinstance(header, dict):
        raise CheckpointError("the safetensors header is not a JSON object.")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError("the safetensors metadata is not a mapping of texts.")
    body = data[8 + header_size :]
    tensors = {name: _tensor(name, entry, body) for name, entry in header.items()}
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end != len(body):
        raise CheckpointError(f"it has {len(body):,} bytes of tensors; its header names {end:,}.")
    return tensors, metadata


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _tensor(name: str, entry: Any, body: memoryview) -> StoredTensor:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(stop)]}:
            pass
        case _:
            raise CheckpointError(
                f"the safetensors entry {shown(name)} has no dtype, shape and range."
            )
    if dtype not in DTYPES:
        raise CheckpointError(
            f"tensor {shown(name)} is stored as {shown(dtype)}, which no checkpoint needs."
        )
    if not 0 <= start <= stop <= len(body):
        raise CheckpointError(
            f"tensor {shown(name)} should lie at bytes {start}:{stop}, but only {len(body):,} are "
            "there: the file is cut short or was altered."
        )
    try:
        return StoredTensor.contiguous(DTYPES[dtype], shape, body[start:stop])
    except CheckpointError as error:
        raise CheckpointError(f"tensor {shown(name)}: {error}") from error
