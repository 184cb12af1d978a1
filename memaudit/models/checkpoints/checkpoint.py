"""What opening a checkpoint gives, and what a format makes of a file on the way there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from memaudit.models.denoiser import Denoiser


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, ready to denoise."""

    network: Denoiser
    """A torch module in evaluation mode: float32, without gradients, on the device asked for."""
    config: dict[str, Any]
    """`class_name` and the constructor's keywords, as EDM's; empty for a model of other make."""
    provenance: dict[str, Any]
    """What the file says of its training, as plain JSON values. Shown, never acted on."""
    sha256: str
    """Of the very bytes that were opened."""
    format: str
    """Name of the format, such as "EDM snapshot"."""
    path: str
    """What was opened, as the user wrote it."""
    warnings: tuple[str, ...] = ()
    """What a user should know before trusting numbers about this model."""
    arch: str | None = None
    """The preset that was named for weights without a configuration."""


@dataclass(frozen=True)
class StoredNetwork:
    """Weights and configuration that a format found in a file; nothing is built yet."""

    format: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)
    """By EDM's parameter names, in the dtype they are stored in."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
