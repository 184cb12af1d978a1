"""Small audits during a training: when does memorization begin?"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from memaudit.audit.config import ScanConfig
from memaudit.audit.scan import scan
from memaudit.audit.statistics.intervals import Proportion
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError
from memaudit.experiments.config import EarlyWarningConfig
from memaudit.models.checkpoints import open_checkpoint
from memaudit.models.execution import Execution
from memaudit.progress import Progress, silent
from memaudit.training.batches import add_mirror_images
from memaudit.training.run_folder import RunFolder
from memaudit.training.schedule import Schedule
from memaudit.training.training_log import AuditEntry, read_log

BEGINS_ABOVE = 0.01
"""Memorization has begun once the lower end of the 95 % interval exceeds this share of copies."""


class SnapshotAudit(NamedTuple):
    """The audit of a snapshot."""

    epochs: float
    """Epochs trained until the snapshot."""
    copies: Proportion
    """Share of the generated images that copy a training image, by the scan's `distinct` rule."""
    begins: bool
    """Whether this is the first audit of the run that shows memorization."""


class EarlyWarning:
    """Audits snapshots while a network trains; pass it to `train` as `on_snapshot`.

    Its audits become part of the run's log, so that a resumed run is not warned about twice.

    Args:
        images: the training images; at least 2.
        schedule: the schedule of the run.
        config: which snapshots are audited, and with how many images (seeds 0, 1, …).
        device: `cpu` or `cuda`.
        progress: called with the progress of each audit.
        on_audit: called with the result of each audit.

    Raises:
        ConfigError: there is only one training image.
    """

    def __init__(
        self,
        images: ImageSet,
        schedule: Schedule,
        config: EarlyWarningConfig,
        *,
        device: str = "cpu",
        progress: Progress = silent,
        on_audit: Callable[[SnapshotAudit], None] = lambda audit: None,
    ) -> None:
        if len(images) < 2:
            raise ConfigError("An audit needs at least 2 training images; there is only one.")
        self.images = add_mirror_images(images) if schedule.config.xflip else images
        self.schedule = schedule
        self.every = config.every
        self.config = ScanConfig(
            seeds=range(config.num_samples),
            without=("optimality",),
            execution=Execution(device=device),
        )
        self.progress = progress
        self.on_audit = on_audit

    def __call__(self, snapshot: Path, images_seen: int) -> AuditEntry | None:
        """Audit a snapshot, if it is one of those to be audited."""
        if self.every is None or not self.schedule.is_snapshot(images_seen, every=self.every):
            return None
        result = scan(
            open_checkpoint(snapshot, device=self.config.execution.device),
            self.images,
            config=self.config,
            progress=self.progress,
        )
        copies = result.ratios.distinct
        epochs = images_seen / self.schedule.num_images
        log = read_log(RunFolder(snapshot.parent).log)
        began = any(isinstance(e, AuditEntry) and _shows_memorization(e) for e in log)
        begins = _shows_memorization(copies) and not began
        self.on_audit(SnapshotAudit(epochs, copies, begins))
        return AuditEntry(
            images_seen=images_seen,
            epochs=epochs,
            count=copies.count,
            total=copies.total,
            ratio=copies.ratio,
            low=copies.low,
            high=copies.high,
            confidence=copies.confidence,
        )


def _shows_memorization(audit: Proportion | AuditEntry) -> bool:
    return audit.low > BEGINS_ABOVE
