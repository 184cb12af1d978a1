"""What changes over a run: learning rate, average and snapshots, by the number of images seen.

The published bookkeeping of Gu et al. (arXiv:2310.02664) scales everything by the number |D| of
training images: 40,000 epochs, a learning-rate ramp-up of 200 epochs and an EMA half-life of 10,
the latter two rounded down to whole thousands of images. At |D| = 50,000 these are EDM's own
numbers, except for the budget.
"""

import math
from dataclasses import dataclass

from memaudit.training.config import TrainingConfig
from memaudit.training.ema import ema_beta


@dataclass(frozen=True)
class Schedule:
    """A configuration at |D| = `num_images`, with everything counted in images seen."""

    config: TrainingConfig
    num_images: int

    @property
    def duration_images(self) -> int:
        """Images after which the run ends, with the first step that reaches them."""
        if self.config.duration_images is not None:
            return self.config.duration_images
        return math.ceil(self.config.epochs * self.num_images)

    @property
    def num_steps(self) -> int:
        """Number of steps of the whole run."""
        return math.ceil(self.duration_images / self.config.batch_size)

    @property
    def lr_rampup_images(self) -> int:
        """Images over which the learning rate grows from 0."""
        return self._whole_kimg(self.config.lr_rampup_epochs)

    @property
    def ema_halflife_images(self) -> int:
        """The half-life H of the EMA modes; see `ema_beta`."""
        return self._whole_kimg(self.config.ema_halflife_epochs)

    @property
    def snapshot_images(self) -> int:
        """Images between two snapshots."""
        if self.config.snapshot_images is not None:
            return self.config.snapshot_images
        if self.config.snapshot_epochs is not None:
            return math.ceil(self.config.snapshot_epochs * self.num_images)
        return math.ceil(self.duration_images / self.config.num_snapshots)

    def lr(self, images_seen: int) -> float:
        """Return the learning rate of the step after `images_seen`: linear, then constant."""
        return self.config.lr * min(images_seen / max(self.lr_rampup_images, 1e-8), 1.0)

    def ema_beta(self, images_seen: int) -> float:
        """Return the decay of the average in the step after `images_seen`."""
        return ema_beta(
            self.config.ema_mode,
            images_seen=images_seen,
            batch_size=self.config.batch_size,
            halflife_images=self.ema_halflife_images,
            num_images=self.num_images,
            decay=self.config.ema_decay,
            rampup_ratio=self.config.ema_rampup_ratio,
        )

    def is_snapshot(self, images_seen: int, *, every: int = 1) -> bool:
        """Return whether a snapshot follows the step that reached `images_seen`.

        Args:
            images_seen: after the step.
            every: count only every n-th snapshot; the last one always counts.
        """
        period = every * self.snapshot_images
        before = images_seen - self.config.batch_size
        return images_seen // period > before // period or images_seen >= self.duration_images

    def _whole_kimg(self, epochs: float) -> int:
        return math.floor(epochs * self.num_images / 1000) * 1000


def format_epochs(epochs: float) -> str:
    """Write epochs as `2.56` or `40,000`: three digits, or all before the decimal point."""

    return f"{epochs:,.3g}" if epochs < 100 else f"{epochs:,.0f}"
