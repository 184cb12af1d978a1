"""The log of a run, one JSON object per line: loss and learning rate, and audits of snapshots."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memaudit.errors import ConfigError
from memaudit.files import append, atomic_write
from memaudit.training.trainer import Acceleration, Trainer

DIVERGED_STEPS = 10
"""A run ends after this many consecutive steps, or one whole longer entry, without a finite loss.
"""


@dataclass(frozen=True)
class LogEntry:
    """The steps since the previous entry."""

    images_seen: int
    """Images seen since the beginning of the run."""
    epochs: float
    """images_seen over the number of training images."""
    loss: float | None
    """Mean loss of the steps, per pixel, weighted as in training; None if none was finite."""
    num_nonfinite: int
    """Steps whose loss was not finite; the mean leaves them out."""
    lr: float
    """Learning rate of the next step."""
    ema_beta: float
    """Decay of the average in the next step."""
    images_per_second: float
    """Speed over these steps."""
    seconds: float
    """Time spent training since the beginning, without interruptions and snapshots."""


@dataclass(frozen=True)
class AuditEntry:
    """What an audit of a snapshot found."""

    images_seen: int
    """Images seen until the snapshot."""
    epochs: float
    """images_seen over the number of training images."""
    count: int
    """Generated images that copy a training image."""
    total: int
    """All generated images."""
    ratio: float
    """count / total."""
    low: float
    """Lower end of the interval for the probability behind the ratio."""
    high: float
    """Upper end of it."""
    confidence: float
    """Confidence of the interval, in (0, 1)."""


@dataclass(frozen=True)
class DeviceEntry(Acceleration):
    """How the device computes the steps that follow, where that was found out by trying."""

    images_seen: int = 0
    """Images seen before them."""


Entry = LogEntry | AuditEntry | DeviceEntry

KINDS: Mapping[str, type[Entry]] = {
    "steps": LogEntry,
    "audit": AuditEntry,
    "device": DeviceEntry,
}
"""What a line holds, by its `kind`."""


def read_log(path: Path) -> list[Entry]:
    """Read the entries of a log, except for a last line that a kill cut off.

    Raises:
        ConfigError: the file is not the log of a training run.
    """
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    try:
        return [_entry(**json.loads(line)) for line in lines]
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path} is not the log of a training run; choose another folder, or move it away."
        ) from error


class TrainingLog:
    """Collects losses, and writes each entry to disk as soon as it is made.

    Args:
        path: a file of JSON lines. Entries from an earlier part of the run are kept, except for
            steps that a kill undid.
        trainer: takes the steps that are recorded.
        write: whether to write the file, which only one of several ranks does.
        on_entry: called with each new entry.
    """

    def __init__(
        self,
        path: Path,
        trainer: Trainer,
        *,
        write: bool = True,
        on_entry: Callable[[Entry], None] | None = None,
    ) -> None:
        self.path = path
        self._write = write
        self._on_entry = on_entry
        self.trainer = trainer
        self.entries = [e for e in read_log(path) if e.images_seen <= trainer.images_seen]
        if write:
            with atomic_write(path) as file:
                file.writelines(map(_line, self.entries))
        self._losses: list[Tensor] = []
        self._nonfinite_in_a_row = 0
        self.start_clock()

    def start_clock(self) -> None:
        """Count training time from now on."""
        self._started = time.monotonic()

    def add(self, loss: Tensor) -> None:
        """Add the loss of a step, a scalar tensor on any device."""
        self._losses.append(loss)

    @property
    def seconds(self) -> float:
        """Time spent training up to the last entry."""
        return self.steps[-1].seconds if self.steps else 0.0

    @property
    def steps(self) -> list[LogEntry]:
        """The entries about steps."""
        return [entry for entry in self.entries if isinstance(entry, LogEntry)]

    @property
    def audits(self) -> list[AuditEntry]:
        """The entries about audits."""
        return [entry for entry in self.entries if isinstance(entry, AuditEntry)]

    def write_steps(self) -> None:
        """Write an entry about the steps since the last one, if there were any.

        Raises:
            ConfigError: the loss is no longer finite.
        """
        if not self._losses:
            return
        trainer, losses = self.trainer, torch.stack(self._losses)
        num_nonfinite = int((~losses.isfinite()).sum())  # waits for the device
        elapsed = max(time.monotonic() - self._started, 1e-9)
        entry = LogEntry(
            images_seen=trainer.images_seen,
            epochs=trainer.images_seen / trainer.schedule.num_images,
            loss=_finite_mean(losses),
            num_nonfinite=num_nonfinite,
            lr=trainer.schedule.lr(trainer.images_seen),
            ema_beta=trainer.schedule.ema_beta(trainer.images_seen),
            images_per_second=len(losses) * trainer.config.batch_size / elapsed,
            seconds=self.seconds + elapsed,
        )
        self.write(entry)
        self._losses.clear()
        self.start_clock()

        if num_nonfinite < len(losses):
            self._nonfinite_in_a_row = 0
            return
        self._nonfinite_in_a_row += num_nonfinite
        if self._nonfinite_in_a_row >= DIVERGED_STEPS:
            raise ConfigError(
                f"The loss is no longer finite after {entry.images_seen:,} images: training has "
                f"diverged at a learning rate of {entry.lr:g}. Train again, into another folder, "
                "with a lower {lr} or longer {lr_rampup_epochs}; the snapshots made before are in "
                f"{self.path.parent}.",
                field=("lr", "lr_rampup_epochs"),
            )

    def write_acceleration(self, found: Acceleration) -> None:
        """Write how the device computes the steps to come."""
        self.write(DeviceEntry(**asdict(found), images_seen=self.trainer.images_seen))

    def write(self, entry: Entry) -> None:
        """Append an entry to the log."""

        self.entries.append(entry)
        if self._write:
            append(self.path, _line(entry))
        if self._on_entry is not None:
            self._on_entry(entry)


def _finite_mean(losses: Tensor) -> float | None:
    finite = losses[losses.isfinite()]
    return finite.mean().item() if len(finite) else None


def _entry(kind: str, **fields: Any) -> Entry:
    return KINDS[kind](**fields)


def _line(entry: Entry) -> bytes:
    kind = next(kind for kind, form in KINDS.items() if isinstance(entry, form))
    return json.dumps({"kind": kind, **asdict(entry)}).encode() + b"\n"
