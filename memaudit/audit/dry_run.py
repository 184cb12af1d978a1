"""What a scan would take, measured on a few evaluations of the model, without sampling.

The time of the search itself is left out: it is short beside that of sampling.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from memaudit.audit.augmentation import search_what_was_trained_on
from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics.diagnostic import Setting
from memaudit.audit.diagnostics.registry import check_diagnostics
from memaudit.audit.memorization.controls import LEFT_OUT_IMAGES
from memaudit.audit.neighbors.projection import num_index_bytes, projected_width
from memaudit.audit.source import as_source
from memaudit.audit.source_checks import check_comparable
from memaudit.audit.statistics.floor_power import gate_power_text
from memaudit.audit.statistics.forecast import GateTest, forecast_stop
from memaudit.audit.statistics.gate import Control, FloorCount, sequential_decision
from memaudit.data.images import ImageSet
from memaudit.data.sources import as_images
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.denoiser import Denoiser
from memaudit.models.generate import generate_images
from memaudit.models.group_size import group_size, settled
from memaudit.models.own_sampler import resolve_sampler
from memaudit.models.sampler_config import SamplerConfig
from memaudit.progress import Progress, automatic, silent

MEASURED_STEPS = 2
"""Sampler steps that are timed."""
DOPRI5 = 100
"""Evaluations of a network that dopri5 takes per image, about."""


@dataclass(frozen=True)
class ScanForecast:
    """What a scan would take. Times and numbers of a model are None where images are given."""

    num_images: int
    """Images to generate at most, or given."""
    likely_stop: int | None
    """Images after which a gate decides if none of them is a copy, which may be more than
    `num_images`. None without a gate, and where images are given."""
    earliest_stop: int | None
    """Images after which it decides if all of them are copies."""
    seconds_per_image: float | None
    """Time to generate one image."""
    optimum_images: int | None
    """The comparison with the optimum evaluates the model as often as this many images do; its own
    search comes on top. 0 if it is left out."""
    index_bytes: int | None
    """Memory of the index of the training images; None where features are compared."""
    state_bytes: int | None
    """Disk that generated images take until the report is written."""
    floor: str | None
    """What the held-out images allow the gate to show; None without a gate."""

    def seconds(self, num_images: int) -> float | None:
        """Time to generate so many images."""
        return None if self.seconds_per_image is None else self.seconds_per_image * num_images


def forecast_scan(
    source: str | Path | np.ndarray | ImageSet | Checkpoint | Denoiser,
    data: str | Path | np.ndarray | ImageSet,
    *,
    holdout: str | Path | np.ndarray | ImageSet | None = None,
    config: ScanConfig | None = None,
    progress: Progress = automatic,
) -> ScanForecast:
    """Forecast what `scan` would take, with the checks that it makes before it samples.

    Args:
        source: what is audited; this and the rest as in `scan`.
        data: the training images.
        holdout: images like them that the model was not trained on.
        config: how to generate and judge.
        progress: told how far the reading of images is.

    Raises:
        DataError, ConfigError, CheckpointError, TypeError: as in `scan`.

    Examples:
        >>> import numpy as np
        >>> train = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), np.uint8)
        >>> found = forecast_scan("optimum", train, config=ScanConfig(fail_above=0.001))
        >>> found.likely_stop, found.earliest_stop, found.state_bytes
        (3787, 64, 1920000)
    """
    config = config or ScanConfig()
    data = as_images(data, progress=progress)
    source = as_source(
        source,
        data,
        conditional=config.is_by_class,
        device=config.execution.device,
        progress=progress,
    )
    holdout = None if holdout is None else as_images(holdout, progress=progress)
    for images in (data, holdout):
        if images is not None:
            check_comparable(source, images)
    if isinstance(source, Checkpoint):
        config = search_what_was_trained_on(config, source)
    model = source.network if isinstance(source, Checkpoint) else None
    if model is not None:
        config = replace(config, sampler=resolve_sampler(config.sampler, model))
    check_diagnostics(
        Setting(config=config, data=data, holdout=holdout, model=model, open_index=_no_index)
    )

    D = data.images[:1].size
    num_stored = len(data) * (2 if config.index.flips else 1)
    width = projected_width(num_stored, D, config.index.memory_limit)
    control: Control = "leave-one-out" if holdout is None else "held-out images"
    num_control = min(len(data), LEFT_OUT_IMAGES) if holdout is None else len(holdout)
    gate = None
    if config.fail_above is not None:
        # The floor is measured by the scan; at best, none of the control is counted.
        floor = FloorCount(control, 0, num_control)
        gate = GateTest.of(
            sequential_decision(
                0, 0, limit=config.fail_above, confidence=config.rule.confidence, floor=floor
            )
        )
    is_gated = gate is not None and model is not None
    return ScanForecast(
        num_images=len(config.seeds) if isinstance(source, Checkpoint) else len(source),
        likely_stop=_stop(0, gate, config) if is_gated else None,
        earliest_stop=_stop(1, gate, config) if is_gated else None,
        seconds_per_image=None if model is None else _seconds_per_image(model, config),
        optimum_images=None if model is None else _optimum_images(config, data, holdout),
        index_bytes=None if config.index.features else num_index_bytes(num_stored, D, width),
        state_bytes=None if model is None else len(config.seeds) * D,
        floor=None
        if gate is None
        else gate_power_text(gate.limit, gate.confidence, 0, num_control, control),
    )


def num_evaluations(sampler: SamplerConfig) -> int:
    """Evaluations of a network per image: 2n − 1 for n steps of Heun, n of the others; of dopri5,
    which takes what it needs, about DOPRI5."""
    if sampler.num_steps is None:
        return DOPRI5
    is_heun = (sampler.solver or "heun") == "heun"
    return 2 * sampler.num_steps - 1 if is_heun else sampler.num_steps


def _no_index() -> NoReturn:
    raise RuntimeError("a forecast builds no index")


def _stop(copies: int, gate: GateTest | None, config: ScanConfig) -> int | None:
    if gate is None:
        return None
    return forecast_stop(copies, copies, gate, min_samples=config.min_samples).median


def _seconds_per_image(model: Denoiser, config: ScanConfig) -> float:
    """Time a short sampling of one group, after a shorter one to warm up."""
    execution = settled(config.execution, model)
    size = group_size(model, execution)
    evaluations, seconds = 0, 0.0
    for steps in (1, MEASURED_STEPS):
        sampler = replace(config.sampler.by_edm, num_steps=steps)
        started = time.perf_counter()
        # Their bytes come to the CPU, so that a GPU has finished.
        for _ in generate_images(
            model,
            range(size),
            config=sampler,
            class_index=config.class_index,
            execution=execution,
            progress=silent,
        ):
            pass
        evaluations, seconds = num_evaluations(sampler), time.perf_counter() - started
    return seconds / evaluations * num_evaluations(config.sampler) / size


def _optimum_images(config: ScanConfig, data: ImageSet, holdout: ImageSet | None) -> int:
    """How many images take as many evaluations of the model as the comparison with the optimum."""
    if "optimality" in config.without:
        return 0
    per_image = num_evaluations(config.sampler)
    most = min(config.optimum_images, len(config.seeds))
    noised = min(most, len(data)) + (0 if holdout is None else min(most, len(holdout)))
    sampled = min(config.optimum_trajectories, len(config.seeds))
    compared = config.sampler.by_edm  # at its levels, and along its trajectories
    evaluated = noised * (compared.num_steps or 0) + sampled * num_evaluations(compared)
    return -(-evaluated // per_image)
