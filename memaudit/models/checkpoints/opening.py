"""Open a checkpoint: the format is chosen by content, and nothing in the file runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints import edm, native
from memaudit.models.checkpoints.assembly import assemble
from memaudit.models.checkpoints.checkpoint import Checkpoint, StoredNetwork
from memaudit.models.checkpoints.contents import Contents, decode, read_file
from memaudit.models.checkpoints.pickles import Budget


class Format(Protocol):
    """A module of this package that knows one format."""

    def recognizes(self, contents: Contents) -> bool:
        """True where `contents` are of this format, whole or not."""
        ...

    def read(self, contents: Contents) -> StoredNetwork:
        """The network in `contents`; a CheckpointError where it is broken or not ours."""
        ...


FORMATS: tuple[Format, ...] = (native, edm)
"""In the order they are asked."""


def open_checkpoint(path: str | Path, *, device: torch.device | str = "cpu") -> Checkpoint:
    """Open a checkpoint of any format.

    Args:
        path: a checkpoint file.
        device: where the network goes.

    Raises:
        UnsafeCheckpointError: it needs something that only running its code could give.
        CheckpointError: it is missing, broken, or of a form that memaudit does not know.
    """
    with _named(path):
        contents = decode(read_file(Path(path)), Budget())
        stored = _find_format(contents).read(contents)
        network = assemble(stored, device=device)
    return Checkpoint(
        network=network,
        config=dict(stored.config),
        provenance=dict(stored.provenance),
        sha256=contents.file.sha256,
        format=stored.format,
        path=str(path),
        warnings=stored.warnings,
    )


def _find_format(contents: Contents) -> Format:
    for format in FORMATS:
        if format.recognizes(contents):
            return format
    raise CheckpointError(
        f"it is a {contents.file.container} file of no format that memaudit knows (see "
        "docs/checkpoints.md)."
    )


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Put the file's name before the message of a CheckpointError."""
    try:
        yield
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from error
