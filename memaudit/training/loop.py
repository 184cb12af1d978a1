"""A training run: its steps, and the files and progress reports between them."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from memaudit import __version__
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError
from memaudit.models.arithmetic import fp32_products
from memaudit.models.checkpoints import save_checkpoint
from memaudit.models.memory import give_memory_back
from memaudit.progress import Progress, silent
from memaudit.training.config import TrainingConfig
from memaudit.training.distributed import (
    check_group,
    check_same_weights,
    current_ranks,
    largest_over_ranks,
    wait_for_ranks,
)
from memaudit.training.interrupts import defer_interrupt
from memaudit.training.run_folder import RunFolder, Snapshot
from memaudit.training.tensorboard import import_summary_writer, open_event_file
from memaudit.training.trainer import Trainer
from memaudit.training.training_log import AuditEntry, LogEntry, TrainingLog
from memaudit.training.training_state import load_state, save_state

STOP_WITHIN = 5.0
"""Seconds in which ranks notice that one of them was asked to stop: a fraction of the 30 seconds
that schedulers give between SIGTERM and SIGKILL, which the last snapshot needs as well."""
MOST_STEPS = 10
"""Steps between two such questions, each of which makes all ranks wait for the slowest."""
LOG_ENTRIES = 100
"""Log entries in a whole run. Not more, because each waits for the device to read the loss."""
PROGRESS_EVERY = 0.2
"""Seconds between two progress reports."""


OnSnapshot = Callable[[Path, int], AuditEntry | None]
"""Takes the path of a snapshot and the images seen until it; may return an entry for the log."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training run produced."""

    model: Path
    """The last snapshot under a name that does not change, `model.safetensors`."""
    snapshots: tuple[Snapshot, ...]
    """All snapshots of the run, including those of earlier parts, oldest first."""
    images_seen: int
    """Images seen by the last step, repetitions included."""
    seconds: float
    """Time spent training, including earlier parts."""
    log: tuple[LogEntry, ...]
    """Loss and learning rate over the run, as in `log.jsonl`."""
    audits: tuple[AuditEntry, ...]
    """What `on_snapshot` found, as in `log.jsonl`."""
    interrupted: bool
    """Whether Ctrl-C ended the run before its budget did."""


def train(
    images: ImageSet,
    config: TrainingConfig | None = None,
    *,
    out: str | Path,
    device: str | torch.device = "cpu",
    resume: bool = False,
    progress: Progress = silent,
    on_snapshot: OnSnapshot | None = None,
    tensorboard: bool = False,
) -> TrainingResult:
    """Train a denoiser on a CPU, a GPU, or several GPUs.

    If torch.distributed is initialized, its ranks train together (`training.distributed`).

    Writes into `out`: `snapshot-<images seen>.safetensors` on the configuration's schedule, and
    `model.safetensors`, the last of them, both with the averaged weights;
    `training-state.safetensors`, from which a run is resumed, also every `save_minutes`;
    `log.jsonl`. Ctrl-C and SIGTERM let the step at hand end, then write a snapshot and the state.

    On a CPU the weights depend only on the images, the configuration and the number of threads,
    whether the run was interrupted or not.

    Args:
        images: training images; all of them are put on the device.
        config: network, optimizer, budget, average and snapshots; by default the paper's base
            setup.
        out: folder of the run, created if missing.
        device: `cpu` or `cuda`.
        resume: continue from the state in `out`, if there is one.
        progress: called with the images seen and the loss.
        on_snapshot: called with path and images seen of each snapshot on the schedule, once
            everything is written; what it returns goes into the log (`experiments.early_warning`
            audits).
        tensorboard: also write the log for TensorBoard, into `tensorboard` in `out`.

    Raises:
        ConfigError: the options do not fit the images or the device; the folder holds another run
            or cannot be written; the loss is no longer finite; TensorBoard is not installed.
        DataError: the images cannot be trained on.
        CheckpointError: the training state cannot be read.
    """
    config = config or TrainingConfig()
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"Training on {device} was asked for, but torch finds no GPU. Use {{device}} cpu.",
            field="device",
        )
    check_group(device)
    if tensorboard:
        import_summary_writer()  # to fail before anything is written

    try:
        return _train(images, config, Path(out), device, resume, progress, on_snapshot, tensorboard)
    finally:
        give_memory_back(device)


def _train(
    images: ImageSet,
    config: TrainingConfig,
    out: Path,
    device: torch.device,
    resume: bool,
    progress: Progress,
    on_snapshot: OnSnapshot | None,
    tensorboard: bool,
) -> TrainingResult:
    # Steps seed torch's generators, which are restored for the caller afterwards.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        trainer = Trainer(images, config, device=device)
        folder = RunFolder(out)
        folder.prepare(resume=resume)
        if folder.state.exists():
            load_state(folder.state, trainer, images)
        writes = current_ranks().rank == 0
        if not writes:
            progress, on_snapshot = silent, None
        events = (
            open_event_file(folder.tensorboard, images_seen=trainer.images_seen)
            if tensorboard and writes
            else nullcontext()
        )
        with fp32_products(config.tf32), events as on_entry:
            log = TrainingLog(folder.log, trainer, write=writes, on_entry=on_entry)
            _run(trainer, images, folder, log, progress, on_snapshot)

    return TrainingResult(
        model=folder.model,
        snapshots=tuple(s for s in folder.snapshots() if s.images_seen <= trainer.images_seen),
        images_seen=trainer.images_seen,
        seconds=log.seconds,
        log=tuple(log.steps),
        audits=tuple(log.audits),
        interrupted=trainer.images_seen < trainer.schedule.duration_images,
    )


def _run(
    trainer: Trainer,
    images: ImageSet,
    folder: RunFolder,
    log: TrainingLog,
    progress: Progress,
    on_snapshot: OnSnapshot | None,
) -> None:
    """Take the steps that are left."""
    schedule = trainer.schedule
    log_every = max(1, schedule.num_steps // LOG_ENTRIES)
    shown = float("-inf")
    saved = time.monotonic()
    writes = current_ranks().rank == 0

    if trainer.images_seen < schedule.duration_images:
        before, chosen = trainer.acceleration, trainer.accelerate()
        if chosen != before:
            log.write_acceleration(chosen)
        log.start_clock()
    with defer_interrupt() as interrupt:
        stops = _Stops()
        while trainer.images_seen < schedule.duration_images and not stops.now(interrupt.requested):
            log.add(trainer.step())
            is_snapshot = schedule.is_snapshot(trainer.images_seen)
            if is_snapshot or trainer.num_steps % log_every == 0:
                log.write_steps()
            if is_snapshot:
                check_same_weights(trainer.weights, trainer.images_seen)
                path = _write_snapshot(trainer, images, folder)
                try:
                    found = on_snapshot(path, trainer.images_seen) if on_snapshot else None
                except KeyboardInterrupt:
                    if interrupt.requested:
                        raise
                    interrupt.requested, found = True, None
                if found is not None:
                    log.write(found)
                wait_for_ranks()
                saved = time.monotonic()
                log.start_clock()
            elif writes and time.monotonic() - saved >= 60 * trainer.config.save_minutes:
                log.write_steps()
                save_state(folder.state, trainer, images)
                saved = time.monotonic()
                log.start_clock()
            if time.monotonic() - shown >= PROGRESS_EVERY:
                _show(progress, trainer, log)
                shown = time.monotonic()

    if trainer.images_seen < schedule.duration_images:
        log.write_steps()
        _write_snapshot(trainer, images, folder)
    wait_for_ranks()  # until the files are complete
    _show(progress, trainer, log)


class _Stops:
    """Whether any rank was asked to stop, asked often enough but not in every step."""

    def __init__(self) -> None:
        self._left = 0
        self._several = current_ranks().num_ranks > 1
        self._last = time.monotonic()
        self._steps = 0

    def now(self, requested: bool) -> bool:
        """Answer before a step; every rank asks before each."""
        if not self._several:
            return requested
        if self._left > 0:
            self._left -= 1
            return False
        seconds = (time.monotonic() - self._last) / max(1, self._steps) + 1e-9
        stop, slowest = largest_over_ranks(float(requested), seconds)
        # All ranks know the slowest, so that they meet at the same step.
        known = self._steps > 0
        self._steps = max(1, min(MOST_STEPS, int(STOP_WITHIN / slowest))) if known else 1
        self._left = self._steps - 1
        self._last = time.monotonic()
        return stop > 0


def _show(progress: Progress, trainer: Trainer, log: TrainingLog) -> None:
    total = trainer.schedule.num_steps * trainer.config.batch_size
    loss = log.steps[-1].loss if log.steps else None
    note = "" if loss is None else f"loss {loss:.4f}"
    progress("Training", trainer.images_seen, total, note)


def _write_snapshot(trainer: Trainer, images: ImageSet, folder: RunFolder) -> Path:
    """Write, on rank 0, the averaged weights under both names and then the state."""
    snapshot = folder.snapshot(trainer.images_seen)
    if current_ranks().rank != 0:
        return snapshot
    provenance = {
        "memaudit_version": __version__,
        "data_source": images.source,
        "data_fingerprint": images.fingerprint,
        "num_images": len(images),
        "images_seen": trainer.images_seen,
        "epochs": trainer.images_seen / len(images),
        "ema_mode": trainer.config.ema_mode,
        "seed": trainer.config.seed,
        "training_config": trainer.config.as_dict(),
    }
    for path in (snapshot, folder.model):
        save_checkpoint(path, trainer.average, trainer.network_config, provenance=provenance)
    save_state(folder.state, trainer, images)
    return snapshot
