"""Open a checkpoint: its format is told by its content, and nothing in the file runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints import formats
from memaudit.models.checkpoints.assembly import assemble
from memaudit.models.checkpoints.beside import facts_beside
from memaudit.models.checkpoints.checkpoint import Checkpoint, StoredNetwork
from memaudit.models.checkpoints.containers.inert_objects import PersistentRecord
from memaudit.models.checkpoints.containers.raw_file import Contents, decode, read_file
from memaudit.models.checkpoints.folders import file_to_read
from memaudit.models.checkpoints.format import SourceFormat
from memaudit.models.checkpoints.given import Given
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
        path: a checkpoint file, a folder of diffusers or accelerate, or `module:function` (the
            only form that runs the user's code).
        device: where the network goes.
        arch: what the file does not show, as `NAME,option=value,…`: see docs/checkpoints.md. NAME
            is a preset (models/published_networks.py) or a family of the format.
        config: the configuration in full: `class_name` and the constructor's keywords.

    Raises:
        UnsafeCheckpointError: it needs something that only running its code could give.
        CheckpointError: it is missing, broken, or of a format that memaudit does not know.
        ConfigError: `arch` has a name or an option that the file's format does not have, or says
            other than the file; or the file carries a configuration of its own.
    """
    given = Given.parse(arch, config)
    with named(path):
        if source := find_source(path, given):
            return source.open(str(path), device, given)
        file, warnings = file_to_read(Path(path))
        contents = decode(read_file(file), Budget())
        stored = read_network(contents, given)
        network = assemble(stored, device=device)
    return Checkpoint(
        network=network,
        config=dict(stored.config),
        provenance=dict(stored.provenance),
        sha256=contents.sha256,
        format=stored.format,
        path=str(path),
        warnings=(*stored.warnings, *warnings),
        arch=arch,
        facts=stored.facts,
    )


def find_source(path: str | Path, given: Given) -> SourceFormat | None:
    """The format of a model that is not one file; None if it is a file.

    Raises:
        ConfigError: the user says what this format does not take.
    """
    for source in formats.SOURCE_FORMATS:
        if source.recognizes(str(path)):
            given.check(str(path), source.options, {}, takes_config=False)
            return source
    return None


def read_network(contents: Contents, given: Given) -> StoredNetwork:
    """The network in a decoded file, read by the first format that recognizes it."""
    format = next((format for format in formats.FILE_FORMATS if format.recognizes(contents)), None)
    if format is None:
        raise CheckpointError(
            f"it is a {contents.container} file of a format that memaudit does not know: it holds "
            f"{_description(contents.value)}. docs/checkpoints.md lists the formats."
        )
    options = format.options if format.options_in is None else format.options_in(contents)
    given.check(str(contents.path), options, format.families, takes_config=format.takes_config)
    stored = format.read(contents, given)
    beside = facts_beside(contents.value)
    if beside and not any(isinstance(part, PersistentRecord) for part in contents.value.values()):
        # Not for EDM's pickles, whose own format says what their parts mean.
        stored = replace(stored, provenance={"beside_the_weights": beside, **stored.provenance})
    return stored


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
