"""The module tree of a network that a pickle holds, walked without running it."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from memaudit.errors import CheckpointError, UnsafeCheckpointError
from memaudit.models.checkpoints.containers.inert_objects import ModuleRecord, PersistentRecord
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.wording import shown

TREE = ("_parameters", "_buffers", "_modules")
"""Entries of a module's state that hold its parts."""
MAX_DEPTH = 16
MAX_ENTRIES = 200_000
"""Entries in the states of all modules together; ADM for ImageNet has some 30,000."""
MAX_OPTIONS = 64
MAX_NAME = 100


def state_dict(module: ModuleRecord) -> dict[str, StoredTensor]:
    """Parameters and persistent buffers by dotted name, as torch's `state_dict()` gives them.

    Raises:
        UnsafeCheckpointError: a module has hooks, which would run code.
        CheckpointError: it is not a tree of modules, or it is too large.
    """
    tensors: dict[str, StoredTensor] = {}
    for prefix, part in _walk(module):
        _check_hooks(part)
        transient = part.state.get("_non_persistent_buffers_set", set())
        if not isinstance(transient, set):
            raise CheckpointError("its network does not say which buffers it keeps.")
        buffers = _mapping(part, "_buffers")
        own = {name: value for name, value in buffers.items() if name not in transient}
        for name, value in {**_mapping(part, "_parameters"), **own}.items():
            if isinstance(value, StoredTensor):
                tensors[f"{prefix}{name}"] = value
            elif value is not None:
                raise CheckpointError(f"its parameter {shown(prefix + name)} is not a tensor.")
    return tensors


def source_hashes(module: ModuleRecord) -> set[str]:
    """SHA-256 of every source text that a network was stored with."""
    texts = {part.source for _, part in _walk(module) if isinstance(part, PersistentRecord)}
    return {hashlib.sha256(text.encode()).hexdigest() for text in texts}


def flat(options: Any) -> dict[str, Any]:
    """Options as plain JSON: numbers, texts and lists of them; other values by their kind alone."""
    if not isinstance(options, dict):
        return {}
    if len(options) > MAX_OPTIONS:
        raise CheckpointError(
            f"it has {len(options):,} options where at most {MAX_OPTIONS} make sense."
        )
    return {str(key)[:MAX_NAME]: _plain(value) for key, value in options.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) <= MAX_OPTIONS:
        return [_plain_item(item) for item in value]
    return _plain_item(value)


def _plain_item(value: Any) -> Any:
    if isinstance(value, str):
        return value[:1000]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value if value is None or isinstance(value, int | float) else shown(value)


def _walk(module: ModuleRecord) -> Iterator[tuple[str, ModuleRecord]]:
    """Every module, with the prefix of its parameters' names."""
    # A list, not recursion, and counted: records may refer to each other in circles.
    pending = [("", 0, module)]
    count = 0
    while pending:
        prefix, depth, part = pending.pop()
        parts = (part.state, *(part.state.get(key) for key in TREE))
        count += sum(len(mapping) for mapping in parts if isinstance(mapping, dict))
        if depth > MAX_DEPTH or count > MAX_ENTRIES:
            raise CheckpointError(
                f"its network nests modules deeper than {MAX_DEPTH}, or has more than "
                f"{MAX_ENTRIES:,} parts."
            )
        yield prefix, part
        for name, child in _mapping(part, "_modules").items():
            if isinstance(child, ModuleRecord):
                pending.append((f"{prefix}{name}.", depth + 1, child))
            elif child is not None:
                raise CheckpointError(f"its module {shown(prefix + name)} is {shown(child)}.")


def _mapping(module: ModuleRecord, key: str) -> Mapping[str, Any]:
    value = module.state.get(key)
    if not isinstance(value, dict):
        raise CheckpointError(f"its network has a module without {key}: it was altered.")
    if not all(isinstance(name, str) and len(name) <= MAX_NAME for name in value):
        raise CheckpointError(f"its network has {key} under something other than short names.")
    return value


def _check_hooks(module: ModuleRecord) -> None:
    for key, value in module.state.items():
        if isinstance(key, str) and "hooks" in key and value not in ({}, None):
            raise UnsafeCheckpointError(
                f"its network has {shown(key)}, which would run code; it was not loaded."
            )
