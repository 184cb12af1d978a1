"""Tiny models of diffusers, saved as people have them."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

UNET: dict[str, Any] = {
    **{"sample_size": 8, "in_channels": 3, "out_channels": 3, "layers_per_block": 1},
    **{"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 4},
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
STEM = "diffusion_pytorch_model"


def tiny_unet(seed: int = 0, **options: Any) -> Any:
    """A UNet2DModel whose every weight counts."""
    import diffusers

    torch.manual_seed(seed)
    unet = diffusers.UNet2DModel(**(UNET | options)).eval()
    for parameter in unet.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return unet.requires_grad_(False)


def save_pipeline(folder: Path, unet: Any, scheduler: Any | None = None, **options: Any) -> Path:
    """unet/ and, unless it is None, scheduler/ in a folder."""
    unet.save_pretrained(folder / "unet", **options)
    if scheduler is not None:
        scheduler.save_pretrained(folder / "scheduler")
    return folder


def with_former_names(folder: Path) -> None:
    """Give the attention layers of a saved U-Net their names of before 2023."""
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    path = folder / "unet" / f"{STEM}.safetensors"
    weights = {}
    for name, tensor in load_file(path).items():
        for new, old in former.items():
            name = name.replace(f".{new}.", f".{old}.")
        weights[name] = tensor
    save_file(weights, path, {"format": "pt"})


def with_index(folder: Path) -> None:
    """Divide the weights of a saved U-Net among three files with an index."""
    path = folder / "unet" / f"{STEM}.safetensors"
    weights = load_file(path)
    path.unlink()
    places = {}
    for i in range(3):
        name = f"{STEM}-{i + 1:05d}-of-00003.safetensors"
        part = {key: weights[key] for key in list(weights)[i::3]}
        save_file(part, folder / "unet" / name, {"format": "pt"})
        places |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "unet" / f"{STEM}.safetensors.index.json").write_text(json.dumps(index))


def with_files_side_by_side(folder: Path) -> None:
    """All files in one folder, as the first uploads of 2022 had them."""
    for part in ("unet", "scheduler"):
        for file in (folder / part).iterdir():
            shutil.move(file, folder / file.name)
        (folder / part).rmdir()
    (folder / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')


def denoised(unet: Any, scheduler: Any, x: Tensor, t: int, labels: Tensor | None = None) -> Tensor:
    """What diffusers' own scheduler makes of its U-Net's output at time t, of noisy x = y + σn.

    In float64, from ᾱ_t: the same algebra as `step` without clipping, which no float32 blurs.
    """
    alpha_bar = scheduler.alphas_cumprod[t].double()
    scaled = (x.double() * alpha_bar.sqrt()).float()
    F_x = unet(scaled, t, class_labels=labels).sample[:, : x.shape[1]].double()
    noise_scale = (1 - alpha_bar).sqrt()
    match scheduler.config.prediction_type:
        case "epsilon":
            return (scaled - noise_scale * F_x) / alpha_bar.sqrt()
        case "v_prediction":
            return alpha_bar.sqrt() * scaled - noise_scale * F_x
    return F_x


def largest_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())
