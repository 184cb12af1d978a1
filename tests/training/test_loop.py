"""Training runs, from images to checkpoints."""

import dataclasses
import json
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_training import TINY, noise_images

from memaudit import __version__
from memaudit.data.images import uint8_to_float
from memaudit.errors import CheckpointError, ConfigError, DataError
from memaudit.models.checkpoints import open_checkpoint
from memaudit.training.config import TrainingConfig
from memaudit.training.loop import TrainingResult, train
from memaudit.training.loss import EDMLoss
from memaudit.training.network import configure_network
from memaudit.training.trainer import Trainer


def weights(path: Path) -> dict[str, torch.Tensor]:
    return open_checkpoint(path).network.state_dict()


def assert_same_weights(first: Path, second: Path) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def call_at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    """Run `action` at the end of the step after which `step` steps are done."""
    do_step = Trainer.step

    def wrapped(self: Trainer) -> torch.Tensor:
        loss = do_step(self)
        if self.num_steps == step:
            action()
        return loss

    monkeypatch.setattr(Trainer, "step", wrapped)


@pytest.fixture(autouse=True)
def foreground() -> Iterator[None]:
    """Handle Ctrl-C as at a terminal; a test runner in the background inherits ignoring it."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_training_lowers_the_loss(tmp_path: Path):
    config = dataclasses.replace(TINY, dropout=0.0, duration_images=16 * 150, batch_size=16)
    result = train(noise_images(), config, out=tmp_path)
    losses = [entry.loss for entry in result.log]
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:10])


def test_a_network_trained_on_one_image_denoises_to_it(tmp_path: Path):
    """The optimum of one image is that image at every sigma (EDM, Eq. 57 with N = 1)."""
    images = noise_images(1)
    config = dataclasses.replace(
        TINY, dropout=0.0, lr=1e-2, duration_images=16 * 200, batch_size=16
    )
    network = open_checkpoint(train(images, config, out=tmp_path).model).network
    y = uint8_to_float(torch.tensor(images.images))
    noise = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for sigma in [0.1, 0.5, 2.0]:
        error = (network(y + sigma * noise, torch.tensor(sigma)) - y).square().mean().sqrt()
        assert error < 0.2 * y.std()


def test_a_conditional_network_learns_the_image_of_each_class(tmp_path: Path):
    images = noise_images(2, labels=np.array([0, 1]))
    config = dataclasses.replace(
        TINY, conditional=True, dropout=0.0, lr=1e-2, duration_images=16 * 100, batch_size=16
    )
    network = open_checkpoint(train(images, config, out=tmp_path).model).network
    y = uint8_to_float(torch.tensor(images.images))
    x = 2.0 * torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for label in (0, 1):
        class_labels = torch.eye(2)[label].expand(64, -1)
        denoised = network(x, torch.tensor(2.0), class_labels).mean(0)
        error = (denoised - y).square().mean(dim=(1, 2, 3)).sqrt()
        assert error[label] < 0.5 * error[1 - label]


@pytest.mark.parametrize("precond", ["vp", "ve", "edm"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_every_loss_and_optimizer_trains(tmp_path: Path, precond: str, optimizer: str):
    config = dataclasses.replace(
        TINY, precond=precond, optimizer=optimizer, lr=1e-4, weight_decay=1e-4
    )
    result = train(noise_images(), config, out=tmp_path)
    assert all(entry.num_nonfinite == 0 for entry in result.log)
    assert open_checkpoint(result.model).config["class_name"].lower() == f"{precond}precond"


@pytest.mark.parametrize("arch", ["ncsnpp", "adm"])
def test_every_architecture_trains(tmp_path: Path, arch: str):
    config = dataclasses.replace(TINY, arch=arch, channel_mult=(1, 2), duration_images=12)
    result = train(noise_images(), config, out=tmp_path)
    assert all(entry.num_nonfinite == 0 for entry in result.log)
    assert open_checkpoint(result.model).network.training is False


def test_two_runs_are_bitwise_equal_and_another_seed_is_not(tmp_path: Path):
    first = train(noise_images(), TINY, out=tmp_path / "first")
    torch.manual_seed(99)
    second = train(noise_images(), TINY, out=tmp_path / "second")
    assert_same_weights(first.model, second.model)
    other = train(noise_images(), dataclasses.replace(TINY, seed=7), out=tmp_path / "other")
    a, b = weights(first.model), weights(other.model)
    assert not all(torch.equal(a[name], b[name]) for name in a)


def test_the_callers_random_state_is_left_alone(tmp_path: Path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train(noise_images(), TINY, out=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_snapshots_are_on_the_schedule_and_the_model_is_the_last(tmp_path: Path):
    called: list[tuple[Path, int]] = []

    def note(path: Path, images_seen: int) -> None:
        called.append((path, images_seen))

    result = train(noise_images(), TINY, out=tmp_path, on_snapshot=note)
    assert [snapshot.images_seen for snapshot in result.snapshots] == [20, 40, 60, 80]
    assert called == [(snapshot.path, snapshot.images_seen) for snapshot in result.snapshots]
    assert result.snapshots[0].path.name == "snapshot-0000000020.safetensors"
    assert result.model == tmp_path / "model.safetensors"
    assert_same_weights(result.model, result.snapshots[-1].path)
    assert not result.interrupted


def test_a_snapshot_says_what_it_was_trained_on_and_how(tmp_path: Path):
    images = noise_images()
    result = train(images, TINY, out=tmp_path)
    checkpoint = open_checkpoint(result.snapshots[1].path)
    assert checkpoint.config == configure_network(TINY, images)
    assert checkpoint.provenance == {
        "memaudit_version": __version__,
        "data_source": "noise.npz",
        "data_fingerprint": images.fingerprint,
        "num_images": 6,
        "images_seen": 40,
        "epochs": 40 / 6,
        "ema_mode": "plain",
        "seed": 1024,
        "training_config": TINY.as_dict(),
    }


def test_a_snapshot_holds_the_average_of_the_weights(tmp_path: Path):
    images = noise_images()
    result = train(images, TINY, out=tmp_path)
    trainer = Trainer(images, TINY, device=torch.device("cpu"))
    for _ in range(20):
        trainer.step()
    saved = weights(result.model)
    average, network = trainer.average.state_dict(), trainer.network.state_dict()
    assert all(torch.equal(saved[name], average[name]) for name in saved)
    assert not all(torch.equal(saved[name], network[name]) for name in saved)


def test_the_log_and_progress_tell_how_far_the_run_is(tmp_path: Path):
    told = []
    result = train(noise_images(), TINY, out=tmp_path, progress=lambda *args: told.append(args))
    assert told[-1][:3] == ("Training", 80, 80)
    assert told[-1][3] == f"loss {result.log[-1].loss:.4f}"
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [{"kind": "steps"} | dataclasses.asdict(entry) for entry in result.log]
    assert [line["images_seen"] for line in lines] == list(range(4, 84, 4))
    assert result.images_seen == 80
    assert result.seconds == lines[-1]["seconds"]
    assert all(line["images_per_second"] > 0 for line in lines)


def network_after(num_steps: int, config: TrainingConfig) -> dict[str, torch.Tensor]:
    trainer = Trainer(noise_images(), config, device=torch.device("cpu"))
    for _ in range(num_steps):
        trainer.step()
    return trainer.network.state_dict()


@pytest.mark.parametrize("batch_gpu", [1, 2, 4])
def test_a_batch_in_rounds_makes_the_same_step_as_the_whole(batch_gpu: int):
    # SGD: Adam's first steps are signs of gradients, which rounding may flip.
    whole = dataclasses.replace(TINY, dropout=0.0, optimizer="sgd", lr=1e-3)
    expected = network_after(5, whole)
    actual = network_after(5, dataclasses.replace(whole, batch_gpu=batch_gpu))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_every_round_drops_other_features():
    images = noise_images(1)
    config = dataclasses.replace(TINY, dropout=0.5, batch_size=2, batch_gpu=1)
    trainer = Trainer(images, config, device=torch.device("cpu"))
    drawn = []
    trainer.network.register_forward_hook(lambda *_: drawn.append(torch.rand(3)))
    trainer.step()
    assert not torch.equal(*drawn)


def test_a_batch_that_rounds_do_not_fill_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="share of 4 images cannot be computed 3 at a time"):
        train(noise_images(), dataclasses.replace(TINY, batch_gpu=3), out=tmp_path / "run")


# Interruption and resumption


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return train(noise_images(), TINY, out=tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("step", [1, 9, 15])
def test_a_run_interrupted_and_resumed_is_bitwise_the_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: TrainingResult, step: int
):
    call_at_step(monkeypatch, step, press_ctrl_c)
    first = train(noise_images(), TINY, out=tmp_path)
    assert first.interrupted
    assert first.images_seen == 4 * step
    assert first.snapshots[-1].images_seen == 4 * step
    assert_same_weights(first.model, first.snapshots[-1].path)
    monkeypatch.undo()

    second = train(noise_images(), TINY, out=tmp_path, resume=True)
    assert not second.interrupted
    assert_same_weights(second.model, whole_run.model)
    assert [e.images_seen for e in second.log] == [e.images_seen for e in whole_run.log]
    assert [e.loss for e in second.log] == [e.loss for e in whole_run.log]
    assert second.seconds > first.seconds


def test_a_run_killed_between_snapshots_resumes_from_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: TrainingResult
):
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    call_at_step(monkeypatch, 13, kill)
    with pytest.raises(Killed):
        train(noise_images(), TINY, out=tmp_path)
    monkeypatch.undo()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"images_seen": 5')  # cut off by the kill

    result = train(noise_images(), TINY, out=tmp_path, resume=True)
    assert_same_weights(result.model, whole_run.model)
    assert [e.images_seen for e in result.log] == [e.images_seen for e in whole_run.log]
    assert [s.images_seen for s in result.snapshots] == [20, 40, 60, 80]


def test_a_run_killed_long_after_a_snapshot_loses_only_the_minutes_since_the_last_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    config = dataclasses.replace(TINY, num_snapshots=1, save_minutes=1e-9)
    whole = train(noise_images(), config, out=tmp_path / "whole")
    call_at_step(monkeypatch, 13, kill)
    with pytest.raises(Killed):
        train(noise_images(), config, out=tmp_path / "killed")
    monkeypatch.undo()
    first = None

    def note(task: str, done: int, *others: object) -> None:
        nonlocal first
        first = done if first is None else first

    resumed = train(noise_images(), config, out=tmp_path / "killed", resume=True, progress=note)
    assert first == 4 * 13  # the step after the last copy
    assert_same_weights(resumed.model, whole.model)
    assert [s.images_seen for s in resumed.snapshots] == [80]
    assert [e.loss for e in resumed.log] == [e.loss for e in whole.log]


def test_sigterm_ends_the_step_and_leaves_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: TrainingResult
):
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        call_at_step(monkeypatch, 7, lambda: signal.raise_signal(signal.SIGTERM))
        first = train(noise_images(), TINY, out=tmp_path)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert first.interrupted and first.snapshots[-1].images_seen == 28
    monkeypatch.undo()
    assert_same_weights(
        train(noise_images(), TINY, out=tmp_path, resume=True).model, whole_run.model
    )


@pytest.mark.parametrize("changes", [{"optimizer": "sgd", "lr": 1e-4}, {"batch_gpu": 2}])
def test_other_optimizers_and_rounds_resume_bitwise_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
):
    config = dataclasses.replace(TINY, **changes)
    whole = train(noise_images(), config, out=tmp_path / "whole")
    call_at_step(monkeypatch, 7, press_ctrl_c)
    train(noise_images(), config, out=tmp_path / "parts")
    monkeypatch.undo()
    resumed = train(noise_images(), config, out=tmp_path / "parts", resume=True)
    assert_same_weights(resumed.model, whole.model)


def test_a_state_from_before_an_option_existed_is_resumed(tmp_path: Path):
    first = train(noise_images(), TINY, out=tmp_path)
    state = tmp_path / "training-state.safetensors"
    saved = state.read_bytes()
    assert rb"\"momentum\"" in saved
    state.write_bytes(saved.replace(rb"\"momentum\"", rb"\"momentun\""))
    assert train(noise_images(), TINY, out=tmp_path, resume=True) == first


def test_a_finished_run_can_be_lengthened(tmp_path: Path, whole_run: TrainingResult):
    short = dataclasses.replace(TINY, duration_images=40, num_snapshots=1)
    train(noise_images(), short, out=tmp_path)
    result = train(noise_images(), TINY, out=tmp_path, resume=True)
    assert_same_weights(result.model, whole_run.model)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path):
    first = train(noise_images(), TINY, out=tmp_path)
    second = train(noise_images(), TINY, out=tmp_path, resume=True)
    assert second == first


def test_ctrl_c_in_a_callback_ends_the_run_as_well(tmp_path: Path):
    def interrupt(path: Path, images_seen: int) -> None:
        if images_seen == 40:
            raise KeyboardInterrupt

    result = train(noise_images(), TINY, out=tmp_path, on_snapshot=interrupt)
    assert result.interrupted
    assert result.images_seen == 40


def test_a_background_job_still_ignores_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    call_at_step(monkeypatch, 7, press_ctrl_c)
    assert not train(noise_images(), TINY, out=tmp_path).interrupted


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    handler = signal.getsignal(signal.SIGINT)
    call_at_step(monkeypatch, 7, lambda: (press_ctrl_c(), press_ctrl_c()))
    with pytest.raises(KeyboardInterrupt):
        train(noise_images(), TINY, out=tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not (tmp_path / "snapshot-0000000028.safetensors").exists()


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path):
    train(noise_images(), TINY, out=tmp_path)
    with pytest.raises(ConfigError, match="already holds a training run"):
        train(noise_images(), TINY, out=tmp_path)


def test_a_run_is_not_resumed_with_other_options_or_images(tmp_path: Path):
    train(noise_images(), TINY, out=tmp_path)
    with pytest.raises(ConfigError, match=r"lr = 0\.002 \(now 0\.1\)"):
        train(noise_images(), dataclasses.replace(TINY, lr=0.1), out=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="other images"):
        train(noise_images(seed=1), TINY, out=tmp_path, resume=True)


def test_a_conditional_run_is_not_resumed_with_other_labels(tmp_path: Path):
    config = dataclasses.replace(TINY, conditional=True)
    train(noise_images(labels=np.array([0, 1, 2, 0, 1, 2])), config, out=tmp_path)
    with pytest.raises(ConfigError, match="other labels"):
        train(noise_images(labels=np.array([0, 1, 2, 2, 1, 0])), config, out=tmp_path, resume=True)


def test_a_model_of_another_origin_is_not_overwritten_and_other_files_stay(tmp_path: Path):
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"mine")
    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"model\.safetensors already exists"):
            train(noise_images(), TINY, out=tmp_path, resume=resume)
    assert model.read_bytes() == b"mine"
    model.rename(tmp_path / "notes.txt")
    train(noise_images(), TINY, out=tmp_path)
    assert (tmp_path / "notes.txt").read_bytes() == b"mine"


def test_a_log_of_another_origin_is_not_overwritten(tmp_path: Path):
    (tmp_path / "log.jsonl").write_text('{"level": "info", "message": "mine"}\n')
    with pytest.raises(ConfigError, match=r"log\.jsonl is not the log of a training run"):
        train(noise_images(), TINY, out=tmp_path)
    assert "mine" in (tmp_path / "log.jsonl").read_text()


def test_a_broken_training_state_is_named(tmp_path: Path):
    train(noise_images(), TINY, out=tmp_path)
    (tmp_path / "training-state.safetensors").write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match=r"training-state\.safetensors is not a readable"):
        train(noise_images(), TINY, out=tmp_path, resume=True)


# Failure


def lose_losses(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Make the loss of these steps NaN."""
    at, calls = EDMLoss.at, iter(range(1, 10**6))

    def broken(self: EDMLoss, *args: Any) -> torch.Tensor:
        return at(self, *args) * (math.nan if next(calls) in steps else 1.0)

    monkeypatch.setattr(EDMLoss, "at", broken)


def test_a_step_without_a_finite_loss_is_survived_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lose_losses(monkeypatch, {5, 6})
    result = train(noise_images(), TINY, out=tmp_path)
    assert [e.images_seen for e in result.log if e.num_nonfinite] == [20, 24]
    assert result.log[4].loss is None
    assert all(t.isfinite().all() for t in weights(result.model).values())


def test_a_run_that_diverges_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lose_losses(monkeypatch, set(range(6, 10**4)))
    with pytest.raises(ConfigError, match=r"no longer finite after 60 images.*rate of 0\.002"):
        train(noise_images(), TINY, out=tmp_path)
    assert (tmp_path / "snapshot-0000000020.safetensors").exists()


def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path: Path):
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="must be a multiple of 8"):
        train(noise_images(), dataclasses.replace(TINY, channel_mult=(1, 1, 1, 1)), out=out)
    with pytest.raises(DataError, match="no labels"):
        train(noise_images(), dataclasses.replace(TINY, conditional=True), out=out)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="torch finds no GPU"):
            train(noise_images(), TINY, out=out, device="cuda")
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        train(noise_images(), TINY, out=tmp_path / "file" / "run")


@pytest.mark.gpu
def test_training_on_a_gpu_lowers_the_loss(tmp_path: Path):
    config = dataclasses.replace(TINY, dropout=0.0, duration_images=16 * 150, batch_size=16)
    result = train(noise_images(), config, out=tmp_path, device="cuda")
    losses = [entry.loss for entry in result.log]
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:10])
