"""Whether a model denoises better under another choice of what its file does not show.

A wrong number of attention heads may denoise well enough to pass the test, and yet not as it was
trained. The right one denoises the training images best, so that each option which the user said,
or which was assumed, is tried with its other values, one at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from memaudit.audit.denoising.noised_images import NoisedImages
from memaudit.data.images import ImageSet
from memaudit.errors import MemauditError
from memaudit.models.checkpoints import Checkpoint, open_checkpoint
from memaudit.models.checkpoints.given import Fact, Given
from memaudit.models.denoiser import Denoiser
from memaudit.models.execution import Execution
from memaudit.progress import Progress, silent

SIGMAS = [1.5, 0.5, 0.15, 0.05]
"""Noise levels at which images show through, and what a network learned of them."""
BETTER = 0.9
"""Part of the loss at most that a choice leaves which denoises better: a wrong number of heads has
1.5 times the loss and more, while choices without effect have the same."""
INVISIBLE = (0.5 / 127.5) ** 2
"""Losses below that of half a gray level are taken for equal."""


@dataclass(frozen=True)
class OtherOption:
    """The loss under another value of an option."""

    option: str
    """As it is said, such as `num_heads=8`."""
    change: float
    """Loss of that under the option's present value, the geometric mean over noise levels and
    images."""

    @property
    def is_better(self) -> bool:
        """Whether the model denoises clearly better so."""
        return self.change < BETTER


def try_other_options(
    denoiser: Denoiser,
    facts: tuple[Fact, ...],
    arch: str | None,
    open_as: Callable[[str], Denoiser],
    data: ImageSet,
    *,
    execution: Execution | None = None,
    progress: Progress = silent,
) -> tuple[OtherOption, ...]:
    """Denoise training images under other values of the options that a file does not show.

    Args:
        denoiser: the model as it is configured.
        facts: its options, and who says each.
        arch: what the user said.
        open_as: opens the model with other options, as `arch`.
        data: training images.
        execution: where the models are.
        progress: told how many values are done.

    Returns:
        Those that could be opened, the best first.
    """
    execution = execution or Execution()

    def losses(model: Denoiser) -> np.ndarray:
        return NoisedImages.of(model, data, execution).losses(SIGMAS)

    others = [
        (fact.name, value) for fact in facts if fact.origin != "file" for value in fact.alternatives
    ]
    found = []
    present = losses(denoiser) if others else None
    for i, (name, value) in enumerate(others):
        progress("Trying other options", i, len(others))
        given = Given.parse(arch).with_option(name, value)
        try:
            other = losses(open_as(given))
        except MemauditError:  # it fits no network of these weights
            continue
        assert present is not None
        ratio = np.log(np.maximum(other, INVISIBLE) / np.maximum(present, INVISIBLE))
        found.append(OtherOption(f"{name}={value}", float(np.exp(ratio.mean()))))
    return tuple(sorted(found, key=lambda option: option.change))


def other_options_of(
    checkpoint: Checkpoint,
    data: ImageSet,
    *,
    execution: Execution | None = None,
    progress: Progress = silent,
) -> tuple[OtherOption, ...]:
    """Open a checkpoint's file with other options and denoise: see `try_other_options`."""
    device = "cpu" if execution is None else execution.device

    def open_as(arch: str) -> Denoiser:
        return open_checkpoint(checkpoint.path, arch=arch, device=device).network

    return try_other_options(
        checkpoint.network,
        checkpoint.facts,
        checkpoint.arch,
        open_as,
        data,
        execution=execution,
        progress=progress,
    )
