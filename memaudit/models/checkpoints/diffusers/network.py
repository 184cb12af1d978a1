"""A UNet2DModel as a denoiser, filled with the weights of a folder (extra `diffusers`)."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints.assembly import without_initialization
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.models.checkpoints.diffusers.schedule import Schedule, reason_of
from memaudit.models.config_values import UNET2D_VALUES
from memaudit.models.denoiser import evaluation
from memaudit.models.precond.base import NullLabel, Scalings
from memaudit.models.resolution import as_resolution

FORMER_ATTENTION = re.compile(r"(?P<start>(?:.*\.)?attentions\.\d+\.)(?P<name>\w+)(?P<end>\.\w+)")
FORMER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What attention layers were called before diffusers 0.12 (January 2023), and are called since."""
ClassEmbedding = Literal["embedding", "timestep", "identity"]


class DiffusersDenoiser(nn.Module):
    """A UNet2DModel with the preconditioning that its scheduler implies.

    Args:
        unet: the UNet2DModel.
        schedule: what its scheduler says.
        label_dim: number of classes; 0 for an unconditional model.
        null_label: "last" if the network has one class more, which stands for no class.
    """

    noise_levels: Tensor | None
    network_dtype: torch.dtype = torch.float32
    """Type of the U-Net's numbers, embeddings included; `models/precision.py` sets another one."""

    def __init__(
        self,
        unet: nn.Module,
        schedule: Schedule,
        *,
        label_dim: int = 0,
        null_label: NullLabel | None = None,
    ) -> None:
        super().__init__()
        config: Any = unet.config
        self.unet = unet
        self.schedule = schedule
        self.register_buffer("noise_levels", schedule.levels)
        self.img_channels = config.in_channels
        self.img_resolution = as_resolution(config.sample_size)
        self.label_dim = label_dim
        self.null_label = null_label
        self.sigma_min, self.sigma_max = schedule.sigma_min, schedule.sigma_max
        self._class_embedding = config.class_embed_type or "embedding"
        self._label_width = config.time_embedding_dim or 4 * config.block_out_channels[0]

    @property
    def flow_path(self) -> str | None:
        """The path of a flow; None for a network of noise levels."""
        return "linear" if self.schedule.time == "flow" else None

    def scalings(self, sigma: Tensor) -> Scalings:
        """c_skip, c_out, c_in and c_noise at noise levels sigma, float32 of any shape."""
        return self.schedule.scalings(sigma)

    def forward(
        self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None
    ) -> Tensor:
        """Denoise; as `memaudit.models.denoiser.Denoiser`, with one-hot class_labels."""
        x = x.to(torch.float32)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1, 1, 1, 1)
        c_skip, c_out, c_in, c_noise = self.scalings(sigma)
        labels = self._labels(class_labels, x) if self.label_dim else None
        with evaluation(x):
            scaled = (c_in * x).to(self.network_dtype)
            F_x: Tensor = self.unet(scaled, c_noise.flatten(), class_labels=labels).sample
        # Further channels are a learned variance.
        return c_skip * x + c_out * F_x[:, : self.img_channels].to(torch.float32)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest noise level that the U-Net was trained on."""
        if self.noise_levels is None:
            return sigma
        levels = self.noise_levels.to(sigma.device)
        return levels[self.schedule.nearest_level(sigma)].to(sigma.dtype)

    def _labels(self, class_labels: Tensor | None, x: Tensor) -> Tensor:
        """What the U-Net is told of the classes: indices, or vectors of its embedding's width."""
        if class_labels is None and self.null_label:
            class_labels = torch.zeros(1, self.label_dim, device=x.device)
        if class_labels is None or not _is_one_hot(class_labels, or_none=bool(self.null_label)):
            raise ValueError(
                f"class_labels must be one-hot [B, {self.label_dim}]: a UNet2DModel with classes "
                "has no other input for them"
            )
        none = class_labels.sum(dim=1) == 0
        index = torch.where(none, self.label_dim, class_labels.argmax(dim=1)).expand(len(x))
        if self._class_embedding == "identity":
            return nn.functional.one_hot(index, self._label_width).to(x.dtype)
        return index.to(x.dtype) if self._class_embedding == "timestep" else index


def _is_one_hot(class_labels: Tensor, *, or_none: bool) -> bool:
    total, largest = class_labels.sum(1), class_labels.amax(1)
    return torch.equal(total, largest) and (or_none or bool((largest > 0).all()))


def build_unet(config: Mapping[str, Any], present: Mapping[str, StoredTensor]) -> Any:
    """The UNet2DModel of a configuration, without values.

    Args:
        config: checked.
        present: the weights that are there for it, by name.

    Raises:
        CheckpointError: it cannot be built, or needs far more weights than are there.
    """
    # Other keywords have no effect, and diffusers would print them.
    keywords = {name: config[name] for name in UNET2D_VALUES.keys() & config.keys()}
    if isinstance(keywords.get("sample_size"), list):
        keywords["sample_size"] = tuple(keywords["sample_size"])
    unet_class = diffusers_package().UNet2DModel
    try:
        with without_initialization(present):
            return unet_class.from_config(keywords)
    except CheckpointError:
        raise
    # The values come from a file that may be hostile: whatever they break is the file's fault.
    except Exception as error:
        raise CheckpointError(f"its UNet2DModel cannot be built: {reason_of(error)}.") from error


def by_present_names(
    tensors: Mapping[str, StoredTensor],
) -> tuple[dict[str, StoredTensor], bool]:
    """Weights by the names of today's diffusers, and whether they had those of before 2023.

    Raises:
        CheckpointError: a layer has both.
    """
    named: dict[str, StoredTensor] = {}
    former = False
    for name, tensor in tensors.items():
        match = FORMER_ATTENTION.fullmatch(name)
        if match and match["name"] in FORMER_NAMES:
            former = True
            name = f"{match['start']}{FORMER_NAMES[match['name']]}{match['end']}"
        if name in named:
            raise CheckpointError(
                "it has weights of an attention layer twice, by their names of before and since "
                "2023."
            )
        named[name] = tensor
    return named, former


def diffusers_package() -> Any:
    """The package diffusers.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ConfigError(
            "A diffusers folder needs the package diffusers, which is not installed: pip install "
            'diffusers (or this package with the extra "diffusers").'
        ) from error
    return diffusers
