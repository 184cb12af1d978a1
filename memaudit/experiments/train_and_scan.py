"""One training and the scans of its snapshots, in a folder; and several of them side by side.

A folder holds `training/`, the trainer's run, and `scan-<images seen>/`, a report for each
snapshot. What is there already is read back, and what was stopped is continued: the folder ends
up the same.
"""

import hashlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from memaudit.audit.config import ScanConfig
from memaudit.audit.report.folder import REPORT, check_output_folder, ranges, write_report
from memaudit.audit.scan import scan
from memaudit.audit.statistics.intervals import Proportion
from memaudit.data.images import ImageSet
from memaudit.models.checkpoints import open_checkpoint
from memaudit.progress import Progress, silent
from memaudit.training.config import TrainingConfig
from memaudit.training.loop import train
from memaudit.training.run_folder import Snapshot
from memaudit.training.schedule import Schedule

RULE = "paper"
"""Ratios are compared with published ones, so they are taken by the published rule."""
SAMPLING_BATCH = {"cpu": 64, "cuda": 512}
PARENT_CHECK_SECONDS = 0.5


@dataclass(frozen=True)
class RunPlan:
    """A training and scans that are to be done."""

    images: ImageSet
    config: TrainingConfig
    out: Path
    """Folder of the run."""
    num_samples: int = 10_000
    """Images generated from each snapshot."""


@dataclass(frozen=True)
class SnapshotRatio:
    """What the scan of a snapshot found."""

    images_seen: int
    ratio: Proportion
    """By the published rule."""


@dataclass(frozen=True)
class Run:
    """A training and its scans, done."""

    num_images: int
    """|D|."""
    snapshots: tuple[SnapshotRatio, ...]
    """In the order of training."""
    training_seconds: float
    scan_seconds: float

    @property
    def highest(self) -> Proportion:
        """The highest ratio among the snapshots, as the paper reports it."""
        return max((s.ratio for s in self.snapshots), key=lambda ratio: ratio.ratio)

    @property
    def last(self) -> Proportion:
        """The last snapshot's ratio."""
        return self.snapshots[-1].ratio

    @property
    def images_seen(self) -> int:
        """By the last snapshot."""
        return self.snapshots[-1].images_seen


def do_run(plan: RunPlan, *, device: str = "cpu", progress: Progress = silent) -> Run:
    """Train and scan every snapshot on the schedule, or read back what is done.

    Args:
        plan: what to do, and where.
        device: `cpu` or `cuda`.
        progress: told how far each step is.

    Raises:
        ConfigError, DataError: from `train` and `scan`; a folder that holds another run.
        KeyboardInterrupt: Ctrl-C; the same call goes on later.
    """
    trained = train(
        plan.images,
        plan.config,
        out=plan.out / "training",
        device=device,
        resume=True,
        progress=progress,
    )
    if trained.interrupted:
        raise KeyboardInterrupt
    # A run that was stopped by hand left a snapshot there, which one that was not does not have.
    schedule = Schedule(plan.config, len(plan.images))
    snapshots = [s for s in trained.snapshots if schedule.is_snapshot(s.images_seen)]
    reports = [_scanned(plan, snapshot, device, progress) for snapshot in snapshots]
    return Run(
        num_images=len(plan.images),
        snapshots=tuple(
            SnapshotRatio(snapshot.images_seen, read_ratio(report))
            for snapshot, report in zip(snapshots, reports, strict=True)
        ),
        training_seconds=trained.seconds,
        scan_seconds=sum(report["timings"]["total"] for report in reports),
    )


def read_ratio(report: dict[str, Any]) -> Proportion:
    """The ratio by the published rule in a report.json."""
    found = report["ratios"][RULE]
    return Proportion(
        found["count"], found["total"], found["low"], found["high"], found["confidence"]
    )


def _scanned(plan: RunPlan, snapshot: Snapshot, device: str, progress: Progress) -> dict[str, Any]:
    """The report of a snapshot, made now where it is not there."""
    folder = plan.out / f"scan-{snapshot.images_seen:010d}"
    seeds = tuple(range(plan.num_samples))
    if (folder / REPORT).is_file():
        report: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        with snapshot.path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if report["source"]["sha256"] == sha256 and report["sampling"]["seeds"] == ranges(seeds):
            return report
    check_output_folder(folder, overwrite=True)
    result = scan(
        open_checkpoint(snapshot.path, device=device),
        plan.images,
        config=ScanConfig(
            seeds=seeds, optimum_images=0, batch_size=SAMPLING_BATCH[device], device=device
        ),
        folder=folder,
        overwrite=True,
        progress=progress,
    )
    write_report(result, folder)
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return report


# ------------------------------------------------------------------------------------------------
# Side by side


def do_runs(
    plans: Sequence[RunPlan],
    *,
    device: str = "cpu",
    parallel: int = 1,
    progress: Progress = silent,
    on_run: Callable[[RunPlan, Run], None] = lambda plan, run: None,
) -> list[Run]:
    """Several runs, `parallel` at a time: processes of one thread each, or of one GPU each.

    Args:
        plans: each with a folder of its own.
        device: `cpu` or `cuda`; with more processes than GPUs they share.
        parallel: how many at a time; 1 runs them here, one after the other.
        progress: told of each step, or with several processes of each run that ends.
        on_run: called with each run as it ends.

    Returns:
        In the order of plans.
    """
    if parallel == 1 or len(plans) == 1:
        runs = []
        for plan in plans:
            run = do_run(plan, device=device, progress=_of_size(progress, len(plan.images)))
            on_run(plan, run)
            runs.append(run)
        return runs
    context = multiprocessing.get_context("spawn")
    slots = context.SimpleQueue()
    for slot in range(parallel):
        slots.put(slot)
    pool = ProcessPoolExecutor(
        parallel,
        mp_context=context,
        initializer=_start_process,
        initargs=(os.getpid(), slots, _visible_gpus() if device == "cuda" else []),
    )
    try:
        futures = {pool.submit(do_run, plan, device=device): plan for plan in plans}
        for num_done, future in enumerate(as_completed(futures), 1):
            on_run(futures[future], future.result())
            progress("Runs side by side", num_done, len(plans))
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def _visible_gpus() -> list[str]:
    """The names that CUDA_VISIBLE_DEVICES takes for the GPUs that this process sees."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]


def _start_process(parent: int, slots: Any, gpus: list[str]) -> None:
    """Take a thread or a GPU, and end with the process that started this one."""
    torch.set_num_threads(1)
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[slots.get() % len(gpus)]

    def watch() -> None:
        # An orphan would go on writing into a folder that the next command continues.
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _of_size(progress: Progress, num_images: int) -> Progress:
    """`progress`, with the number of training images beside each task's name."""

    def named(task: str, done: int, total: int | None, note: str = "") -> None:
        progress(f"{task} ({num_images:,} images)", done, total, note)

    return named
