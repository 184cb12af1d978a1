"""Test the instrument on this machine and these images: it must measure what is known.

The closed-form optimum can only copy, held-out images are not copies, and the number of planted
copies is known. All of them pass through the search and the rule that judge a model.
"""

from dataclasses import dataclass

import numpy as np

from memaudit.audit.config import ScanConfig
from memaudit.audit.memorization.matches import match_images
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.source import check_comparable
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.models.generate import generate_images
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.progress import Progress, silent

TOLERANCE = 0.01
"""A few in a thousand natural held-out images are near-copies by chance."""
PLANTED = 0.3
"""Share of copies in the third control."""
PARTNERS = 8
"""Random images, of which the farthest becomes the partner in a mixture, to avoid duplicates."""


@dataclass(frozen=True)
class Control:
    """Images whose memorization ratio is known."""

    name: str
    """`optimum`, `held-out images` or `mixtures of training images`, and `planted copies`."""
    expected: float
    """The ratio to be measured, in [0, 1]."""
    tolerance: float
    """How far the truth may be from it."""
    measured: Proportion
    """Images that are memorized by the distinct rule."""
    passed: bool
    """Whether the interval and expected ± tolerance overlap."""


@dataclass(frozen=True)
class SelftestResult:
    """The outcome of the controls."""

    controls: tuple[Control, ...]
    passed: bool
    """Whether all of them passed."""


def selftest(
    images: ImageSet,
    *,
    holdout: ImageSet | None = None,
    config: ScanConfig | None = None,
    progress: Progress = silent,
) -> SelftestResult:
    """Measure images whose memorization ratio is known.

    Args:
        images: training images, square, at least 2.
        holdout: images like them that are not among them. Without them, mixtures of two training
            images are used instead.
        config: how to sample and judge, as in a scan. Each control has one image per seed, 256 by
            default, or every held-out image if there are fewer.
        progress: told how far each step is.

    Raises:
        DataError: the images cannot be judged or compared.
    """
    config = config or ScanConfig(seeds=range(256))
    check_comparable(images if holdout is None else holdout, images)
    rng = np.random.default_rng(0)
    index = NeighborIndex(images.images, device=config.execution.device)

    def control(name: str, made: np.ndarray, expected: float, tolerance: float) -> Control:
        memorized = match_images(index, made, config.rule, progress=progress).memorized_distinct
        measured = clopper_pearson(int(memorized.sum()), len(memorized), config.rule.confidence)
        passed = measured.low <= expected + tolerance and expected - tolerance <= measured.high
        return Control(name, expected, tolerance, measured, passed)

    num_images = len(config.seeds)
    optimal = [
        batch.images
        for batch in generate_images(
            ClosedFormOptimum(images.images, device=config.execution.device),
            config.seeds,
            config=config.sampler,
            batch_size=config.execution.batch_size,
            device=config.execution.device,
            progress=progress,
        )
    ]
    if holdout is None:
        name, others = "mixtures of training images", _mixtures(images.images, num_images, rng)
    else:
        chosen = rng.choice(len(holdout), min(num_images, len(holdout)), replace=False)
        name, others = "held-out images", holdout.images[np.sort(chosen)]
    num_copies = round(PLANTED * len(others))
    planted = np.concatenate([_copies(images.images, num_copies, rng), others[num_copies:]])

    controls = (
        control("optimum", np.concatenate(optimal), 1, TOLERANCE),
        control(name, others, 0, TOLERANCE),
        control("planted copies", planted, num_copies / len(planted), 0),
    )
    return SelftestResult(controls, all(control.passed for control in controls))


def _mixtures(images: np.ndarray, num_mixtures: int, rng: np.random.Generator) -> np.ndarray:
    """Means of two training images far from each other: uint8 [M, C, H, W]."""
    mixtures = []
    for first in rng.integers(len(images), size=num_mixtures):
        a = images[first].astype(np.int64)
        others = images[rng.integers(len(images), size=PARTNERS)]
        b = others[((others - a) ** 2).sum((1, 2, 3)).argmax()]
        mixtures.append((a + b) // 2)
    return np.stack(mixtures).astype(np.uint8)


def _copies(images: np.ndarray, num_copies: int, rng: np.random.Generator) -> np.ndarray:
    """Training images with each value off by at most one gray level: uint8 [M, C, H, W]."""
    chosen = images[rng.integers(len(images), size=num_copies)].astype(np.int64)
    return (chosen + rng.integers(-1, 2, size=chosen.shape)).clip(0, 255).astype(np.uint8)
