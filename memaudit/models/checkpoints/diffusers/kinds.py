"""Models of diffusers that are no pixel models, told by what lies in their folders."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.json_metadata import read_json_file
from memaudit.wording import joined, shown

INDEX = "model_index.json"
CHECKPOINT_FOLDER = re.compile(r"checkpoint-\d+", re.ASCII)
"""Folders that a training writes within the folder of its pipeline."""
PARTS = ("unet", "unet_ema", "transformer")
SCAN_IMAGES = "Scan images that it generated instead."
LATENTS = ("vae", "vqvae", "vqmodel", "movq", "image_encoder_vae")
"""Components that make latents of images."""
TEXTS = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "bert", "prior")
NETWORKS = {
    "UNet2DConditionModel": "denoises latents from texts, as Stable Diffusion does",
    "DiTTransformer2DModel": "is a DiT of latents",
    "Transformer2DModel": "is a transformer of latents, such as DiT or PixArt",
    "PixArtTransformer2DModel": "is a transformer of latents from texts",
    "SD3Transformer2DModel": "is the transformer of Stable Diffusion 3, of latents from texts",
    "FluxTransformer2DModel": "is the transformer of FLUX, of latents from texts",
    "AutoencoderKL": "is a variational autoencoder, which does not denoise",
    "VQModel": "is a vector-quantized autoencoder, which does not denoise",
    "ControlNetModel": "is a ControlNet, a part beside another network",
    "UNet1DModel": "denoises sequences, not images",
    "UNet3DConditionModel": "denoises videos",
}
"""Classes of networks, and what each does instead of denoising images."""
ADAPTERS = (
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "adapter_config.json",
)


def refuse_another_kind(folder: Path) -> None:
    """Refuse a folder whose network does not denoise images of pixels, by what it is.

    Args:
        folder: a pipeline's, a training checkpoint's, or the network's within one of these.

    Raises:
        CheckpointError: it says what lies beside the network that tells so.
    """
    for root in roots(folder):
        components = _components(root)
        latents = [name for name in LATENTS if name in components]
        texts = [name for name in TEXTS if name in components]
        kind = components.get("_class_name")
        what = f"a {shown(kind)}" if isinstance(kind, str) else "a pipeline"
        if latents:
            also = f", from texts ({joined(texts)})" if texts else ""
            raise CheckpointError(
                f"it is {what} of latents{also}: its network denoises what the {latents[0]} beside "
                f"it makes of images, not images. {SCAN_IMAGES}"
            )
        if texts:
            raise CheckpointError(
                f"it is {what} that makes images from texts ({joined(texts)}), which memaudit "
                f"cannot choose. {SCAN_IMAGES}"
            )
    adapters = [name for name in ADAPTERS if (folder / name).exists()]
    if adapters:
        raise CheckpointError(
            f"it holds a LoRA adapter ({adapters[0]}), which changes a network that lies "
            f"elsewhere, mostly one of latents from texts. {SCAN_IMAGES}"
        )


def refuse_another_network(config: Mapping[str, Any]) -> None:
    """Refuse a network by its class, if it is known not to denoise images.

    Raises:
        CheckpointError: it says what the class does.
    """
    name = config.get("_class_name")
    if isinstance(name, str) and name in NETWORKS:
        raise CheckpointError(
            f"its model is {shown(name)}: it {NETWORKS[name]}. memaudit samples UNet2DModel, of "
            f"pixels. {SCAN_IMAGES}"
        )


def roots(folder: Path) -> list[Path]:
    """The folder and those above it that belong to the same pipeline or training."""
    found = [folder]
    if folder.resolve().name in PARTS:
        found.append(folder.resolve().parent)
    if CHECKPOINT_FOLDER.fullmatch(found[-1].resolve().name):
        found.append(found[-1].resolve().parent)
    return found


def _components(root: Path) -> dict[str, Any]:
    """What a pipeline consists of, by its index and by the folders that are there."""
    found: dict[str, Any] = {}
    if (root / INDEX).exists():
        with suppress(CheckpointError):  # a broken index says nothing that could be relied on
            index, _ = read_json_file(root / INDEX)
            # A component that was left out is [null, null].
            found = {name: part for name, part in index.items() if part not in ([None, None], None)}
    for name in (*LATENTS, *TEXTS):
        if (root / name / "config.json").exists():
            found.setdefault(name, None)
    return found
