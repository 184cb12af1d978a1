"""What generates: a model that is sampled, or images that it generated already."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from memaudit.audit.augmentation import augmentation_of
from memaudit.audit.image_check.config import CheckConfig
from memaudit.audit.image_check.result import CheckedSource
from memaudit.audit.image_check.sampled import Keyed
from memaudit.audit.source import OPTIMUM, as_source
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.denoiser import Denoiser
from memaudit.models.generate import check_classes, generate_images
from memaudit.models.group_size import settled
from memaudit.models.guidance import check_guidance
from memaudit.models.own_sampler import resolve_sampler
from memaudit.progress import Progress
from memaudit.wording import ranges

BLOCK = 1024
"""Given images handed out at a time."""


def open_generator(
    source: str | Path | np.ndarray | ImageSet | Checkpoint | Denoiser,
    data: ImageSet | None,
    config: CheckConfig,
    progress: Progress,
) -> Checkpoint | ImageSet:
    """Open what is asked.

    Raises:
        ConfigError: the optimum of training images that are not given.
    """
    if data is None and isinstance(source, str | Path) and str(source) == OPTIMUM:
        raise ConfigError(
            "The optimum is that of training images; give them with {data}.", field="data"
        )
    # Only the optimum asks for the training images.
    nothing = ImageSet.from_array(np.zeros((1, 1, 8, 8), np.uint8)) if data is None else data
    return as_source(
        source,
        nothing,
        conditional=config.class_index is not None,
        device=config.execution.device,
        progress=progress,
    )


def prepared_for(config: CheckConfig, source: Checkpoint | ImageSet) -> CheckConfig:
    """The configuration with what depends on the source.

    Raises:
        ConfigError: a class, a sampler or a guidance that the model does not have.
    """
    if isinstance(source, ImageSet):
        if config.class_index is not None:
            raise ConfigError(
                "{class_index} says what to generate, but images were given. Leave it out.",
                field="class_index",
            )
        return config
    network = source.network
    if config.class_index is not None:
        check_classes(network, [config.class_index])
    check_guidance(network, config.sampler.guidance)
    if augmentation_of(source.config, source.provenance).mirrored:
        config = replace(config, index=replace(config.index, flips=True))
    return replace(
        config,
        sampler=resolve_sampler(config.sampler, network),
        execution=settled(replace(config.execution, precision="fp32"), network),
    )


def generated_batches(
    source: Checkpoint | ImageSet, config: CheckConfig, progress: Progress
) -> Iterator[Keyed]:
    """The generated images, as they come."""
    if isinstance(source, Checkpoint):
        for batch in generate_images(
            source.network,
            config.seeds,
            config=config.sampler,
            class_index=config.class_index,
            execution=config.execution,
            progress=progress,
        ):
            yield batch.seeds.tolist(), batch.images
        return
    for start in range(0, len(source), BLOCK):
        rows = slice(start, start + BLOCK)
        yield source.names[rows], source.images[rows]
        progress("Comparing generated images", min(rows.stop, len(source)), len(source))


def describe_generator(
    source: Checkpoint | ImageSet, total: int, config: CheckConfig
) -> CheckedSource:
    """What a report says of it."""
    if isinstance(source, ImageSet):
        return CheckedSource("images", source.source, source.fingerprint, total, None, None, None)
    return CheckedSource(
        kind="checkpoint",
        path=source.path,
        sha256=source.sha256,
        num_images=total,
        seeds=ranges(config.seeds),
        sampler=config.sampler.resolved(),
        class_index=config.class_index,
    )
