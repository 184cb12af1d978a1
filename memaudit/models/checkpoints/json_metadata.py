"""JSON from a file that may be hostile: in metadata, or a file of its own."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memaudit.errors import CheckpointError

MAX_DEPTH = 16
"""Largest nesting of a JSON value in the metadata."""


def read_json_file(path: Path, *, hint: str = "") -> tuple[dict[str, Any], str]:
    """The JSON object in a file, and the SHA-256 of the bytes that were read.

    Args:
        path: the file.
        hint: what a missing file was needed for.

    Raises:
        CheckpointError: it is missing, unreadable, or not a JSON object.
    """
    try:
        content = path.read_bytes()
        value = json.loads(content)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} is missing{'; ' + hint if hint else ''}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} is not a JSON object.")
    return value, hashlib.sha256(content).hexdigest()


def json_object(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """The JSON object under `key` of the metadata.

    Raises:
        CheckpointError: it is not valid JSON, not an object, or nests too deep.
    """
    try:
        value = json.loads(metadata.get(key, ""), parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its metadata entry {key!r} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"its metadata entry {key!r} is not a JSON object.")
    _check_depth(value, key, MAX_DEPTH)
    return value


def _constant(text: str) -> float | None:
    """Python's JSON knows Infinity, which some options are, and NaN, which says nothing."""
    return None if text == "NaN" else float(text)


def _check_depth(value: Any, key: str, left: int) -> None:
    if isinstance(value, dict | list):
        if not left:
            raise CheckpointError(f"its metadata entry {key!r} nests deeper than {MAX_DEPTH}.")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, key, left - 1)
