"""The network that a configuration means for a set of images."""

from collections.abc import Mapping
from typing import Any

from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError, DataError
from memaudit.models.published_networks import ADM, DDPMPP, NCSNPP
from memaudit.options import shown
from memaudit.training.augment import AUGMENT_DIM
from memaudit.training.config import Architecture, Preconditioning, TrainingConfig

ARCHITECTURES: Mapping[Architecture, Mapping[str, Any]] = {
    "ddpmpp": {**DDPMPP, "channel_mult": [2, 2, 2]},
    "ncsnpp": {**NCSNPP, "channel_mult": [2, 2, 2]},
    "adm": ADM,
}
"""U-Nets by EDM's names for them, as keywords of their constructors."""

PRECONDITIONERS: Mapping[Preconditioning, str] = {
    "vp": "VPPrecond",
    "ve": "VEPrecond",
    "edm": "EDMPrecond",
}
"""Class that wraps the U-Net; each comes with the loss of the same name."""


def configure_network(config: TrainingConfig, images: ImageSet) -> dict[str, Any]:
    """Return the network for these images, as keywords that `build_network` takes.

    Raises:
        DataError: there are no images, or a conditional network lacks labels.
        ConfigError: sides that cannot be halved for every level; self-attention is wanted at a
            resolution that no level has.
    """
    if len(images) == 0:
        raise DataError(f"{images.source} holds no images to train on.")
    channels, height, width = images.image_shape
    if config.conditional and images.labels is None:
        raise DataError(
            f"A conditional network was asked for, but {images.source} holds no labels. "
            "Use images with labels, or train without {conditional}.",
            field="conditional",
        )
    architecture = ARCHITECTURES[config.arch]
    channel_mult = list(config.channel_mult or architecture["channel_mult"])
    step = 1 << (len(channel_mult) - 1)
    if height % step or width % step:
        raise ConfigError(
            f"{images.source} holds images of {height}x{width}, but each side must be a multiple "
            f"of {step} for a network of {len(channel_mult)} levels. Choose another "
            "{resolution}, or fewer levels with {channel_mult}.",
            field=("resolution", "channel_mult"),
        )
    network = {
        "class_name": PRECONDITIONERS[config.precond],
        "img_resolution": height if height == width else [height, width],
        "img_channels": channels,
        "label_dim": images.num_classes if config.conditional else 0,
        "use_fp16": False,
        **architecture,
        "channel_mult": channel_mult,
        "num_blocks": config.num_blocks,
        "attn_resolutions": _attention(config, (height, width), num_levels=len(channel_mult)),
        "dropout": config.dropout,
    }
    if config.augment:
        network["augment_dim"] = AUGMENT_DIM
    if config.model_channels is not None:
        network["model_channels"] = config.model_channels
    if config.embedding is not None:
        network["embedding_type"] = config.embedding
    if config.skip_connections is not None:
        network["skip_connections"] = list(config.skip_connections)
    return network


def _attention(config: TrainingConfig, size: tuple[int, int], *, num_levels: int) -> list[int]:
    """Shorter sides with self-attention, each of which a level must have."""
    if config.attn_resolutions is None:
        return [min(size) // 2]
    levels = tuple(min(size) >> level for level in range(num_levels))
    if not set(config.attn_resolutions) <= set(levels):
        raise ConfigError(
            f"{{attn_resolutions}} is {shown(config.attn_resolutions)}, but the network's levels "
            f"have {shown(levels)} for images of {size[0]}x{size[1]}; choose among those, or "
            "add a level with {channel_mult}.",
            field=("attn_resolutions", "channel_mult"),
        )
    return list(config.attn_resolutions)
