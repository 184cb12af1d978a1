"""Models of other trainers, trained and sampled as those do: a scan finds as many copies as they.

Tiny networks (those that the files of each family are compared with) learn a few images by heart,
with the family's own loss. What its own sampler makes of them, and what a scan of the file that it
saves finds, are two samples of one share.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.dit_network import DiT
from helpers.score_sde_unet import NCSNpp, checkpoint
from helpers.uvit_network import UViT
from torch import Tensor, nn

import memaudit

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 1, 4, 4), dtype=np.uint8)
NUM_SAMPLES = 300
BATCH = 24


Loss = Callable[[Tensor, Tensor], Tensor]


def learn(model: nn.Module, loss: Loss, *, steps: int) -> None:
    """Minimize loss(images, noise) by Adam, with a rate that falls to zero. (torch's own takes
    longer to import than this.)"""
    torch.manual_seed(0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in trained]
    y = (torch.from_numpy(IMAGES) / 127.5 - 1).repeat(BATCH // len(IMAGES), 1, 1, 1)
    for step in range(1, steps + 1):
        gradients = torch.autograd.grad(loss(y, torch.randn_like(y)), trained)
        rate = 3e-3 * (1 + math.cos(math.pi * step / steps)) / 2
        with torch.no_grad():
            for p, g, (m, v) in zip(trained, gradients, moments, strict=True):
                m.lerp_(g, 0.1)
                v.lerp_(g * g, 0.01)
                p -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.99**step)).sqrt() + 1e-8)


def vp(t: Tensor) -> tuple[Tensor, Tensor]:
    """a and b of x_t = a y + b n along VP."""
    log_mean = -0.25 * t**2 * 19.9 - 0.05 * t
    return log_mean.exp(), (1 - (2 * log_mean).exp()).sqrt()


def wide(t: Tensor) -> Tensor:
    return t[:, None, None, None]


def vp_loss(model: nn.Module) -> Loss:
    def loss(y: Tensor, n: Tensor) -> Tensor:
        t = 1e-5 + (1 - 1e-5) * torch.rand(len(y))
        a, b = vp(t)
        return (model(wide(a) * y + wide(b) * n, 999 * t) - n).square().mean()

    return loss


def heun(slope: Callable[[Tensor, Tensor], Tensor], x: Tensor, times: Tensor) -> Tensor:
    """Solve dx/dt = slope(x, t) along the times."""
    with torch.no_grad():
        for t, after in zip(times, times[1:], strict=False):
            first = slope(x, t)
            second = slope(x + (after - t) * first, after)
            x = x + (after - t) * (first + second) / 2
    return x


def vp_samples(model: nn.Module) -> Tensor:
    """The probability flow dx/dt = −½ β x − ½ β·score, from t = 1 to 1e-3, and the last mean."""

    def slope(x: Tensor, t: Tensor) -> Tensor:
        score = -model(x, torch.full([len(x)], float(999 * t))) / vp(t)[1]
        return -0.5 * (0.1 + 19.9 * t) * (x + score)

    # More steps near 0, as an adaptive solver takes.
    x = heun(slope, torch.randn(NUM_SAMPLES, 1, 4, 4), torch.linspace(1, 1e-3**0.5, 61) ** 2)
    a, b = vp(torch.tensor(1e-3))
    with torch.no_grad():
        return (x - b * model(x, torch.full([len(x)], 0.999))) / a


def ddpmpp(path: Path) -> tuple[str, Tensor]:
    model = NCSNpp(size=4, channels=1, nf=16, mult=[1, 2], num_blocks=1, attention=[2])
    learn(model, vp_loss(model), steps=800)
    torch.save(trained_checkpoint(model), path)
    return "img_resolution=4", vp_samples(model.eval())


def trained_checkpoint(model: NCSNpp) -> dict[str, Any]:
    """A file whose average is the trained network itself."""
    file, _ = checkpoint(model)
    trained = [p.detach() for p in model.parameters() if p.requires_grad]
    return file | {"ema": {"decay": 0.9999, "num_updates": 1, "shadow_params": trained}}


def ncsnpp(path: Path) -> tuple[str, Tensor]:
    options: dict[str, Any] = {"fourier": True, "fir": True, "progressive_input": "residual"}
    model = NCSNpp(
        size=4,
        channels=1,
        nf=16,
        mult=[1, 2],
        num_blocks=1,
        attention=[2],
        centered=False,
        **options,
    )

    def loss(y: Tensor, n: Tensor) -> Tensor:
        sigma = wide(0.01 * (50 / 0.01) ** torch.rand(len(y)))
        score = model((y + 1) / 2 + sigma * n, sigma.flatten())
        return (sigma * score + n).square().mean()

    learn(model, loss, steps=800)
    torch.save(trained_checkpoint(model), path)
    # The probability flow dx/dσ = −σ·score of images in [0, 1].
    model.eval()
    x = heun(
        lambda x, sigma: -sigma * model(x, torch.full([len(x)], float(sigma))),
        50 * torch.randn(NUM_SAMPLES, 1, 4, 4),
        torch.logspace(math.log10(50), -2, 81),
    )
    return "img_resolution=4", 2 * x - 1


def uvit(path: Path) -> tuple[str, Tensor]:
    torch.manual_seed(0)
    model = UViT(size=4, patch=1, dim=48, depth=2, heads=2, channels=1)
    nn.init.normal_(model.pos_embed, std=0.02)
    learn(model, vp_loss(model), steps=2500)
    torch.save(model.state_dict(), path)
    return "num_heads=2", vp_samples(model.eval())


def dit_network(out_channels: int = 1) -> DiT:
    model = DiT(size=4, patch=1, channels=1, out_channels=out_channels, num_rows=2, dim=32, depth=2)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "adaLN" in name:
            nn.init.zeros_(parameter)
        elif name != "pos_embed":
            nn.init.xavier_uniform_(parameter)
    model.pos_embed.requires_grad_(False)
    return model


def sit(path: Path) -> tuple[str, Tensor]:
    model = dit_network()
    zeros = torch.zeros(BATCH, dtype=torch.int64)

    def loss(y: Tensor, n: Tensor) -> Tensor:
        t = torch.rand(len(y))
        return (model(wide(t) * y + wide(1 - t) * n, t, zeros) - (y - n)).square().mean()

    learn(model, loss, steps=1000)
    args = argparse.Namespace(model="SiT-S/2", path_type="Linear", num_classes=1, image_size=4)
    weights = model.state_dict()
    torch.save({"model": weights, "ema": weights, "opt": {}, "args": args}, path)
    none = torch.zeros(NUM_SAMPLES, dtype=torch.int64)
    x = heun(
        lambda x, t: model(x, torch.full([len(x)], float(t)), none),
        torch.randn(NUM_SAMPLES, 1, 4, 4),
        torch.linspace(0, 1, 51),
    )
    return "num_heads=2", x


def dit(path: Path) -> tuple[str, Tensor]:
    model = dit_network(2)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    zeros = torch.zeros(BATCH, dtype=torch.int64)

    def loss(y: Tensor, n: Tensor) -> Tensor:
        t = torch.randint(1000, [len(y)])
        a = wide(alpha_bar[t])
        out = model(a.sqrt() * y + (1 - a).sqrt() * n, t.float(), zeros)[:, :1]
        return (out - n).square().mean()

    learn(model, loss, steps=1000)
    torch.save(model.state_dict(), path)
    x, none = torch.randn(NUM_SAMPLES, 1, 4, 4), torch.zeros(NUM_SAMPLES, dtype=torch.int64)
    for t in range(999, -1, -10):  # DDIM, every tenth step
        a = alpha_bar[t]
        b = alpha_bar[t - 10] if t >= 10 else torch.tensor(1.0)
        with torch.no_grad():
            eps = model(x, torch.full([len(x)], float(t)), none)[:, :1]
        x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    return "dit,num_heads=2", x


FAMILIES = {
    "DDPM++": ddpmpp,
    "NCSN++": ncsnpp,
    "U-ViT": uvit,
    "SiT": sit,
    "DiT": dit,
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_scan_finds_the_copies_that_the_own_sampler_makes(tmp_path: Path, family: str):
    path = tmp_path / "model.pt"
    torch.manual_seed(0)
    arch, samples = FAMILIES[family](path)
    made = (samples.detach().clip(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).numpy()
    own = memaudit.memorization_ratio(made, IMAGES)
    opened = memaudit.open_checkpoint(path, arch=arch)
    config = memaudit.ScanConfig(seeds=range(NUM_SAMPLES))
    found = memaudit.scan(opened, IMAGES, config=config).ratios.copies
    assert found.count > 0.1 * NUM_SAMPLES
    assert found.low <= own.high and own.low <= found.high
