"""Tiny networks that were trained: wrong options are told, and copies found as their own sampler
makes them."""

import math
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.openai_unet import UNetModel, make_unet
from torch import Tensor

from memaudit import memorization_ratio
from memaudit.audit.denoising.loss_test import check_denoising
from memaudit.audit.denoising.other_options import other_options_of
from memaudit.data.images import ImageSet, float_to_uint8, uint8_to_float
from memaudit.models.checkpoints import open_checkpoint
from memaudit.models.generate import sample
from memaudit.models.sampler_config import SamplerConfig

pytestmark = pytest.mark.slow

TRAINING, BATCH, LEARNING_RATE = 1300, 16, 3e-3
NUM_SAMPLES, STEPS = 48, 30


def gradients(num_images: int, size: int = 8) -> np.ndarray:
    """Color gradients between random corners, uint8 [N, 3, size, size]."""
    corners = np.random.default_rng(0).uniform(0, 255, (num_images, 3, 2, 2))
    t = np.linspace(0, 1, size)
    rows = corners[:, :, :1] * (1 - t[:, None]) + corners[:, :, 1:] * t[:, None]
    return (rows[..., :1] * (1 - t) + rows[..., 1:] * t).round().astype(np.uint8)


IMAGES = gradients(12)
DATA = ImageSet.from_array(IMAGES, source="train")


def cosine_alpha_bar() -> Tensor:
    def f(s: float) -> float:
        return math.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - f((i + 1) / 1000) / f(i / 1000), 0.999) for i in range(1000)]
    return torch.from_numpy(np.cumprod(1 - np.array(betas))).float()


def noised(y: Tensor, noise: Tensor, objective: str) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, the time that the network is given, and what it must predict."""
    if objective == "flow":
        t = torch.rand(len(y))
        at = t[:, None, None, None]
        return at * y + (1 - at) * noise, t, y - noise
    t = torch.randint(1000, (len(y),))
    alpha_bar = cosine_alpha_bar()[t][:, None, None, None]
    return alpha_bar.sqrt() * y + (1 - alpha_bar).sqrt() * noise, t.float(), noise


def train(objective: str) -> tuple[UNetModel, UNetModel]:
    """A network that learned IMAGES by heart, and its average."""
    model = make_unet(channel_mult=(1,), attention=(0,), num_heads=4).train()
    ema = deepcopy(model)
    y = uint8_to_float(torch.from_numpy(IMAGES))
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(TRAINING):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 50) * (1 - step / TRAINING)
        clean = y[torch.randint(len(y), (BATCH,))]
        x_t, t, target = noised(clean, torch.randn_like(clean), objective)
        loss = (model(x_t, t) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            pairs = list(ema.parameters()), list(model.parameters())
            torch._foreach_lerp_(*pairs, 1 - min(0.99, (1 + step) / (10 + step)))
    return model.eval(), ema.eval()


@pytest.fixture(scope="module")
def noise_model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("noise") / "ema_0.99_001300.pt"
    torch.save(train("epsilon")[1].state_dict(), path)
    return path


def better_options(path: Path, arch: str) -> list[str]:
    """The options under which the network denoises better than under `arch`, the best first."""
    found = other_options_of(open_checkpoint(path, arch=arch), DATA)
    return [option.option for option in found if option.is_better]


RIGHT = "improved-diffusion,img_resolution=8,schedule=cosine"


@pytest.mark.parametrize(
    ("arch", "better"),
    [
        (RIGHT, None),
        (f"{RIGHT},use_new_attention_order=on", "use_new_attention_order=off"),
        (f"{RIGHT},num_heads=1", "num_heads=4"),
        (f"{RIGHT},num_heads=2", "num_heads=4"),
        (f"{RIGHT},target=sample", "target=epsilon"),
        (f"{RIGHT},target=v_prediction", "target=epsilon"),
        (f"{RIGHT},data_range=0..1", "data_range=-1..1"),
        (RIGHT.replace("cosine", "linear"), "schedule=cosine"),
    ],
)
def test_the_right_option_denoises_better_than_a_wrong_one(noise_model, arch, better):
    assert better_options(noise_model, arch)[:1] == ([] if better is None else [better])


def test_a_flow_is_found_to_copy_as_its_own_sampler_does(tmp_path):
    """Euler in t from noise at t = 0, as torchcfm's own scripts may sample, and Heun in sigma."""
    model, ema = train("flow")
    path = tmp_path / "otcfm_weights_step_1300.pt"
    weights = {"net_model": model.state_dict(), "ema_model": ema.state_dict(), "step": TRAINING}
    torch.save(weights, path)
    network = open_checkpoint(path, arch="img_resolution=8,num_heads=4").network
    assert check_denoising(network, DATA).denoises

    noise = torch.randn(NUM_SAMPLES, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    x = noise
    with torch.no_grad():
        for i in range(100):
            x = x + ema(x, torch.full((len(x),), i / 100)) / 100
    theirs = float_to_uint8(x).numpy()
    ours = float_to_uint8(sample(network, noise, config=SamplerConfig(num_steps=STEPS))).numpy()

    found, expected = memorization_ratio(ours, IMAGES), memorization_ratio(theirs, IMAGES)
    assert found.low <= expected.high and expected.low <= found.high
    assert min(found.count, expected.count) > NUM_SAMPLES // 10
