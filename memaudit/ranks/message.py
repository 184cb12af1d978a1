"""What ranks tell each other, as bytes: nothing of it is run when it is read."""

import io
import json
import socket
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from memaudit import errors
from memaudit.errors import MemauditError

_ABOUT = "about"
_ERROR = "error"


class Message(NamedTuple):
    """A block of work, or what became of one."""

    about: dict[str, Any]
    """JSON values; `task` names what a block asks for."""
    arrays: dict[str, np.ndarray]


def pack(about: Mapping[str, Any], **arrays: np.ndarray | None) -> bytes:
    """The bytes of a message; an array that is None is left out."""
    file = io.BytesIO()
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    given = {name: array for name, array in arrays.items() if array is not None}
    np.savez(file, **{_ABOUT: text}, **given)  # type: ignore[arg-type]  # the stub's allow_pickle
    return file.getvalue()


def unpack(data: bytes) -> Message:
    """The message of some bytes.

    Raises:
        ValueError: they are not a message.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop(_ABOUT).tobytes())
    except (KeyError, OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"a rank sent {len(data):,} bytes that are not a message") from error
    if not isinstance(about, dict):
        raise ValueError(f"a rank sent a {type(about).__name__} in place of a message")
    return Message(about, arrays)


def pack_error(error: Exception, rank: int) -> bytes:
    """The bytes of an error that a block ended with."""
    if isinstance(error, MemauditError):
        kind, text = (
            type(error).__name__,
            error.worded({name: f"{{{name}}}" for name in error.fields}),
        )
        return pack({_ERROR: kind, "text": text, "fields": error.fields})
    is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    kind = "MemoryError" if is_memory else "RuntimeError"
    text = f"rank {rank} on {socket.gethostname()}: {type(error).__name__}: {error}"
    return pack({_ERROR: kind, "text": text, "fields": ()})


def error_in(message: Message) -> Exception | None:
    """The error that a message carries, if it does."""
    kind = message.about.get(_ERROR)
    if kind is None:
        return None
    text, fields = str(message.about.get("text")), tuple(message.about.get("fields", ()))
    known = getattr(errors, str(kind), None)
    if isinstance(known, type) and issubclass(known, MemauditError):
        return known(text, field=fields)
    return MemoryError(text) if kind == "MemoryError" else RuntimeError(text)
