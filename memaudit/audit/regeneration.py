"""Generate some images of a scan again, to compare them with the first time.

An image depends on its seed alone (models/generate.py): on a CPU, and on a GPU of the same kind at
the same batch size, the same seed gives the same bytes. Another kind of machine rounds otherwise.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from memaudit.models.checkpoints import Checkpoint
from memaudit.models.execution import Execution, Precision
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
    checkpoint: Checkpoint,
    seeds: Sequence[int],
    recipe: Recipe,
    *,
    is_fast: np.ndarray | None = None,
    progress: Progress = silent,
) -> GeneratedBatch:
    """Generate the images of some seeds as a scan does, in the order of the seeds.

    On a GPU, they are evaluated in full batches of `recipe.execution.batch_size`, whatever their
    number: another size would choose other kernels.

    Args:
        checkpoint: the model, on the device that `recipe` names.
        seeds: one integer per image, at least one.
        recipe: what the images of the scan were made with.
        is_fast: which of them in the faster format of `recipe.execution.precision`, bool [B]; None:
            all in fp32.
        progress: told how many images are done.

    Raises:
        ConfigError: a class that the model lacks; noise levels outside its range.
        CheckpointError: pixels that are not finite.
    """
    rows = np.arange(len(seeds))
    fast = np.zeros(len(seeds), dtype=bool) if is_fast is None else is_fast
    formats: tuple[Precision, Precision] = ("fp32", recipe.execution.precision)
    parts: list[GeneratedBatch] = []
    for chosen, precision in zip((rows[~fast], rows[fast]), formats, strict=True):
        if len(chosen):
            parts += generate_images(
                checkpoint.network,
                [seeds[row] for row in chosen],
                config=recipe.sampler,
                class_index=recipe.class_index,
                class_weights=recipe.class_weights,
                execution=replace(recipe.execution, precision=precision),
                progress=progress,
            )
    made = GeneratedBatch.concatenate(parts)
    return made[np.argsort(np.concatenate([rows[~fast], rows[fast]]))]


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
