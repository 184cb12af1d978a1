"""How many images at a time, compiled, or as a graph."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from helpers.tiny_training import TINY, noise_images

from memaudit.errors import ConfigError
from memaudit.training.acceleration import (
    GraphedRound,
    StepSpeed,
    compiling_pays,
    find_batch_gpu,
    norms_keep_channels_last,
)
from memaudit.training.config import TrainingConfig
from memaudit.training.trainer import Acceleration, Trainer

CPU = torch.device("cpu")


def try_up_to(largest: int, tried: list[int]) -> Callable[[int], None]:
    def try_round(num_images: int) -> None:
        tried.append(num_images)
        if num_images > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return try_round


@pytest.mark.parametrize(
    ("share", "fits", "expected"),
    [(512, 512, [512]), (512, 100, [512, 256, 128, 64]), (12, 4, [12, 6, 3]), (7, 6, [7, 1])],
)
def test_a_batch_is_halved_until_it_fits(share: int, fits: int, expected: list[int]):
    tried: list[int] = []
    assert find_batch_gpu(try_up_to(fits, tried), share) == expected[-1]
    assert tried == expected
    assert all(share % number == 0 for number in tried)


def test_a_network_too_large_for_one_image_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        find_batch_gpu(try_up_to(0, []), 4)


def test_only_long_runs_are_compiled():
    assert not compiling_pays(0.1, 1_000, "fp32")
    assert compiling_pays(0.1, 20_000, "fp32")
    assert compiling_pays(0.1, 5_000, "bf16")


def test_launches_rule_where_queueing_takes_most_of_a_step():
    assert StepSpeed(queued=0.9, done=1.0).launches_rule
    assert not StepSpeed(queued=0.5, done=1.0).launches_rule


def test_a_cpu_computes_as_configured_and_tries_nothing(monkeypatch: pytest.MonkeyPatch):
    trainer = Trainer(noise_images(), dataclasses.replace(TINY, batch_gpu=2), device=CPU)
    monkeypatch.setattr(trainer, "compute_gradients", lambda: pytest.fail("a step was tried"))
    assert trainer.accelerate() == Acceleration(batch_gpu=2)
    assert isinstance(norms_keep_channels_last(CPU), bool)


class Recorder:
    """In place of CUDA: a graph computes again what it recorded, from where it recorded it."""

    num_recorded = num_replayed = 0

    def record(self, call: Callable[[], None]) -> Callable[[], None]:
        self.num_recorded += 1
        call()  # as warming up does
        return lambda: self.replay(call)

    def replay(self, call: Callable[[], None]) -> None:
        self.num_replayed += 1
        call()


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        dataclasses.replace(TINY, batch_gpu=2, dropout=0.5),
        dataclasses.replace(TINY, augment=0.5, precision="bf16"),
    ],
    ids=["whole", "rounds", "augmented"],
)
def test_a_graphed_round_takes_the_steps_of_a_plain_one(config: TrainingConfig):
    plain, graphed = (Trainer(noise_images(), config, device=CPU) for _ in range(2))
    recorder = Recorder()
    graphed._compute_round = GraphedRound(graphed._forward_backward, recorder.record)
    graphed.compute_gradients()  # records, and leaves gradients that the next step clears
    for _ in range(4):
        assert torch.equal(plain.step(), graphed.step())
    assert all(map(torch.equal, plain.weights, graphed.weights))
    rounds = 1 if config.batch_gpu is None else 2
    assert (recorder.num_recorded, recorder.num_replayed) == (1, 5 * rounds)


def test_a_compiler_that_fails_is_an_error_only_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
):
    def broken(self: torch.nn.Module, **options: object) -> None:
        self._compiled_call_impl = lambda *args, **kwargs: 1 / 0

    monkeypatch.setattr(torch.nn.Module, "compile", broken)
    asked = Trainer(noise_images(), dataclasses.replace(TINY, compile="on"), device=CPU)
    with pytest.raises(ConfigError, match="cannot be compiled here.*ZeroDivisionError"):
        asked.accelerate()
    automatic = Trainer(noise_images(), TINY, device=CPU)
    assert not automatic._compile()
    automatic.step()


@pytest.mark.slow  # the compiler takes half a minute
def test_a_compiled_network_trains_alike_up_to_rounding():
    config = dataclasses.replace(TINY, dropout=0.0, optimizer="sgd", lr=1e-3)
    plain = Trainer(noise_images(), config, device=CPU)
    compiled = Trainer(noise_images(), dataclasses.replace(config, compile="on"), device=CPU)
    assert compiled.accelerate().compiled
    for _ in range(5):
        assert compiled.step().item() == pytest.approx(plain.step().item(), rel=1e-4)
    torch.testing.assert_close(compiled.weights, plain.weights, rtol=1e-4, atol=1e-6)
