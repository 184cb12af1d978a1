"""A training and the scans of its snapshots, in a folder; and several of them side by side.

A folder holds `training/`, the training run, and `scan-<images seen>/`, a report for each snapshot.
Trainings of one setup that differ in their images and seeds, its replicates, are in folders
`replicate-1/`, `replicate-2/` and so on beside each other.
What already exists is read and what was stopped is resumed; the folder ends up the same.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from memaudit.audit.config import ScanConfig
from memaudit.audit.report.folder import REPORT, check_output_folder, write_report
from memaudit.audit.report.pictures import shows_no_more
from memaudit.audit.report.schema import read_report
from memaudit.audit.scan import scan
from memaudit.audit.scan_state import discard_finished_state
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
from memaudit.ranks.board import Handler
from memaudit.ranks.joined import current_leader
from memaudit.ranks.message import Message, pack
from memaudit.ranks.worker import Worker
from memaudit.training.config import TrainingConfig
from memaudit.training.loop import TrainingResult, train
from memaudit.training.run_folder import Snapshot
from memaudit.training.schedule import Schedule
from memaudit.wording import ranges

TASK = "run"
"""What ranks ask each other for: a training and its scans."""


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
        same &= report.screening is None
        if same and shows_no_more(report.pictures, config.pictures):
            discard_finished_state(folder)
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
    """Do several runs: one per rank at a time, or one after the other without ranks.

    Args:
        plans: the runs, each with a folder of its own that all ranks see.
        config: how they are scanned.
        progress: called with the progress of each step of this process's runs, and with several
            ranks when a run ends.
        on_run: called with each run as it ends, in the order of plans.

    Returns:
        The runs in the order of plans.
    """
    runs = []

    def do(plan: RunPlan, progress: Progress) -> RunResult:
        suffix = f"({len(plan.images):,} images, training {plan.replicate})"
        return train_and_scan(plan, config, progress=add_suffix(progress, suffix))

    leader = current_leader()
    if leader is None or len(plans) == 1:
        for plan in plans:
            runs.append(do(plan, progress))
            on_run(plan, runs[-1])
        return runs
    by_folder = {str(plan.out): plan for plan in plans}
    leader.handlers[TASK] = _run_handler(lambda folder, size: by_folder[folder], config)
    blocks = [
        pack({"task": TASK, "folder": folder, "size": len(plan.images)})
        for folder, plan in by_folder.items()
    ]
    with closing(leader.spread(blocks)) as done:
        for plan, _ in zip(plans, done, strict=True):
            runs.append(do(plan, silent))  # all of it is there, and read
            on_run(plan, runs[-1])
            progress("Runs side by side", len(runs), len(plans))
    return runs


FindPlan = Callable[[str, int], RunPlan]
"""The run of a folder, with its number of training images."""


def serve_runs(worker: Worker, find: FindPlan, config: RunConfig) -> int:
    """Train and scan for rank 0 until it ends, and return its exit status.

    Args:
        worker: this rank.
        find: the runs that rank 0 may ask for.
        config: how they are scanned.
    """
    return worker.serve({TASK: _run_handler(find, config)})


def _run_handler(find: FindPlan, config: RunConfig) -> Handler:
    """Do a run, whose files are in its folder; the message that comes back is empty."""

    def handle(message: Message, look: Callable[[], None]) -> bytes:
        about = message.about
        plan = find(about["folder"], about["size"])
        train_and_scan(plan, config, progress=lambda task, done, total, note="": look())
        return pack({})

    return handle
