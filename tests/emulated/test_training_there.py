"""A training step on the pretended device: what it launches, and that nothing waits for it."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from helpers.pretended_cuda import counted
from helpers.tiny_training import TINY, noise_images

from memaudit.training.trainer import Trainer

pytestmark = pytest.mark.emulated

TWO_LEVELS = dataclasses.replace(TINY, channel_mult=(1, 2), attn_resolutions=(2,))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16"},
        {"optimizer": "sgd"},
        {"augment": 0.5},
        {"conditional": True},
        {"batch_gpu": 2},
        {"precond": "vp", "arch": "ncsnpp"},
    ],
    ids=str,
)
def test_no_step_waits_for_the_device_or_copies_to_it(changes: dict[str, Any]):
    images = noise_images(labels=np.array([0, 1, 2, 0, 1, 2]))
    config = dataclasses.replace(TWO_LEVELS, **changes)
    trainer = Trainer(images, config, device=torch.device("cuda"))
    trainer.step()  # makes the optimizer's state
    with counted() as counts:
        for _ in range(3):
            trainer.step()
    assert counts.synchronizations.total() == 0, counts.synchronizations
    assert counts.to_device.total() == counts.to_host.total() == 0


def test_all_gradients_are_handled_by_a_handful_of_kernels():
    trainer = Trainer(noise_images(), TWO_LEVELS, device=torch.device("cuda"))
    trainer.step()
    with counted() as counts:
        trainer.step()
    assert counts.kernels["nan_to_num"] == 1
    assert counts.kernels["_foreach_add_"] == 2  # gradients, and Adam's numbers of steps
    assert counts.kernels["_foreach_lerp_"] == counts.kernels["_fused_adam_"] == 1


def test_a_step_is_that_of_the_cpu():
    there, here = (
        Trainer(noise_images(), TWO_LEVELS, device=torch.device(name)) for name in ("cuda", "cpu")
    )
    losses = [(there.step().item(), here.step().item()) for _ in range(5)]
    assert losses[-1][0] == pytest.approx(losses[-1][1], rel=1e-6)
    for name, weight in here.average.state_dict().items():
        torch.testing.assert_close(there.average.state_dict()[name].cpu(), weight)
