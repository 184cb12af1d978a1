"""A training and the scans of its snapshots, in a folder; and several of them side by side.

A folder holds `training/`, the training run, and `scan-<images seen>/`, a report for each snapshot.
Trainings of one setup that differ in their images and seeds, its replicates, are in folders
`replicate-1/`, `replicate-2/` and so on beside each other.
What already exists is read and what was stopped is resumed; the folder ends up the same.
"""

import hashlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import NamedTuple

import torch

from memaudit.audit.config import ScanConfig
from memaudit.audit.report.folder import REPORT, check_output_folder, write_report
from memaudit.audit.report.pictures import shows_no_more
from memaudit.audit.report.schema import read_report
from memaudit.audit.scan import scan
from memaudit.audit.statistics.intervals import Proportion
from memaudit.data.images import ImageSet
from memaudit.experiments.config import RunConfig
from memaudit.experiments.snapshots import (
    SnapshotRatio,
    highest_ratio,
    make_snapshot,
    read_snapshot,
)
from memaudit.models.checkpoints import open_checkpoint
from memaudit.models.execution import Execution
from memaudit.progress import Progress, add_suffix, silent
from memaudit.training.config import TrainingConfig
from memaudit.training.loop import TrainingResult, train
from memaudit.training.run_folder import Snapshot
from memaudit.training.schedule import Schedule
from memaudit.wording import ranges

PARENT_CHECK_SECONDS = 0.5


@dataclass(frozen=True)
class RunPlan:
    """A training and scans that are to be done."""

    images: ImageSet
    training: TrainingConfig
    out: Path
    """Folder of the run."""
    replicate: int = 1
    """Which of several trainings of its setup this is, from 1."""


def replicate_folder(setup: Path, replicate: int) -> Path:
    """Return the folder of a run, in the folder of its setup."""
    return setup / f"replicate-{replicate}"


@dataclass(frozen=True)
class RunResult:
    """What a training and the scans of its snapshots found."""

    num_images: int
    """Number of training images |D|."""
    replicate: int
    """Which of several trainings of its setup this is, from 1."""
    snapshots: tuple[SnapshotRatio, ...]
    """Ratios in the order of training."""
    training_seconds: float
    scan_seconds: float

    @property
    def highest(self) -> Proportion:
        """The ratio of the snapshot that copies most; see `highest_ratio`."""
        return highest_ratio(self.snapshots)

    @property
    def last(self) -> Proportion:
        """The last snapshot's ratio."""
        return self.snapshots[-1].ratio

    @property
    def images_seen(self) -> int:
        """Images seen in training until the last snapshot."""
        return self.snapshots[-1].images_seen


class _Scan(NamedTuple):
    snapshot: SnapshotRatio
    seconds: float


def train_and_scan(plan: RunPlan, config: RunConfig, *, progress: Progress = silent) -> RunResult:
    """Train, and scan every snapshot on the schedule; read what is already done.

    Args:
        plan: what to train on what, and where to write.
        config: images per scan, and device.
        progress: called with the progress of each step.

    Raises:
        ConfigError, DataError: as in `train` and `scan`; the folder holds another run.
        KeyboardInterrupt: Ctrl-C was pressed; the same call resumes the run.
    """
    trained = train_to_end(
        plan.images,
        plan.training,
        out=plan.out / "training",
        device=config.device,
        progress=progress,
    )
    # A run that was stopped by Ctrl-C has one more snapshot, off the schedule.
    schedule = Schedule(plan.training, len(plan.images))
    snapshots = [s for s in trained.snapshots if schedule.is_snapshot(s.images_seen)]
    scans = [_scan_snapshot(plan, snapshot, config, progress) for snapshot in snapshots]
    return RunResult(
        num_images=len(plan.images),
        replicate=plan.replicate,
        snapshots=tuple(scanned.snapshot for scanned in scans),
        training_seconds=trained.seconds,
        scan_seconds=sum(scanned.seconds for scanned in scans),
    )


def train_to_end(
    images: ImageSet, config: TrainingConfig, *, out: Path, device: str, progress: Progress
) -> TrainingResult:
    """Train, or resume a training, and return only when its budget is spent.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the training.
    """
    trained = train(images, config, out=out, device=device, resume=True, progress=progress)
    if trained.interrupted:
        raise KeyboardInterrupt
    return trained


def _scan_snapshot(
    plan: RunPlan, snapshot: Snapshot, config: RunConfig, progress: Progress
) -> _Scan:
    """Scan a snapshot, or read its report if that has as many images and shows no more of them."""
    folder = plan.out / f"scan-{snapshot.images_seen:010d}"
    seeds = range(config.num_samples)
    if (folder / REPORT).is_file():
        report = read_report(folder)
        with snapshot.path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        sampled = None if report.sampling is None else report.sampling.seeds
        same = report.source.sha256 == sha256 and sampled == ranges(seeds)
        if same and shows_no_more(report.pictures, config.pictures):
            return _Scan(read_snapshot(folder, snapshot.images_seen), report.timings.total)
    check_output_folder(folder, overwrite=True)
    result = scan(
        open_checkpoint(snapshot.path, device=config.device),
        plan.images,
        config=ScanConfig(
            seeds=seeds,
            without=("optimality",),
            execution=Execution(device=config.device),
        ),
        folder=folder,
        overwrite=True,
        progress=progress,
    )
    write_report(result, folder, pictures=config.pictures)
    scanned = make_snapshot(snapshot.images_seen, result.matches.memorized_paper)
    return _Scan(scanned, result.timings.total)


# ------------------------------------------------------------------------------------------------
# Side by side


def train_and_scan_all(
    plans: Sequence[RunPlan],
    config: RunConfig,
    *,
    progress: Progress = silent,
    on_run: Callable[[RunPlan, RunResult], None] = lambda plan, run: None,
) -> list[RunResult]:
    """Do several runs, `config.parallel` at a time.

    Runs side by side are processes of one CPU thread each, or of one GPU each.

    Args:
        plans: the runs, each with a folder of its own.
        config: how they are scanned, and how many run side by side; 1 runs them in this process.
        progress: called with the progress of each step, or with several processes when a run ends.
        on_run: called with each run as it ends.

    Returns:
        The runs in the order of plans.
    """
    if config.parallel == 1 or len(plans) == 1:
        runs = []
        for plan in plans:
            suffix = f"({len(plan.images):,} images, training {plan.replicate})"
            named = add_suffix(progress, suffix)
            run = train_and_scan(plan, config, progress=named)
            on_run(plan, run)
            runs.append(run)
        return runs
    pool = start_processes(config.parallel, config.device)
    try:
        futures = {pool.submit(train_and_scan, plan, config): plan for plan in plans}
        for num_done, future in enumerate(as_completed(futures), 1):
            on_run(futures[future], future.result())
            progress("Runs side by side", num_done, len(plans))
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def start_processes(number: int, device: str) -> ProcessPoolExecutor:
    """Start processes for runs side by side, each with a CPU thread or a GPU of its own.

    Args:
        number: of processes.
        device: `cpu` or `cuda`.
    """
    context = multiprocessing.get_context("spawn")
    slots = context.SimpleQueue()
    for slot in range(number):
        slots.put(slot)
    return ProcessPoolExecutor(
        number,
        mp_context=context,
        initializer=_start_process,
        initargs=(os.getpid(), slots, _visible_gpus() if device == "cuda" else []),
    )


def _visible_gpus() -> list[str]:
    """List this process's GPUs by the names that CUDA_VISIBLE_DEVICES takes."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]


def _start_process(parent: int, slots: "SimpleQueue[int]", gpus: list[str]) -> None:
    """Take a thread or a GPU, and end when the process that started this one ends."""
    torch.set_num_threads(1)
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[slots.get() % len(gpus)]

    def watch() -> None:
        # An orphan would keep writing into a folder that the next command resumes.
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
