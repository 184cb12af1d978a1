"""Small audits during a training: when does memorization begin?"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from memaudit.audit.scan import ScanConfig, scan
from memaudit.audit.statistics.intervals import Proportion
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError
from memaudit.models.checkpoints import open_checkpoint
from memaudit.progress import Progress, silent
from memaudit.training.batches import mirrored
from memaudit.training.run_folder import RunFolder
from memaudit.training.schedule import Schedule
from memaudit.training.training_log import AuditEntry, read_log

BEGINS_ABOVE = 0.01
"""Memorization has begun once the lower end of the 95 % interval exceeds this share of copies."""


class SnapshotAudit(NamedTuple):
    """One of the audits."""

    epochs: float
    """Of the snapshot."""
    copies: Proportion
    """Generated images that copy a training image, by the scan's `distinct` rule."""
    begins: bool
    """Whether this is the first audit of the run that shows memorization."""


class EarlyWarning:
    """Scans every so many snapshots: what `train` takes as `on_snapshot`.

    The audits are part of the run's log, so a run that is resumed is not warned of twice.

    Args:
        images: the training images; at least 2.
        schedule: of the run.
        every: audit one of so many snapshots, and the last.
        num_samples: images to generate from each, with seeds 0, 1, …
        device: `cpu` or `cuda`.
        progress: told how far each audit is.
        on_audit: called with what each audit found.

    Raises:
        ConfigError: counts below 1, or a single training image.
    """

    def __init__(
        self,
        images: ImageSet,
        schedule: Schedule,
        *,
        every: int = 1,
        num_samples: int = 256,
        device: str = "cpu",
        progress: Progress = silent,
        on_audit: Callable[[SnapshotAudit], None] = lambda audit: None,
    ) -> None:
        if every < 1:
            raise ConfigError(f"Audits are asked for every {every} snapshots; 1 or more is needed.")
        if len(images) < 2:
            raise ConfigError("An audit needs 2 or more training images, and there is only one.")
        self.images = mirrored(images) if schedule.config.xflip else images
        self.schedule = schedule
        self.every = every
        self.config = ScanConfig(seeds=tuple(range(num_samples)), optimum_images=0, device=device)
        self.progress = progress
        self.on_audit = on_audit

    def __call__(self, snapshot: Path, images_seen: int) -> AuditEntry | None:
        """Audit a snapshot, if it is one of those to be audited."""
        if not self.schedule.is_snapshot(images_seen, every=self.every):
            return None
        result = scan(
            open_checkpoint(snapshot, device=self.config.device),
            self.images,
            config=self.config,
            progress=self.progress,
        )
        copies = result.ratios["distinct"]
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
