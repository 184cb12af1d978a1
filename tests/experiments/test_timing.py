"""Speeds are those of warm steps, and a forecast is near what then happens."""

import dataclasses
import time
from pathlib import Path

import pytest
import torch
from helpers.tiny_training import TINY, noise_images

from memaudit.experiments import timing
from memaudit.experiments.config import EarlyWarningConfig
from memaudit.experiments.cost import Cost, Throughput
from memaudit.experiments.timing import measure_throughput, time_step
from memaudit.experiments.training_forecast import forecast_training
from memaudit.training.loop import train
from memaudit.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_a_slow_first_call_is_not_the_speed_of_a_gpu(monkeypatch: pytest.MonkeyPatch, kind: str):
    """Loading kernels takes seconds once; a forecast that counted it was 1,700 times too long."""
    monkeypatch.setattr(timing, "LONG_ENOUGH", 0.05)
    waits: list[object] = []
    module = torch.get_device_module(kind)
    monkeypatch.setattr(module, "synchronize", lambda *device: waits.append(device))
    calls = iter([0.2, 0.1, 0.1] + [0.001] * 1000)
    seconds = timing._time_call(lambda: time.sleep(next(calls)), torch.device(kind))
    assert 0.001 <= seconds < 0.02
    assert len(waits) > 3


def test_batches_grow_until_they_are_those_of_the_training(monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    compute = Trainer.compute_gradients

    def noted(self: Trainer) -> None:
        sizes.append(self.config.batch_size)
        compute(self)

    monkeypatch.setattr(Trainer, "compute_gradients", noted)
    step = time_step(dataclasses.replace(TINY, batch_size=40), noise_images(), device="cpu")
    assert list(dict.fromkeys(sizes)) == [1, 4, 16, 40]
    assert step.bytes_per_image > 4 * 16 * 8  # at least one feature map
    assert step.seconds(40) == pytest.approx(40 * step.per_image + step.others)
    assert step.num_weights == sum(
        p.numel() for p in Trainer(noise_images(), TINY, device=CPU).network.parameters()
    )


def test_a_batch_that_does_not_fit_is_left_at_the_one_that_did(monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    compute = Trainer.compute_gradients

    def limited(self: Trainer) -> None:
        sizes.append(self.config.batch_size)
        if self.config.batch_size > 4:
            raise torch.OutOfMemoryError
        compute(self)

    monkeypatch.setattr(Trainer, "compute_gradients", limited)
    time_step(dataclasses.replace(TINY, batch_size=40), noise_images(), device="cpu")
    assert list(dict.fromkeys(sizes)) == [1, 4, 16] and sizes[-1] == 4


def test_a_scan_costs_more_than_its_sampling():
    speed = Throughput(training=10.0, sampling=5.0, scan_seconds=3.0)
    one = Cost(training=20.0, sampling=10.0, num_scans=1)
    assert speed.seconds(one) == 2 + 2 + 3
    assert speed.seconds(one + one) == 14


@pytest.mark.slow  # two processes that import torch
def test_runs_side_by_side_are_measured_side_by_side():
    found = measure_throughput(TINY, noise_images(), device="cpu", parallel=2)
    assert found.training > 0 and found.sampling > 0 and found.scan_seconds > 0


def test_a_training_is_forecast_with_its_audits_and_its_disk(tmp_path: Path):
    config = dataclasses.replace(TINY, duration_images=400, num_snapshots=2)
    options = {"out": tmp_path / "run", "device": "cpu"}
    plain = forecast_training(config, noise_images(), **options)
    audited = forecast_training(
        config, noise_images(), audits=EarlyWarningConfig(every=2, num_samples=2), **options
    )
    assert plain.audit_seconds == 0 < audited.audit_seconds < audited.seconds
    assert plain.num_snapshots == 2
    train(noise_images(), config, out=tmp_path / "run")
    written = sum(path.stat().st_size for path in (tmp_path / "run").glob("*.safetensors"))
    # Files hold configurations besides weights, which this small a network feels.
    assert plain.disk_bytes < written < 1.5 * plain.disk_bytes + 50_000
    done = forecast_training(config, noise_images(), **options)
    assert (done.seconds, done.num_snapshots) == (0, 0)
