"""Files as denoising-diffusion-pytorch writes them, of a tiny network of ours and its formulas."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.formula_weights import formula_tensor
from memaudit.models.networks.lucidrains import LucidrainsUNet

SIZE: dict[str, Any] = {
    **{"model_channels": 4, "init_channels": 4, "channel_mult": [1, 2], "full_attn": [0, 1]},
    **{"attn_heads": [1, 2], "attn_dim_head": [3, 4]},
}


def unet_weights(*, channels: int = 3, returned: int = 3, seed: int = 1, **size: Any) -> dict:
    """Weights of a tiny Unet by the package's names, each a formula of its name."""
    network = LucidrainsUNet(8, channels, returned, **{**SIZE, **size})
    return {
        name: formula_tensor(name, tensor.shape, seed)
        for name, tensor in network.state_dict().items()
    }


def buffers(
    objective: str = "pred_v",
    *,
    schedule: str = "sigmoid",
    num_steps: int = 100,
    gamma: float = torch.inf,
) -> dict[str, Tensor]:
    """GaussianDiffusion's buffers that say what the network predicts, and at which noise levels."""
    s = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    if schedule == "linear":
        scale = 1000 / num_steps
        betas = torch.linspace(scale * 1e-4, scale * 0.02, num_steps, dtype=torch.float64)
    elif schedule == "cosine":
        alpha_bar = torch.cos((s + 0.008) / 1.008 * torch.pi / 2) ** 2
        betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clip(0, 0.999)
    else:
        alpha_bar = torch.tensor(3.0).sigmoid().double() - (6 * s - 3).sigmoid()
        betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clip(0, 0.999)
    alpha_bar = (1 - betas).cumprod(0)
    snr = alpha_bar / (1 - alpha_bar)
    clipped = snr.clip(max=gamma)
    weights = {"pred_noise": clipped / snr, "pred_x0": clipped, "pred_v": clipped / (snr + 1)}
    values = {
        "betas": betas,
        "alphas_cumprod": alpha_bar,
        "sqrt_recipm1_alphas_cumprod": (1 / alpha_bar - 1).sqrt(),
        "loss_weight": weights[objective],
    }
    return {name: value.float() for name, value in values.items()}


def diffusion(unet: dict[str, Tensor], **schedule: Any) -> dict[str, Tensor]:
    """GaussianDiffusion's state dict."""
    return buffers(**schedule) | {f"model.{name}": tensor for name, tensor in unet.items()}


def save_trainer(
    path: Path, average: dict[str, Tensor], online: dict[str, Tensor], *, initted: bool = True
) -> None:
    """A file of the Trainer, from the state dicts of two GaussianDiffusions."""
    ema = {"initted": torch.tensor([initted]), "step": torch.tensor([700])}
    for prefix, state in (("online_model.", online), ("ema_model.", average)):
        ema |= {prefix + name: tensor for name, tensor in state.items()}
    optimizer = {"state": {0: {"step": torch.tensor(700.0)}}, "param_groups": [{"lr": 1e-4}]}
    whole = {"step": 700, "model": online, "opt": optimizer, "ema": ema, "scaler": None}
    torch.save(whole | {"version": "2.3.4"}, path)
