"""Training in several processes, started by torchrun, on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_training import noise_images

from memaudit.data.sources import open_images
from memaudit.errors import ConfigError
from memaudit.models.checkpoints import open_checkpoint
from memaudit.training.config import TrainingConfig
from memaudit.training.distributed import Ranks
from memaudit.training.loop import train
from memaudit.training.trainer import _rounds

OPTIONS = {
    "precond": "edm",
    "model_channels": 8,
    "num_blocks": 1,
    "dropout": 0.1,
    "optimizer": "sgd",  # Adam's first steps are signs of gradients, which rounding may flip
    "lr": 1e-3,
    "lr_rampup_epochs": 0,
    "batch_size": 8,
    "batch_gpu": 2,
    "ema_mode": "plain",
    "ema_decay": 0.5,
    "snapshot_images": 40,
}


def torchrun_train(num_ranks: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `memaudit train` in several ranks on this machine."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    command = [sys.executable, *launcher, "-m", "memaudit", "train", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def assert_close_weights(first: Path, second: Path) -> None:
    a, b = (open_checkpoint(path).network.state_dict() for path in (first, second))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow  # three processes that import torch
def test_two_processes_train_what_one_does_and_one_can_resume_their_run(tmp_path: Path):
    data = tmp_path / "images.npz"
    np.savez(data, images=noise_images().images)
    images = open_images(data)
    options = {**OPTIONS, "channel_mult": (1,), "attn_resolutions": (4,)}
    one = train(images, TrainingConfig(**options, duration_images=80), out=tmp_path / "one")

    flags = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    flags += ["--channel-mult=1", "--attn-resolutions=4", "--duration-images=40", "--device=cpu"]
    together = tmp_path / "together"
    done = torchrun_train(2, "--data", data, "--out", together, *flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Trained after 40 images") == 1
    assert_close_weights(together / "model.safetensors", one.snapshots[0].path)

    resumed = train(
        images, TrainingConfig(**options, duration_images=80), out=together, resume=True
    )
    assert_close_weights(resumed.model, one.model)
    for entry, expected in zip(resumed.log, one.log, strict=True):
        assert entry.images_seen == expected.images_seen
        assert entry.loss == pytest.approx(expected.loss, rel=1e-4)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("batch_gpu", [None, 1, 2])
def test_every_image_of_a_batch_is_computed_once(count: int, batch_gpu: int | None):
    config = TrainingConfig(batch_size=8, batch_gpu=batch_gpu)
    parts = [part for rank in range(count) for part in _rounds(config, Ranks(rank, count))]
    assert [image for part in parts for image in range(8)[part]] == list(range(8))
    assert {part.stop - part.start for part in parts} == {batch_gpu or 8 // count}


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ConfigError, match="8 images cannot be shared out evenly among 3"):
        _rounds(TrainingConfig(batch_size=8), Ranks(0, 3))
    with pytest.raises(ConfigError, match="share of 4 images cannot be computed 8 at a time"):
        _rounds(TrainingConfig(batch_size=8, batch_gpu=8), Ranks(0, 2))
