"""How long sampling will take, from a few steps of one group of images."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from memaudit.models.denoiser import Denoiser
from memaudit.models.execution import Execution
from memaudit.models.generate import generate_images
from memaudit.models.group_size import group_size, settled
from memaudit.models.own_sampler import resolve_sampler
from memaudit.models.sampler_config import SamplerConfig
from memaudit.progress import silent

DOPRI5 = 100
"""Evaluations of a network that dopri5 takes per image, about."""
FEW_STEPS, MORE_STEPS = 2, 6
"""Heun's steps in a timing, of a network that is slow or fast."""
LONG_ENOUGH = 1.0
"""Seconds after which a timing is good enough."""


@dataclass(frozen=True)
class SamplingTime:
    """Seconds of one group of images; a last group takes as long, however few it has."""

    per_evaluation: float
    others: float
    """Noise before, and rounding after the evaluations."""
    group: int
    """Images of a group."""

    def seconds(self, num_images: int, sampler: SamplerConfig) -> float:
        """How long sampling that many images takes."""
        groups = -(-num_images // self.group)
        return groups * (self.others + self.per_evaluation * num_evaluations(sampler))

    def per_image(self, sampler: SamplerConfig) -> float:
        """Seconds per image, of many."""
        return self.seconds(self.group, sampler) / self.group


def num_evaluations(sampler: SamplerConfig) -> int:
    """Evaluations of a network per image: 2n − 1 for n steps of Heun, n of the others; of dopri5,
    which takes what it needs, about DOPRI5. Guidance takes twice as many."""
    if sampler.num_steps is None:
        return DOPRI5
    is_heun = (sampler.solver or "heun") == "heun"
    return 2 * sampler.num_steps - 1 if is_heun else sampler.num_steps


def time_sampling(
    denoiser: Denoiser,
    sampler: SamplerConfig,
    *,
    execution: Execution,
    class_index: int | None = None,
) -> SamplingTime:
    """Time a few steps of one group of images, after a warm-up.

    Args:
        denoiser: on the execution's device.
        sampler: whose guidance and noise levels are taken.
        execution: where, and how many images at a time.
        class_index: the class of all images; None: drawn.
    """
    execution = settled(execution, denoiser)
    size = group_size(denoiser, execution)
    config = resolve_sampler(sampler, denoiser).by_edm
    config = replace(config, solver=None) if config.solver == "multistep" else config

    def sample(num_steps: int) -> Callable[[], None]:
        def run() -> None:
            # Their bytes come to the CPU, so that a GPU has finished.
            for _ in generate_images(
                denoiser,
                range(size),
                config=replace(config, num_steps=num_steps),
                class_index=class_index,
                execution=execution,
                progress=silent,
            ):
                pass

        return run

    one = sample(1)
    one()  # a network's first evaluation is slower, and a GPU's much slower
    least = _seconds(one)
    steps = FEW_STEPS
    more = _seconds(sample(steps))
    if more < LONG_ENOUGH:
        steps = MORE_STEPS
        more = _seconds(sample(steps))
    evaluations = num_evaluations(replace(config, num_steps=steps))
    first = num_evaluations(replace(config, num_steps=1))
    per_evaluation = max((more - least) / (evaluations - first), 0.5 * more / evaluations)
    return SamplingTime(per_evaluation, max(0.0, least - per_evaluation * first), size)


def _seconds(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
