"""Generate some images of a scan again, to compare them with the first time.

An image depends on its seed alone (models/generate.py): on a CPU, and on a GPU of the same kind at
the same batch size, the same seed gives the same bytes. Another kind of machine rounds otherwise.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.models.checkpoints import Checkpoint
from memaudit.models.execution import Execution
from memaudit.models.generate import GeneratedBatch, generate_images
from memaudit.models.sampler_config import SamplerConfig
from memaudit.progress import Progress, silent

SAME_RMS = 1.0
"""RMS gray levels within which two images of one seed are the same image: machines round otherwise,
which turns a few bytes by one level. A copy is still one at many times that distance."""


@dataclass(frozen=True)
class Recipe:
    """What generated images depend on besides the model and their seeds."""

    sampler: SamplerConfig
    class_index: int | None
    """The one class of all images, or None: drawn from each seed."""
    class_weights: Sequence[float] | None
    """How often each class is drawn, or None for all alike."""
    execution: Execution


def regenerate(
    checkpoint: Checkpoint, seeds: Sequence[int], recipe: Recipe, *, progress: Progress = silent
) -> GeneratedBatch:
    """Generate the images of some seeds as a scan does, in the order of the seeds.

    On a GPU, they are evaluated in full batches of `recipe.execution.batch_size`, whatever their
    number: another size would choose other kernels.

    Args:
        checkpoint: the model, on the device that `recipe` names.
        seeds: one integer per image, at least one.
        recipe: what the images of the scan were made with.
        progress: told how many images are done.

    Raises:
        ConfigError: a class that the model lacks; noise levels outside its range.
        CheckpointError: pixels that are not finite.
    """
    batches = list(
        generate_images(
            checkpoint.network,
            list(seeds),
            config=recipe.sampler,
            class_index=recipe.class_index,
            class_weights=recipe.class_weights,
            execution=recipe.execution,
            progress=progress,
        )
    )
    classes = [batch.class_index for batch in batches if batch.class_index is not None]
    return GeneratedBatch(
        seeds=np.concatenate([batch.seeds for batch in batches]),
        images=np.concatenate([batch.images for batch in batches]),
        class_index=np.concatenate(classes) if classes else None,
    )


def differ(images: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Whether images of the same seeds are different images, bool [B].

    Args:
        images: uint8 [B, C, H, W].
        again: uint8 [B, C, H, W], generated anew.
    """
    gap = images.astype(np.int64) - again.astype(np.int64)
    return np.asarray(np.square(gap).mean(axis=(1, 2, 3)) > SAME_RMS**2)


def draw_rows(total: int, number: int) -> np.ndarray:
    """Rows to look at again, drawn with the system's secret random numbers: ascending, int64.

    Nobody who wrote the rows could know which ones these are.

    Args:
        total: rows there are.
        number: rows wanted; all of them if that is as many or more.
    """
    if number >= total:
        return np.arange(total)
    return np.array(sorted(secrets.SystemRandom().sample(range(total), number)), dtype=np.int64)


def catch_chance(share: float, number: int) -> float:
    """Chance that among `number` rows drawn at random is one of a forged `share`: 1 − (1 − f)^K.

    Rows are drawn without repeats, so the chance is this or more.

    Examples:
        >>> round(catch_chance(0.1, 16), 3)
        0.815
    """
    return 1 - (1 - share) ** number


def caught_share(number: int, *, chance: float = 0.95) -> float:
    """The share of forged rows that `number` rows catch with this chance: 1 − (1 − chance)^(1/K).

    Examples:
        >>> round(caught_share(16), 3)
        0.171
    """
    return float(1 - (1 - chance) ** (1 / number))
