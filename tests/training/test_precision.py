"""Training in less than float32."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_training import TINY, noise_images

from memaudit.models.checkpoints import open_checkpoint
from memaudit.training.loop import train
from memaudit.training.trainer import Trainer

CONFIG = dataclasses.replace(
    TINY,
    attn_resolutions=(4,),
    optimizer="sgd",  # Adam's first steps are signs of gradients, which rounding may flip
    lr=1e-3,
    duration_images=40,
    num_snapshots=2,
)
CPU = torch.device("cpu")


def gradients(precision: str) -> torch.Tensor:
    """The gradients of the first step, which are SGD's first momentum buffer."""
    config = dataclasses.replace(CONFIG, dropout=0.0, precision=precision)
    trainer = Trainer(noise_images(), config, device=CPU)
    trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 1.0})
    trainer.step()
    buffers = trainer.optimizer.state_dict()["state"].values()
    return torch.cat([state["momentum_buffer"].flatten() for state in buffers])


@pytest.mark.parametrize(("precision", "mantissa_bits"), [("bf16", 8), ("fp16", 11)])
def test_gradients_are_those_of_float32_up_to_rounding(precision: str, mantissa_bits: int):
    exact, rounded = gradients("fp32"), gradients(precision)
    error = ((rounded - exact).norm() / exact.norm()).item()
    assert 2 ** -(mantissa_bits + 3) < error < 2 ** -(mantissa_bits - 4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_resumed_run_is_bitwise_the_whole_one_and_has_float32_weights(
    tmp_path: Path, precision: str
):
    config = dataclasses.replace(CONFIG, precision=precision)
    whole = train(noise_images(), config, out=tmp_path / "whole")
    half = dataclasses.replace(config, duration_images=20, num_snapshots=1)
    train(noise_images(), half, out=tmp_path / "parts")
    resumed = train(noise_images(), config, out=tmp_path / "parts", resume=True)
    a, b = (open_checkpoint(r.model).network.state_dict() for r in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert {t.dtype for t in a.values()} == {torch.float32}


def test_fp16_skips_a_step_that_overflows_and_keeps_its_smaller_scale(tmp_path: Path):
    config = dataclasses.replace(CONFIG, precision="fp16")
    trainer = Trainer(noise_images(), config, device=CPU)
    trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 2.0**120})
    before = [p.clone() for p in trainer.network.parameters()]
    trainer.step()
    assert all(map(torch.equal, before, trainer.network.parameters()))
    assert trainer.scaler.get_scale() == 2.0**119


@pytest.mark.gpu
@pytest.mark.slow  # on the pretended device
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_gpu_trains_at_less_than_float32(tmp_path: Path, precision: str):
    config = dataclasses.replace(CONFIG, precision=precision, duration_images=4 * 200)
    result = train(noise_images(), config, out=tmp_path, device="cuda")
    losses = [entry.loss for entry in result.log]
    assert np.mean(losses[-20:]) < np.mean(losses[:20])
