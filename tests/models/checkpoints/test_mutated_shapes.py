"""Weights of other trainers with tensors changed, moved or missing: opened, or refused."""

import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.dit_network import DiT
from helpers.lucidrains_files import diffusion, unet_weights
from helpers.score_sde_unet import NCSNpp
from helpers.uvit_network import UViT
from torch import Tensor

from memaudit.errors import MemauditError
from memaudit.models.checkpoints import open_checkpoint
from memaudit.models.networks.ddpm import DDPMUNet
from memaudit.models.networks.monai import MONAIUNet

MAX_SECONDS = 30
"""Longest time of a hundred files, on a slow machine that others use too."""
TWO_LEVELS = {"blocks_per_level": [1, 1], "has_attention": [0, 1], "head_channels": [1, 4]}
SCORE_SDE = {"size": 8, "nf": 8, "mult": [1, 2], "num_blocks": 1, "attention": [4]}
FAMILIES: dict[str, tuple[Any, str]] = {
    "ddpm++": (lambda: NCSNpp(**SCORE_SDE), "img_resolution=8"),
    "ncsn++": (
        lambda: NCSNpp(**SCORE_SDE, fourier=True, fir=True, progressive_input="residual"),
        "img_resolution=8",
    ),
    "u-vit": (lambda: UViT(size=8, patch=4, dim=8, depth=2, heads=1, num_classes=3), "num_heads=2"),
    "dit": (lambda: DiT(patch=4, dim=8, depth=1), "dit,num_heads=2"),
    "sit": (lambda: DiT(patch=4, dim=8, depth=1), "sit,num_heads=2"),
    "lucidrains": (lambda: _Stored(diffusion(unet_weights())), "img_resolution=8"),
    "monai": (
        lambda: MONAIUNet(8, 1, 1, channels=[4, 8], norm_num_groups=2, **TWO_LEVELS),
        "img_resolution=8,norm_num_groups=2,num_head_channels=4",
    ),
    "ddpm": (
        lambda: DDPMUNet(
            8, 3, 3, model_channels=32, channel_mult=[1], num_blocks=1, has_attention=[1]
        ),
        "img_resolution=8",
    ),
}


class _Stored:
    """Weights that are no module's."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights

    def state_dict(self) -> dict[str, Tensor]:
        return self.weights


def mutated(chance: random.Random, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with one to three of them changed."""
    weights = dict(weights)
    for _ in range(chance.randint(1, 3)):
        name = chance.choice(list(weights))
        tensor = weights[name]
        kind = chance.randrange(8)
        if kind == 0:
            del weights[name]
        elif kind == 1:
            weights[name.replace("0", "1", 1) if chance.random() < 0.5 else name + ".x"] = tensor
        elif kind == 2:
            weights[name] = tensor.reshape(-1)
        elif kind == 3:
            weights[name] = tensor.T if tensor.ndim == 2 else tensor[None]
        elif kind == 4 and tensor.ndim:
            weights[name] = torch.cat([tensor, tensor])
        elif kind == 5 and tensor.ndim:
            sizes = list(tensor.shape)
            sizes[chance.randrange(len(sizes))] = chance.choice([0, 1, 2, 3, 4, 7, 16, 100])
            weights[name] = torch.zeros(sizes)
        elif kind == 6:
            weights[name] = weights[chance.choice(list(weights))]
        else:
            number = chance.choice([torch.inf, torch.nan, 1e30, 0.0])
            weights[name] = torch.full_like(tensor, number)
    return weights


@pytest.mark.parametrize("files", [5, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_other_tensors_is_opened_or_refused(tmp_path: Path, family: str, files: int):
    torch.manual_seed(0)
    make, arch = FAMILIES[family]
    weights = {name: tensor.detach() for name, tensor in make().state_dict().items()}
    path = tmp_path / "weights.pt"
    torch.save(weights, path)
    open_checkpoint(path, arch=arch)
    started = time.monotonic()
    for seed in range(files):
        torch.save(mutated(random.Random(f"{family} {seed}"), weights), path)
        try:
            network = open_checkpoint(path, arch=arch).network
        except MemauditError as error:
            assert str(path) in str(error) and len(str(error)) < 3000
        else:
            assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert time.monotonic() - started < MAX_SECONDS * max(1, files / 100)
