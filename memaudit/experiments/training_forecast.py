"""What a training will take, said before it starts."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from memaudit.data.images import ImageSet
from memaudit.experiments.config import EarlyWarningConfig
from memaudit.experiments.timing import time_scan, time_step
from memaudit.training.acceleration import COMPILED_SHARE, COMPILING_SECONDS, compiling_pays
from memaudit.training.config import TrainingConfig
from memaudit.training.run_folder import RunFolder
from memaudit.training.schedule import Schedule

STATE = 4
"""Numbers per weight in a training state: the weight, its average, Adam's two moments."""
IN_MEMORY = 6
"""The same, the gradient, and its sum over rounds."""


@dataclass(frozen=True)
class TrainingForecast:
    """The time, disk and memory that the rest of a training takes."""

    seconds: float
    """Training and audits."""
    images_per_second: float
    """Speed of the training alone."""
    audit_seconds: float
    """The part of `seconds` that audits of snapshots take."""
    num_snapshots: int
    disk_bytes: int
    """Snapshots, model and training state."""
    free_bytes: int
    """What is free on the disk of the run's folder."""
    memory_bytes: int
    """Weights, training images and what a backward pass keeps, on the device of each process."""


def forecast_training(
    config: TrainingConfig,
    images: ImageSet,
    *,
    out: Path,
    device: str,
    num_ranks: int = 1,
    audits: EarlyWarningConfig | None = None,
) -> TrainingForecast:
    """Time a few steps of a new network, and multiply.

    Args:
        config: the training.
        images: what it trains on.
        out: folder of the run; if one is resumed there, only what is left counts.
        device: `cpu` or `cuda`.
        num_ranks: processes that share out each batch.
        audits: which snapshots are audited.

    Raises:
        ConfigError, DataError: the network does not fit the images, or cannot be built.
    """
    schedule = Schedule(config, len(images))
    snapshots = RunFolder(out).snapshots()
    done = snapshots[-1].images_seen if snapshots else 0
    num_steps = max(0, schedule.num_steps - done // config.batch_size)
    whole = -(-schedule.duration_images // schedule.snapshot_images)
    num_snapshots = max(0, whole - done // schedule.snapshot_images)

    step = time_step(config, images, device=device)
    share = config.batch_size / num_ranks
    of_gradients, compiling = step.per_image * share, 0.0
    may = torch.device(device).type == "cuda" and config.compile == "auto"
    if config.compile == "on" or (
        may and compiling_pays(of_gradients, num_steps, config.precision)
    ):
        of_gradients *= 1 - COMPILED_SHARE[config.precision]
        compiling = COMPILING_SECONDS
    one_step = of_gradients + step.others
    seconds = compiling + num_steps * one_step
    audit_seconds = 0.0
    if audits is not None and audits.every is not None and num_snapshots:
        one = time_scan(config, images, device=device)
        audit_seconds = -(-num_snapshots // audits.every) * (
            one.per_image * audits.num_samples + one.others
        )
    weights = 4 * step.num_weights
    at_a_time = min(config.batch_gpu or share, share)
    return TrainingForecast(
        seconds=seconds + audit_seconds,
        images_per_second=config.batch_size / one_step,
        audit_seconds=audit_seconds,
        num_snapshots=num_snapshots,
        disk_bytes=weights * (num_snapshots + 1 + STATE),
        free_bytes=shutil.disk_usage(_existing(out)).free,
        memory_bytes=round(
            weights * IN_MEMORY
            + step.bytes_per_image * at_a_time
            + images.images.nbytes * (2 if config.xflip else 1)
        ),
    )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())
