"""What opening or inspecting a checkpoint gives, and what a format makes of a file for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from memaudit.models.checkpoints.given import Fact
from memaudit.models.denoiser import Denoiser, image_shape
from memaudit.models.resolution import Resolution


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """A trained model, ready to denoise."""

    network: Denoiser
    """A torch module in evaluation mode: float32, without gradients, on the device asked for."""
    config: dict[str, Any]
    """`class_name` and the constructor's keywords, as in EDM; empty for a model of another make."""
    provenance: dict[str, Any]
    """What the file says about its training, as plain JSON values. Shown, never acted on."""
    sha256: str | None
    """SHA-256 of the very bytes that were opened; None for an object in memory without any."""
    format: str
    """Name of the format, such as "EDM snapshot"."""
    path: str
    """What was opened, as the user wrote it."""
    warnings: tuple[str, ...] = ()
    """What a user should know before trusting numbers about this model."""
    arch: str | None = None
    """What the user said about it where its file does not, as given to `open_checkpoint`."""
    facts: tuple[Fact, ...] = ()
    """What the file may not show, each with who says it: the file, the user, or the default."""

    def __repr__(self) -> str:
        C, H, W = image_shape(self.network)
        classes = f"{self.network.label_dim:,} classes" if self.network.label_dim else "no classes"
        return f"Checkpoint({self.path!r}, {self.format}, {C} x {H} x {W}, {classes})"


def denoiser_of(model: "Denoiser | Checkpoint") -> Denoiser:
    """Return the network of a checkpoint, and any other denoiser as it is.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(model, Checkpoint):
        return model.network
    if isinstance(model, Denoiser):
        return model
    raise TypeError(
        f"the model is a {type(model).__name__}; a Checkpoint (open_checkpoint opens a file) or a "
        "denoiser is needed, which has img_channels, img_resolution, label_dim, sigma_min, "
        "sigma_max, round_sigma and D(x, sigma, class_labels)"
    )


@dataclass(frozen=True)
class StoredNetwork:
    """Weights and configuration that a format found in a file, before anything is built."""

    format: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)
    """Weights by the names of our networks' parameters, in the dtype that they are stored in."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    """What its format may not show, each with who says it; `Given.resolve` makes them."""


@dataclass(frozen=True)
class NetworkInfo:
    """A network that a checkpoint holds."""

    format: str
    preconditioning: str
    """`class_name` of the configuration."""
    architecture: str
    config: dict[str, Any]
    num_parameters: int
    dtypes: dict[str, int]
    """Number of stored values per dtype, buffers included; empty for a diffusers folder."""
    img_resolution: Resolution
    img_channels: int
    label_dim: int
    sigma_min: float
    sigma_max: float
    provenance: dict[str, Any]
    warnings: tuple[str, ...]
    facts: tuple[Fact, ...] = ()
    """What the file may not show, each with who says it: the file, the user, or the default."""


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint, as far as it can be known without running it."""

    path: str
    num_bytes: int
    sha256: str | None
    container: str
    """safetensors, torch zip, torch stream, pickle or diffusers folder."""
    globals: tuple[str, ...]
    """What the file's pickles name, as module.name; an unsafe or broken file, up to where reading
    stopped."""
    safe: bool
    """Whether it was read to its end and needs nothing that only running code could give."""
    problem: str | None
    """Why it cannot be opened, or None."""
    network: NetworkInfo | None
    """None if there is a problem."""
