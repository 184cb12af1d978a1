"""What a scan would take, step by step, measured on a small part of each, without sampling.

The denoising test is made as a whole, since it is short: whether the model denoises is worth
knowing before. Steps of about a second are left out.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from memaudit.audit.augmentation import search_what_was_trained_on
from memaudit.audit.config import ScanConfig
from memaudit.audit.confirmation import LEAST_RESAMPLED, PROBE_SIZE
from memaudit.audit.confirmed_images import choose_precision, precision_that_pays
from memaudit.audit.denoising.loss_test import check_denoising
from memaudit.audit.denoising.noise_range import check_noise_range
from memaudit.audit.diagnostics import membership_inference, noise_and_return, optimality
from memaudit.audit.diagnostics.diagnostic import Setting
from memaudit.audit.diagnostics.holdout import check_disjoint, check_groups
from memaudit.audit.diagnostics.registry import check_diagnostics
from memaudit.audit.memorization.controls import (
    LEFT_OUT_BESIDE_HOLDOUT,
    LEFT_OUT_IMAGES,
    most_left_out,
)
from memaudit.audit.memorization.matches import match_images, searched_radii
from memaudit.audit.memorization.screened import screened_rows
from memaudit.audit.neighbors.build import build_feature_index
from memaudit.audit.neighbors.encoder import CHECKED
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.projection import num_index_bytes, num_making_bytes, projected_width
from memaudit.audit.other_forms import num_searched
from memaudit.audit.screening import refuse_screening_of_images, screening_sampler
from memaudit.audit.source import as_source
from memaudit.audit.source_checks import check_comparable, check_may_pass
from memaudit.audit.statistics.floor_power import gate_power_text
from memaudit.audit.statistics.forecast import GateTest, forecast_stop
from memaudit.audit.statistics.gate import (
    FloorCount,
    WholeImages,
    sequential_decision,
)
from memaudit.data.images import ImageSet
from memaudit.data.sources import as_images
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.denoiser import Denoiser
from memaudit.models.generate import check_classes, generate_images
from memaudit.models.guidance import check_guidance
from memaudit.models.own_sampler import resolve_sampler
from memaudit.models.sampling_time import SamplingTime, time_sampling
from memaudit.progress import Progress, automatic, silent

INDEXED = 50_000
"""Training images of the index that is timed; the time of a larger one grows with their number."""
SEARCHED = 1024
"""Images that are searched for in a timing: as many as a scan searches for at a time."""


@dataclass(frozen=True)
class StepForecast:
    """What a step of a scan would take."""

    step: str
    """Its name, as in a report's timings."""
    seconds: float


@dataclass(frozen=True)
class ScanForecast:
    """What a scan would take. Times and numbers of a model are None where images are given."""

    num_images: int
    """Images to generate at most, or given."""
    likely_stop: int | None
    """Images after which a gate decides if none of them is a copy, which may be more than
    `num_images`. None without a gate, where images are given, and where no PASS can follow: with
    screened seeds, or a faster number format that has begun by then."""
    earliest_stop: int | None
    """Images after which it decides if all of them are copies."""
    seconds_per_image: float | None
    """Time to generate one image with the full sampler, sampled twice or not."""
    steps: tuple[StepForecast, ...]
    """The steps that take longest, in their order; sampling of all images, whatever a gate
    decides."""
    denoises: str | None
    """Whether the model denoises the training images, in a sentence."""
    index_bytes: int | None
    """Memory of the index of the training images; None where features are compared."""
    making_bytes: int | None
    """Most memory that making the index takes; None where features are compared."""
    optimum_bytes: int | None
    """Memory of the training images for the comparison with the optimum, about; None without."""
    state_bytes: int | None
    """Disk that generated images take until the report is written."""
    floor: str | None
    """What the held-out images allow the gate to show; None without a gate."""

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(each.seconds for each in self.steps)


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
    if holdout is not None:
        check_disjoint(data, holdout)
    check_groups(data, holdout)
    holdout = None if holdout is None else holdout.one_per_group()
    if config.fail_above is not None:
        check_may_pass(source, data)
    if isinstance(source, Checkpoint):
        config = search_what_was_trained_on(config, source)
    model = source.network if isinstance(source, Checkpoint) else None
    if model is not None:
        if config.class_index is not None:
            check_classes(model, [config.class_index])
        check_guidance(model, config.sampler.guidance)
        config = replace(config, sampler=resolve_sampler(config.sampler, model))
        assert isinstance(source, Checkpoint)
        config = choose_precision(
            config,
            source,
            compares_features=config.index.compares_features,
            has_groups=data.group_numbers is not None,
        )
        config = precision_that_pays(config)
    elif config.screening is not None:
        refuse_screening_of_images()
    check_diagnostics(
        Setting(config=config, data=data, holdout=holdout, model=model, open_index=_no_index)
    )
    if config.index.features is not None:  # opened, and tried on the same images as by the scan
        rows = np.unique(np.linspace(0, len(data) - 1, CHECKED).round().astype(np.int64))
        build_feature_index(data.take(rows), config.index, device=config.execution.device)

    D = data.images[:1].size
    num_stored = len(data) * (2 if config.index.flips else 1)
    width = projected_width(num_stored, D, config.index.memory_limit)
    floor = _floor_at_best(data, holdout)
    gate = _gate(config, floor)
    is_gated = model is not None and _stops_early(config)
    likely_stop = likely_stop_of(data, holdout, config) if is_gated else None
    num_images = len(config.seeds) if isinstance(source, Checkpoint) else len(source)
    steps: list[StepForecast] = []
    denoises = sampling = per_image = None
    in_fp32 = replace(config.execution, precision="fp32")
    if isinstance(source, Checkpoint):
        denoises, seconds = _denoising(source, data, config, progress)
        steps.append(StepForecast("denoising test", seconds))
        sampling = time_sampling(
            source.network,
            config.sampler,
            execution=in_fp32,
            class_index=config.class_index,
        )
        per_image = sampling.per_image(config.sampler)
    num_others = 0 if model is not None else num_searched(num_images)
    of_search, index = time_search(data, holdout, config, num_images + num_others)
    steps += of_search[:2]
    if model is not None and sampling is not None:
        of_sampling = _sampling(model, sampling, config, index)
        if config.execution.is_faster:
            per_image = sum(step.seconds for step in of_sampling) / num_images
        steps += of_sampling
    steps += of_search[2:]
    has_optimum = model is not None and "optimality" not in config.without
    if model is not None:
        steps += _beside(model, data, holdout, config, sampling)
    return ScanForecast(
        num_images=num_images,
        likely_stop=likely_stop,
        earliest_stop=_stop(1, gate, config) if is_gated else None,
        seconds_per_image=per_image,
        steps=tuple(steps),
        denoises=denoises,
        optimum_bytes=4 * len(data) * D if has_optimum else None,
        index_bytes=None
        if config.index.compares_features
        else num_index_bytes(num_stored, D, width),
        making_bytes=None
        if config.index.compares_features
        else num_making_bytes(num_stored, D, width),
        state_bytes=None if model is None else len(config.seeds) * D,
        floor=None
        if gate is None
        else gate_power_text(
            gate.limit,
            gate.confidence,
            0,
            floor.total,
            floor.control,
            whole_images=floor if config.index.match else None,
        ),
    )


def _no_index() -> NoReturn:
    raise RuntimeError("a forecast builds no index")


def likely_stop_of(data: ImageSet, holdout: ImageSet | None, config: ScanConfig) -> int | None:
    """Images of a model after which a gate decides if none is a copy; None where none stops early.

    Args:
        data: the training images.
        holdout: held-out images, if there are any.
        config: of the scan.
    """
    if not _stops_early(config):
        return None
    found = _stop(0, _gate(config, _floor_at_best(data, holdout)), config)
    if config.execution.is_faster and found is not None and found > PROBE_SIZE:
        return None  # images judged in a faster format give no PASS
    return found


def _stops_early(config: ScanConfig) -> bool:
    """Whether a gate may stop the sampling; screened seeds give no PASS, and none is left out."""
    return config.fail_above is not None and config.screening is None and config.is_sequential


def _floor_at_best(data: ImageSet, holdout: ImageSet | None) -> FloorCount:
    """The floor of the gate, which the scan measures, if none of the control is counted."""
    if holdout is not None:
        return FloorCount("held-out images", 0, len(holdout))
    return FloorCount("leave-one-out", 0, min(len(data.independent_rows), LEFT_OUT_IMAGES))


def _gate(config: ScanConfig, floor: FloorCount) -> GateTest | None:
    if config.fail_above is None:
        return None
    return GateTest.of(
        sequential_decision(
            0,
            0,
            limit=config.fail_above,
            confidence=config.rule.confidence,
            floor=floor,
            whole_images=WholeImages(0, floor) if config.index.match else None,
        )
    )


def _stop(copies: int, gate: GateTest | None, config: ScanConfig) -> int | None:
    if gate is None:
        return None
    return forecast_stop(copies, copies, gate, min_samples=config.min_samples).median


def _denoising(
    checkpoint: Checkpoint, data: ImageSet, config: ScanConfig, progress: Progress
) -> tuple[str, float]:
    """What the denoising test says, and how long it takes."""
    started = time.perf_counter()
    found = check_denoising(
        checkpoint.network,
        data,
        sampler=config.sampler.by_edm,
        checkpoint=checkpoint,
        flips=config.index.flips,
        execution=config.execution,
        progress=progress,
    )
    if config.fail_above is not None:
        check_noise_range(found.noise_range)
    return found.message, time.perf_counter() - started


def time_search(
    data: ImageSet, holdout: ImageSet | None, config: ScanConfig, num_images: int
) -> tuple[list[StepForecast], NeighborIndex | None]:
    """Time index, controls and search on a part of the training images; features are not timed.

    Args:
        data: the training images.
        holdout: held-out images, whose search is part of the controls.
        config: of the scan.
        num_images: images that will be searched for.

    Returns:
        The steps, and the index of that part, if pixels are compared.
    """
    if config.index.compares_features:
        return [], None
    part = data.images[:INDEXED]
    growth = len(data) / len(part)
    started = time.perf_counter()
    groups = data.group_numbers
    index = NeighborIndex(
        part,
        device=config.execution.device,
        flips=config.index.flips,
        groups=None if groups is None else groups[:INDEXED],
    )
    building = time.perf_counter() - started
    rng = np.random.default_rng(0)
    radii = searched_radii(config.rule)
    rows = rng.choice(len(part), min(SEARCHED, len(part)), replace=False)
    queries = rng.permuted(part[rows], axis=0)  # like training images, and equal to none
    index.distinct_nearest(queries[:2], duplicate_rms=radii)  # loads what the first search does
    started = time.perf_counter()
    index.distinct_nearest(queries, duplicate_rms=radii)
    one = (time.perf_counter() - started) / len(rows) * growth
    started = time.perf_counter()
    most = LEFT_OUT_IMAGES if holdout is None else LEFT_OUT_BESIDE_HOLDOUT
    judged = min(len(data.independent_rows), most)
    if len(part) > 2:
        facts = index.leave_one_out(rows, duplicate_rms=radii).statistics
        if facts is not None and facts.num_brute_forced:
            # It stops once enough images had to be compared with all others.
            judged = min(judged, most_left_out(facts.num_brute_forced / len(rows)))
    alone = (time.perf_counter() - started) / len(rows) * growth
    controls = alone * judged + one * (0 if holdout is None else len(holdout))
    steps = [
        StepForecast("index", building * growth),
        StepForecast("controls", controls),
        StepForecast("search", one * num_images),
    ]
    return steps, index


def _sampling(
    model: Denoiser, sampling: SamplingTime, config: ScanConfig, index: NeighborIndex | None
) -> list[StepForecast]:
    """The steps of sampling: of all images, or of all screened ones and some in full.

    How many are candidates is seen from a group of them. In a faster format than fp32 the probe is
    sampled in both, and of the other images at least those with the smallest margins.
    """
    number, screening = len(config.seeds), config.screening
    if screening is None and config.execution.is_faster:
        fast = time_sampling(
            model, config.sampler, execution=config.execution, class_index=config.class_index
        )
        again = PROBE_SIZE + round(LEAST_RESAMPLED * (number - PROBE_SIZE))
        seconds = sampling.seconds(again, config.sampler) + fast.seconds(number, config.sampler)
        return [StepForecast("sampling", seconds)]
    if screening is None:
        return [StepForecast("sampling", sampling.seconds(number, config.sampler))]
    cheap = screening_sampler(config.sampler, screening)
    candidates = 0.0
    if index is not None:
        batches = generate_images(
            model,
            range(sampling.group),
            config=cheap,
            class_index=config.class_index,
            execution=config.execution,
            progress=silent,
        )
        images = np.concatenate([batch.images for batch in batches])
        found = screened_rows(match_images(index, images, config.rule), np.zeros(len(images), bool))
        candidates = float(found.is_copy(config.rule, screening.screen_below).mean())
    drawn = screening.num_drawn(number)
    in_full = round(drawn + candidates * (number - drawn))
    return [
        StepForecast("screening", sampling.seconds(number, cheap)),
        StepForecast("sampling", sampling.seconds(in_full, config.sampler)),
    ]


def _beside(
    model: Denoiser,
    data: ImageSet,
    holdout: ImageSet | None,
    config: ScanConfig,
    sampling: SamplingTime | None,
) -> list[StepForecast]:
    """The diagnostics that evaluate the model."""
    found = []
    assert sampling is not None
    per_evaluation = sampling.per_evaluation / sampling.group
    if "noise_and_return" in config.also:
        evaluations = noise_and_return.forecast_evaluations(model, data, holdout, config.sampler)
        found.append(StepForecast("noise_and_return", per_evaluation * evaluations))
    if "membership" in config.also and holdout is not None:
        evaluations = membership_inference.forecast_evaluations(data, holdout)
        found.append(StepForecast("membership", per_evaluation * evaluations))
    if "optimality" not in config.without:
        seconds = optimality.forecast_seconds(
            model, data, holdout, config, per_evaluation=per_evaluation
        )
        found.append(StepForecast("optimality", seconds))
    return found
