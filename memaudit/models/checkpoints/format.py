"""What a checkpoint format offers: how it is recognized, and how it is read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from memaudit.models.checkpoints.checkpoint import Checkpoint, CheckpointInfo, StoredNetwork
from memaudit.models.checkpoints.containers.raw_file import Contents
from memaudit.models.checkpoints.given import ArchOption, Given

AS_PYTHON = "Give it to memaudit as a Python denoiser (module:function)."
"""What to do with a network that no format knows."""


@dataclass(frozen=True)
class FileFormat:
    """A format of checkpoints that are one file, already decoded by its container."""

    name: str
    """Name of the format, such as `EDM pickle`; `StoredNetwork.format` is that of one file."""
    recognizes: Callable[[Contents], bool]
    """Whether the contents are of this format, whole or not."""
    read: Callable[[Contents, Given], StoredNetwork]
    """The network in the contents, with what the user says of it; raises CheckpointError if it is
    broken or not one that memaudit knows."""
    takes_config: bool = False
    """Whether the user may give a preset or a configuration, since the files have none."""
    options: tuple[ArchOption, ...] = ()
    """What its files may not show, so that the user can say it."""
    options_in: Callable[[Contents], tuple[ArchOption, ...]] | None = None
    """Those of one file, where each has its own."""
    families: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Programs that write such files: names that the user may give, with the defaults of each."""


@dataclass(frozen=True)
class SourceFormat:
    """A format of models that are not one file: a folder, or a function."""

    name: str
    recognizes: Callable[[str], bool]
    """Whether what the user named is of this format."""
    open: Callable[[str, torch.device | str, Given], Checkpoint]
    """The model, on a device, with what the user says of it."""
    inspect: Callable[[str, Given], CheckpointInfo] | None = None
    """What it holds, without running it; None for a format that cannot tell."""
    options: tuple[ArchOption, ...] = ()
    """What it may not say, so that the user can."""
