"""Open a checkpoint: its format is told by its content, and nothing in the file runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints import formats
from memaudit.models.checkpoints.assembly import assemble
from memaudit.models.checkpoints.checkpoint import Checkpoint, StoredNetwork
from memaudit.models.checkpoints.containers.raw_file import Contents, decode, read_file
from memaudit.models.published_networks import find_config
from memaudit.unpickler import Budget
from memaudit.wording import listed, shown


def open_checkpoint(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    arch: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Open a checkpoint of any format.

    Args:
        path: a checkpoint file, a diffusers folder, or `module:function` (the only form that runs
            the user's code).
        device: where the network goes.
        arch: name of a preset (models/published_networks.py), for weights without a configuration.
        config: that configuration in full: `class_name` and the constructor's keywords.

    Raises:
        UnsafeCheckpointError: it needs something that only running its code could give.
        CheckpointError: it is missing, broken, or of a format that memaudit does not know.
        ConfigError: the configuration is unknown, or the file carries its own.
    """
    if arch is not None:
        if config is not None:
            raise ValueError("give arch or config, not both")
        config = find_config(arch)
    with named(path):
        for source in formats.SOURCE_FORMATS:
            if source.recognizes(str(path)):
                if config is not None:
                    raise ConfigError(f"{path} says what it is; leave out the configuration.")
                return source.open(str(path), device)
        contents = decode(read_file(Path(path)), Budget())
        stored = read_network(contents, config)
        network = assemble(stored, device=device)
    return Checkpoint(
        network=network,
        config=dict(stored.config),
        provenance=dict(stored.provenance),
        sha256=contents.sha256,
        format=stored.format,
        path=str(path),
        warnings=stored.warnings,
        arch=arch,
    )


def read_network(contents: Contents, config: Mapping[str, Any] | None) -> StoredNetwork:
    """The network in a decoded file, read by the first format that recognizes it."""
    format = next((format for format in formats.FILE_FORMATS if format.recognizes(contents)), None)
    if format is None:
        raise CheckpointError(
            f"it is a {contents.container} file of a format that memaudit does not know: it holds "
            f"{_description(contents.value)}. docs/checkpoints.md lists the formats."
        )
    if config is not None and format.has_config:
        raise ConfigError(
            f"{contents.path} has a configuration of its own; leave out the one given."
        )
    return format.read(contents, config)


def _description(value: Any) -> str:
    if not isinstance(value, dict):
        return shown(value)
    return f"{len(value)} values named {listed(map(str, value))}"


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Put the file's name before the message of a CheckpointError."""
    try:
        yield
    except CheckpointError as error:
        message = error.worded({field: f"{{{field}}}" for field in error.fields})
        raise type(error)(f"{path}: {message}", field=error.fields) from error
