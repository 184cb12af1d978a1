"""A training step on the pretended device: what it launches, and that nothing waits for it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.pretended_cuda import counted
from helpers.tiny_training import TINY, noise_images

from memaudit.models.precond.edm import EDMPrecond
from memaudit.training import trainer as trainer_module
from memaudit.training.acceleration import StepSpeed
from memaudit.training.loop import train
from memaudit.training.trainer import Trainer
from memaudit.training.training_log import DeviceEntry, read_log

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


def test_a_batch_that_does_not_fit_is_computed_in_rounds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    forward = EDMPrecond.forward

    def limited(self: EDMPrecond, x: torch.Tensor, *others: Any, **more: Any) -> torch.Tensor:
        if len(x) > 2 and self.training:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x, *others, **more)

    config = dataclasses.replace(TINY, dropout=0.0, duration_images=8, num_snapshots=1)
    asked = dataclasses.replace(config, batch_gpu=2)
    expected = train(noise_images(), asked, out=tmp_path / "asked", device="cuda")
    monkeypatch.setattr(EDMPrecond, "forward", limited)
    found = train(noise_images(), config, out=tmp_path / "found", device="cuda")
    assert [e.loss for e in found.log] == [e.loss for e in expected.log]
    first, *_ = read_log(tmp_path / "found" / "log.jsonl")
    assert isinstance(first, DeviceEntry) and first.batch_gpu == 2


def test_a_round_ruled_by_launches_becomes_one_graph(monkeypatch: pytest.MonkeyPatch):
    def record(call: Callable[[], None]) -> Callable[[], None]:
        call()
        return call

    monkeypatch.setattr(trainer_module, "record_graph", record)
    monkeypatch.setattr(trainer_module, "time_steps", lambda *_: StepSpeed(queued=1.0, done=1.0))
    trainer = Trainer(noise_images(), TINY, device=torch.device("cuda"))
    assert trainer.accelerate().graph
    plain = Trainer(noise_images(), TINY, device=torch.device("cuda"))
    for _ in range(3):
        assert trainer.step().item() == plain.step().item()
    with counted() as counts:
        trainer.step()
    assert counts.synchronizations.total() == 0
