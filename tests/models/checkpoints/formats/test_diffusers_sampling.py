"""A model that diffusers trained copies as much by our sampler as by diffusers' own."""

import numpy as np
import pytest
import torch
from helpers.diffusers_models import save_pipeline
from torch import Tensor

from memaudit import memorization_ratio
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.data.images import float_to_uint8
from memaudit.models.checkpoints import open_checkpoint
from memaudit.models.generate import sample
from memaudit.models.sampler_config import SamplerConfig

diffusers = pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
NUM_IMAGES, NUM_SAMPLES, STEPS = 4, 48, 30
TRAINING = 500
SCHEDULERS = {
    "noise levels": lambda: diffusers.DDIMScheduler(
        prediction_type="v_prediction", timestep_spacing="trailing"
    ),
    "flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
}


def train(unet: torch.nn.Module, scheduler, images: Tensor) -> None:
    """As diffusers' own examples do: mean squared error at uniform times."""
    optimizer = torch.optim.Adam(unet.parameters(), lr=4e-3)
    for step in range(TRAINING):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, 2 * (1 - step / TRAINING))
        index = torch.randint(NUM_IMAGES, [32])
        y, noise = images[index], torch.randn(32, *images.shape[1:])
        if "Flow" in type(scheduler).__name__:
            t = torch.rand(32)
            x_t = torch.lerp(y, noise, t[:, None, None, None])
            target, time = noise - y, 1000 * t
        else:
            time = torch.randint(1000, [32])
            x_t = scheduler.add_noise(y, noise, time)
            target = scheduler.get_velocity(y, noise, time)
        loss = (unet(x_t, time, class_labels=index % 2).sample - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def sample_as_diffusers(unet, scheduler, noise: Tensor, classes: Tensor) -> Tensor:
    scheduler.set_timesteps(STEPS)
    x = noise
    for time in scheduler.timesteps:
        x = scheduler.step(unet(x, time, class_labels=classes).sample, time, x).prev_sample
    return x


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_our_sampler_finds_the_copies_that_diffusers_makes(tmp_path, name):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        num_class_embeds=2,
    )
    images = torch.rand(NUM_IMAGES, 1, 8, 8).round() * 1.6 - 0.8
    scheduler = SCHEDULERS[name]()
    train(unet, scheduler, images)
    unet.eval()
    network = open_checkpoint(save_pipeline(tmp_path, unet, scheduler)).network

    noise, classes = torch.randn(NUM_SAMPLES, 1, 8, 8), torch.arange(NUM_SAMPLES) % 2
    theirs = float_to_uint8(sample_as_diffusers(unet, scheduler, noise, classes)).numpy()
    ours = float_to_uint8(
        sample(network, noise, torch.eye(2)[classes], config=SamplerConfig(num_steps=STEPS))
    ).numpy()

    known = float_to_uint8(images).numpy()
    found, expected = memorization_ratio(ours, known), memorization_ratio(theirs, known)
    assert found.low <= expected.high and expected.low <= found.high
    assert min(found.count, expected.count) > NUM_SAMPLES // 2
    # The same noise leads to the same training image, of the class that was asked for.
    index = NeighborIndex(known)
    nearest = [index.nearest(each, k=2).index[:, 0] for each in (ours, theirs)]
    assert np.mean(nearest[0] == nearest[1]) > 0.8
    assert np.mean(nearest[0] % 2 == classes.numpy()) > 0.9
