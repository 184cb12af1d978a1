"""Does a generator repeat itself? A hint of memorization for those without the training images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from memaudit.audit.environment import Environment, describe_environment
from memaudit.audit.image_check.config import CheckConfig
from memaudit.audit.image_check.generator import (
    describe_generator,
    generated_batches,
    open_generator,
    prepared_for,
)
from memaudit.audit.image_check.result import CheckedSet, CheckedSource
from memaudit.audit.neighbors.repeats import RepeatCount, Repeats, find_repeats
from memaudit.audit.source import OPTIMUM
from memaudit.audit.source_checks import check_same_shape
from memaudit.data.doubts import doubts_about
from memaudit.data.images import ImageSet
from memaudit.data.sources import as_images
from memaudit.errors import ConfigError, DataError
from memaudit.models.arithmetic import fp32_products
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.denoiser import Denoiser
from memaudit.progress import Progress, automatic

MOST_CONTROLS = 10_000
"""Held-out images that are compared with each other, at most."""


@dataclass(frozen=True)
class RepeatsReport:
    """How often a generator repeats itself."""

    schema: Literal["memaudit.repeats/1"]
    headline: str
    """The answer in one sentence."""
    source: CheckedSource
    repeats: Repeats
    holdout: CheckedSet | None
    controls: RepeatCount | None
    """Near-equal images among the held-out ones, at most 10,000; null without any."""
    flips: bool
    """Whether mirror images count as near-equal."""
    warnings: tuple[str, ...]
    environment: Environment


@dataclass(frozen=True, repr=False)
class RepeatsResult:
    """How often a generator repeats itself, with the images that a page shows."""

    report: RepeatsReport
    generated: np.ndarray
    """uint8 [N, C, H, W]."""
    keys: tuple[int | str, ...]
    """Their seeds or names."""

    def __repr__(self) -> str:
        return f"RepeatsResult({self.report.headline})"


@fp32_products(False)
def check_repeats(
    source: str | Path | np.ndarray | ImageSet | Checkpoint | Denoiser,
    *,
    holdout: str | Path | np.ndarray | ImageSet | None = None,
    config: CheckConfig | None = None,
    progress: Progress = automatic,
) -> RepeatsResult:
    """Find near-equal images among those that a model generates, without training images.

    Args:
        source: a model, or images that were generated already, as in `scan`.
        holdout: images of the same kind that nobody generated, to compare with.
        config: seeds, sampler, class, duplicate radius, `index.flips` and execution; the rest is
            ignored.
        progress: told how far each step is; by default shown in a notebook only.

    Raises:
        DataError: no images, or held-out images of another shape.
        ConfigError: the optimum, which needs training images; a class that the model lacks.
        CheckpointError: a checkpoint that cannot be opened, or gives numbers that are not finite.

    Examples:
        >>> import numpy as np
        >>> from memaudit import check_repeats
        >>> images = np.random.default_rng(0).integers(0, 256, (10, 3, 8, 8), np.uint8)
        >>> found = check_repeats(np.concatenate([images, images[:1], images[:1]]))
        >>> found.report.repeats.count.num_repeated, found.report.repeats.groups[0].rows
        (3, (0, 10, 11))
    """
    config = config or CheckConfig()
    if isinstance(source, str | Path) and str(source) == OPTIMUM:
        raise ConfigError(
            "The optimum copies training images, and a search for repeats has none; name a "
            "checkpoint or generated images."
        )
    opened = open_generator(source, None, config, progress)
    held = None if holdout is None else as_images(holdout, progress=progress)
    if isinstance(opened, ImageSet) and not len(opened):
        raise DataError(f"{opened.source} holds no images. At least 1 generated image is needed.")
    if held is not None:
        check_same_shape(opened, held)
    config = prepared_for(config, opened)

    def repeats_of(images: np.ndarray) -> Repeats:
        return find_repeats(
            images,
            duplicate_rms=config.rule.duplicate_rms,
            flips=config.index.flips,
            device=config.execution.device,
            progress=progress,
        )

    keys: tuple[int | str, ...]
    if isinstance(opened, ImageSet):
        images, keys = opened.images, tuple(opened.names)
    else:
        batches = list(generated_batches(opened, config, progress))
        images = np.concatenate([batch for _, batch in batches])
        keys = tuple(config.seeds)
    found, controls = repeats_of(images), None
    if held is not None:
        number = min(len(held), MOST_CONTROLS)
        chosen = np.sort(np.random.default_rng(0).choice(len(held), number, replace=False))
        controls = repeats_of(np.asarray(held.images[chosen])).count
    warnings = opened.warnings if isinstance(opened, Checkpoint) else doubts_about(opened)
    report = RepeatsReport(
        schema="memaudit.repeats/1",
        headline=_headline(found.count, controls),
        source=describe_generator(opened, len(images), config),
        repeats=found,
        holdout=None if held is None else CheckedSet.of(held),
        controls=controls,
        flips=config.index.flips,
        warnings=warnings,
        environment=describe_environment(config.execution.device),
    )
    return RepeatsResult(report, images, keys)


def _headline(count: RepeatCount, controls: RepeatCount | None) -> str:
    text = count.sentence
    if controls is not None:
        number = f"{controls.num_repeated:,} are" if controls.num_repeated else "none is"
        text += f"; of {controls.num_images:,} held-out images, {number}"
    return f"{text}."
