"""What a checkpoint format offers: how it is recognized, and how it is read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from memaudit.models.checkpoints.checkpoint import Checkpoint, CheckpointInfo, StoredNetwork
from memaudit.models.checkpoints.containers.raw_file import Contents


@dataclass(frozen=True)
class FileFormat:
    """A format of checkpoints that are one file, already decoded by its container."""

    name: str
    """Name of the format, such as `EDM pickle`; `StoredNetwork.format` is that of one file."""
    recognizes: Callable[[Contents], bool]
    """Whether the contents are of this format, whole or not."""
    read: Callable[[Contents, Mapping[str, Any] | None], StoredNetwork]
    """The network in the contents; raises CheckpointError if it is broken or not one of EDM's. The
    second argument is the configuration that the user gives, or None."""
    has_config: bool = True
    """Whether the files carry the configuration of their network."""


@dataclass(frozen=True)
class SourceFormat:
    """A format of models that are not one file: a folder, or a function."""

    name: str
    recognizes: Callable[[str], bool]
    """Whether what the user named is of this format."""
    open: Callable[[str, torch.device | str], Checkpoint]
    """The model, on a device."""
    inspect: Callable[[str], CheckpointInfo] | None = None
    """What it holds, without running it; None for a format that cannot tell."""
