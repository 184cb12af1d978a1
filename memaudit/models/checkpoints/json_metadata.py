"""JSON from a file that may be hostile: in metadata, or a file of its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memaudit.errors import CheckpointError
from memaudit.files import read_regular

MAX_DEPTH = 16
"""Largest nesting of a JSON value."""
MAX_FILE = 1 << 20
"""Most bytes of a JSON file beside weights; those of published models have some hundreds."""


def read_json_file(path: Path, *, hint: str = "") -> tuple[dict[str, Any], bytes]:
    """The JSON object in a file, and the bytes that were read.

    Args:
        path: the file.
        hint: what a missing file was needed for.

    Raises:
        CheckpointError: it is missing, unreadable, too large, or not a JSON object.
    """
    try:
        content = read_regular(path, MAX_FILE)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} is missing{'; ' + hint if hint else ''}.") from error
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}.") from error
    return _object(content, f"{path.name}"), content


def json_object(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """The JSON object under `key` of the metadata.

    Raises:
        CheckpointError: it is not valid JSON, not an object, or nests too deep.
    """
    return _object(metadata.get(key, ""), f"its metadata entry {key!r}")


def _object(text: str | bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} is not a JSON object.")
    _check_depth(value, name, MAX_DEPTH)
    return value


def _constant(text: str) -> float | None:
    """Python's JSON knows Infinity, which some options are, and NaN, which says nothing."""
    return None if text == "NaN" else float(text)


def _check_depth(value: Any, name: str, left: int) -> None:
    if isinstance(value, dict | list):
        if not left:
            raise CheckpointError(f"{name} nests deeper than {MAX_DEPTH}.")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, name, left - 1)
