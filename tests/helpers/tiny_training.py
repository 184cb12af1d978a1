"""Trainings that take a moment: a network of one level, on a few 4x4 images of noise."""

import numpy as np

from memaudit.data.images import ImageSet
from memaudit.training.config import TrainingConfig

TINY = TrainingConfig(
    precond="edm",
    model_channels=8,
    channel_mult=(1,),
    num_blocks=1,
    attn_resolutions=(),
    dropout=0.1,
    lr=2e-3,
    lr_rampup_epochs=0,
    batch_size=4,
    duration_images=80,
    ema_mode="plain",
    ema_decay=0.99,
    num_snapshots=4,
)


def noise_images(num: int = 6, *, labels: np.ndarray | None = None, seed: int = 0) -> ImageSet:
    """Noise of shape [num, 1, 4, 4]."""
    images = np.random.RandomState(seed).randint(0, 256, (num, 1, 4, 4)).astype(np.uint8)
    return ImageSet(images, [f"{i}.png" for i in range(num)], labels=labels, source="noise.npz")
