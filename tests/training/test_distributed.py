"""Training in several processes, started by torchrun, on the CPU."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.tiny_training import noise_images

from memaudit.data.sources import open_images
from memaudit.errors import ConfigError
from memaudit.models.checkpoints import open_checkpoint
from memaudit.training import distributed, loop
from memaudit.training.config import TrainingConfig
from memaudit.training.distributed import (
    Ranks,
    check_group,
    check_same_weights,
    first_on_each_machine,
)
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
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


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


def test_a_group_that_cannot_serve_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed, "current_ranks", lambda: Ranks(0, 2))
    for served, device, missing in (
        ("cuda:nccl", "cuda", "cpu"),
        ("cpu:gloo", "cuda", "cuda"),
        ("cuda:nccl", "cpu", "cpu"),
    ):
        monkeypatch.setattr(distributed.dist, "get_backend_config", lambda served=served: served)
        with pytest.raises(ConfigError, match=f"serves no {missing}.*init_process_group"):
            check_group(torch.device(device))
    monkeypatch.setattr(
        distributed.dist, "get_backend_config", lambda: "cpu:gloo,cuda:nccl,xpu:xccl"
    )
    check_group(torch.device("cuda:1"))


def test_a_rank_whose_weights_differ_is_named(monkeypatch: pytest.MonkeyPatch):
    def gather(found: list[torch.Tensor], own: torch.Tensor) -> None:
        for value in found:
            value.copy_(own)
        found[2] += change

    monkeypatch.setattr(distributed, "current_ranks", lambda: Ranks(0, 3))
    monkeypatch.setattr(distributed.dist, "all_gather", gather)
    change = 0
    check_same_weights([torch.ones(3), torch.zeros(2)], 1000)
    change = 1
    with pytest.raises(ConfigError, match=r"After 1,000 images.*rank 2 differs"):
        check_same_weights([torch.ones(3), torch.zeros(2)], 1000)


@pytest.mark.parametrize(
    ("slowest", "expected"), [(0.1, [0, 1, 11, 21]), (2.0, [0, 1, 3, 5]), (60.0, [0, 1, 2, 3])]
)
def test_ranks_ask_each_other_now_and_then_whether_to_stop(
    monkeypatch: pytest.MonkeyPatch, slowest: float, expected: list[int]
):
    now = SimpleNamespace(step=0)
    asked: list[int] = []

    def gathered(stop: float, seconds: float) -> list[float]:
        asked.append(now.step)
        return [stop, max(seconds, slowest)]

    monkeypatch.setattr(loop, "current_ranks", lambda: Ranks(0, 2))
    monkeypatch.setattr(loop, "largest_over_ranks", gathered)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: 0.01 * now.step))
    stops = loop._Stops()
    while now.step < 40:
        assert not stops.now(False)
        now.step += 1
    assert asked[:4] == expected
    while not stops.now(True):
        now.step += 1
    assert now.step < 50


def test_the_first_rank_of_a_machine_reads_the_images_first(monkeypatch: pytest.MonkeyPatch):
    for local_rank, expected in (("0", ["read", "wait"]), ("3", ["wait", "read"])):
        done: list[str] = []
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        monkeypatch.setattr(distributed, "wait_for_ranks", lambda done=done: done.append("wait"))
        with first_on_each_machine():
            done.append("read")
        assert done == expected
