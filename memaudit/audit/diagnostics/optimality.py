"""Against the optimum: how close is the model to the closed-form denoiser that can only copy?

The model is compared with D*, the closed-form optimum of its training images, at the noise levels
that its sampler visits: on noised training and held-out images, and along its own trajectories.
docs/optimum.md says what each number means.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext, Setting
from memaudit.audit.diagnostics.section import (
    STROKES,
    Block,
    Curve,
    Heading,
    LineChart,
    Paragraph,
    Row,
    Table,
)
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.source_checks import check_fits, weigh_classes
from memaudit.audit.statistics.intervals import Estimate, Proportion, clopper_pearson, describe
from memaudit.audit.statistics.per_class import holm
from memaudit.audit.statistics.resampling import Sample, resampled, welch
from memaudit.data.images import ImageSet, uint8_to_float
from memaudit.data.sources import as_images
from memaudit.errors import ConfigError
from memaudit.models.arithmetic import float32_inference, fp32_products
from memaudit.models.checkpoints import Checkpoint, denoiser_of
from memaudit.models.denoiser import Denoiser
from memaudit.models.devices import to_device, with_float64
from memaudit.models.execution import Execution
from memaudit.models.generate import GeneratedBatch, generate_images, visited_levels
from memaudit.models.group_size import group_size, settled
from memaudit.models.guidance import guided
from memaudit.models.memory import in_groups
from memaudit.models.optimum.closed_form import ClosedFormOptimum, Evaluation
from memaudit.models.sampler_config import SamplerConfig
from memaudit.models.sampling_time import num_evaluations
from memaudit.progress import Progress, silent
from memaudit.wording import p_text

TIMED_LEVELS = 3
"""A forecast times one in this many noise levels."""


@dataclass(frozen=True)
class OptimalityConfig:
    """How many images to compare. The defaults cost as much as generating about 350 images."""

    num_images: int = 256
    """Training images to add noise to, and likewise held-out images; all if there are fewer."""
    num_trajectories: int = 64
    """Images to generate, with seeds 0 to num_trajectories - 1."""
    sampler: SamplerConfig = SamplerConfig()
    """How to generate; model and optimum are compared at its noise levels."""
    class_index: int | None = None
    """The class of all generated images, or None to draw it from each seed."""
    class_weights: tuple[float, ...] | None = None
    """How often each class is drawn, or None for all alike. Classes without training images, which
    have no optimum, are left out either way."""
    seed: int = 0
    """Chooses the images, their noise and the resampling."""
    confidence: float = 0.95
    """Confidence of the intervals."""
    execution: Execution = Execution()
    """Where the model is, and how many images it is given at a time."""

    def __post_init__(self) -> None:
        for name in ("num_images", "num_trajectories"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{name} is {getattr(self, name)}; an interval needs at least 2.")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence is {self.confidence}; between 0 and 1 is needed.")


@dataclass(frozen=True)
class NoisedImages:
    """Averages over noised images x = y + σn, with intervals from resampling the images.

    Squares are per pixel value, data in [-1, 1].
    """

    model_loss: Estimate
    """The model's loss ‖D(x; σ) − y‖²."""
    optimum_loss: Estimate
    """The optimum's loss ‖D*(x; σ) − y‖²."""
    squared_distance: Estimate
    """Squared distance between both, ‖D(x; σ) − D*(x; σ)‖²."""
    num_effective: Estimate
    """Effective number of training images that share the posterior, 1/Σw²."""


@dataclass(frozen=True)
class AtSigma:
    """Model and optimum at one noise level."""

    sigma: float
    train: NoisedImages
    """Averages over training images."""
    holdout: NoisedImages | None
    """Averages over held-out images, or None if none were given."""
    trajectory: Estimate
    """‖D(x; σ) − D*(x; σ)‖² per pixel value, at the x that the model's sampler visits."""
    mem_gap: Estimate | None
    """(L_holdout − L_train) / (L_holdout − L*_train): 0 for a model that denoises both equally
    well, 1 for one that behaves like the optimum. None without held-out images, or if the interval
    of the denominator reaches 0."""
    p_adjusted: float | None
    """Chance that the held-out loss exceeds the training loss by at least that much if the model
    knows neither set (Welch's test, with Holm's correction for the number of levels). None without
    held-out images."""


@dataclass(frozen=True)
class AgreementBaseline:
    """How often a model ends where the optimum of some images does that it never saw.

    Both sets are equally large, with as many images of each class, since agreement is more frequent
    in a smaller set.
    """

    num_images: int
    """Images of either set."""
    train: Proportion
    """Seeds for which model and optimum of the training images end nearest to the same one."""
    holdout: Proportion
    """The same for the optimum of the held-out images."""


@dataclass(frozen=True)
class Optimality:
    """A model compared with the optimum of its training images."""

    num_train: int
    """Training images that noise was added to."""
    num_holdout: int
    """Held-out images that noise was added to, 0 if none were given."""
    num_trajectories: int
    """Images that were sampled from both."""
    confidence: float
    at_sigma: tuple[AtSigma, ...]
    """Every noise level that the sampler visits, in descending order."""
    agreement: Proportion
    """Seeds for which model and optimum end nearest to the same training image."""
    baseline: AgreementBaseline | None
    """What of this agreement any model of such images has, or None without held-out images."""


@fp32_products(False)
def compare_with_optimum(
    denoiser: Denoiser | Checkpoint,
    data: str | Path | np.ndarray | ImageSet,
    *,
    holdout: str | Path | np.ndarray | ImageSet | None = None,
    index: NeighborIndex | None = None,
    config: OptimalityConfig | None = None,
    progress: Progress = silent,
) -> Optimality:
    """Compare a model with the closed-form optimum of its training images.

    A class-conditional model is compared with the class-conditional optimum, in the classes that
    have training images.

    Args:
        denoiser: the model, on `config.execution.device`, or its checkpoint.
        data: its training images, with labels if it has classes.
        holdout: images like them that it was not trained on, at least 2.
        index: an index of `data`; built if None.
        config: how many images to compare.
        progress: told how many images are done.

    Raises:
        DataError: shapes or labels do not fit the model.
        ConfigError: the model or the training images do not have the class.
        CheckpointError: the model generates numbers that are not finite.
    """
    denoiser = denoiser_of(denoiser)
    data = as_images(data, progress=progress)
    holdout = None if holdout is None else as_images(holdout, progress=progress)
    config = config or OptimalityConfig()
    for images in (data,) if holdout is None else (data, holdout):
        check_fits(denoiser, images)
    optimum = ClosedFormOptimum(
        data.images,
        data.labels if denoiser.label_dim else None,
        label_dim=denoiser.label_dim,
        device=config.execution.device,
    )
    index = index or NeighborIndex(data.images, device=config.execution.device)
    rng = np.random.default_rng(config.seed)

    if denoiser.label_dim:
        config = replace(config, class_weights=_drawable(denoiser, data, config))
        holdout = None if holdout is None else _in_classes_of(data, holdout)
    along, generated = _follow_trajectories(denoiser, optimum, config, rng, progress)
    agreement = _agreement(generated, optimum, index, config)
    assert agreement is not None
    sigmas = sorted((sigma for _, sigma in along.values), reverse=True)
    train = _denoise(denoiser, optimum, data, sigmas, config, rng, progress)
    held = None
    if holdout is not None:
        held = _denoise(denoiser, optimum, holdout, sigmas, config, rng, progress)

    p_adjusted: Sequence[float | None] = [None] * len(sigmas)
    if held is not None:
        losses = [
            (held.values["model_loss", sigma], train.values["model_loss", sigma])
            for sigma in sigmas
        ]
        p_adjusted = holm([welch(*pair)[1] for pair in losses])
    return Optimality(
        num_train=train.num_images,
        num_holdout=0 if held is None else held.num_images,
        num_trajectories=along.num_images,
        confidence=config.confidence,
        at_sigma=tuple(
            AtSigma(
                sigma=sigma,
                train=_averages(train, sigma, config.confidence),
                holdout=None if held is None else _averages(held, sigma, config.confidence),
                trajectory=resampled(along.means("squared_distance", sigma), config.confidence),
                mem_gap=None if held is None else _mem_gap(train, held, sigma, config.confidence),
                p_adjusted=p_adjusted[row],
            )
            for row, sigma in enumerate(sigmas)
        ),
        agreement=agreement,
        baseline=None
        if holdout is None
        else _agreement_baseline(denoiser, generated, data, holdout, config),
    )


def _drawable(
    denoiser: Denoiser, data: ImageSet, config: OptimalityConfig
) -> tuple[float, ...] | None:
    """How often each class is drawn, 0 without training images; None for all alike."""
    if config.class_index is not None:
        return None
    assert data.labels is not None
    is_occupied = np.bincount(data.labels, minlength=denoiser.label_dim) > 0
    if config.class_weights is None and is_occupied.all():
        return None
    weights = np.ones(denoiser.label_dim) if config.class_weights is None else config.class_weights
    return tuple((np.asarray(weights) * is_occupied).tolist())


def _in_classes_of(data: ImageSet, holdout: ImageSet) -> ImageSet | None:
    """The held-out images of classes that have training images, or None if fewer than 2 are."""
    assert data.labels is not None and holdout.labels is not None
    is_comparable = np.isin(holdout.labels, data.labels)
    if is_comparable.all():
        return holdout
    return holdout.take(np.flatnonzero(is_comparable)) if is_comparable.sum() >= 2 else None


def _averages(sample: Sample, sigma: float, confidence: float) -> NoisedImages:
    return NoisedImages(
        **{
            field.name: resampled(sample.means(field.name, sigma), confidence)
            for field in fields(NoisedImages)
        }
    )


def _mem_gap(train: Sample, held: Sample, sigma: float, confidence: float) -> Estimate | None:
    """MemGap, or None where its denominator could be 0 or less."""
    of_held = held.means("model_loss", sigma)
    denominator = of_held - train.means("optimum_loss", sigma)
    if resampled(denominator, confidence).low <= 0:
        return None
    return resampled((of_held - train.means("model_loss", sigma)) / denominator, confidence)


def _denoise(
    denoiser: Denoiser,
    optimum: ClosedFormOptimum,
    images: ImageSet,
    sigmas: list[float],
    config: OptimalityConfig,
    rng: np.random.Generator,
    progress: Progress,
) -> Sample:
    """Add noise to some images, one per image for all levels, and denoise them with both."""
    size = min(config.num_images, len(images))
    chosen = images.take(np.sort(rng.choice(len(images), size, replace=False)))
    step = group_size(denoiser, config.execution)
    denoiser, device = with_float64(denoiser, torch.device(config.execution.device))
    noises = torch.from_numpy(rng.standard_normal(chosen.images.shape))

    def compared(rows: slice) -> dict[tuple[str, float], Tensor]:
        found = {}
        y = uint8_to_float(to_device(torch.from_numpy(chosen.images[rows]), device)).double()
        noise = to_device(noises[rows], device)
        class_labels = None
        if denoiser.label_dim and chosen.labels is not None:
            labels = one_hot(torch.from_numpy(chosen.labels[rows]), denoiser.label_dim)
            class_labels = to_device(labels.to(torch.float32), device)
        for sigma in sigmas:  # descending, so that the optimum can reuse what it found before
            level = torch.full((), sigma, dtype=torch.float64, device=device)
            x = y + level * noise
            with float32_inference():
                D = denoiser(x, level, class_labels)
            best = optimum.evaluate(x, level, class_labels)
            found["model_loss", sigma] = _squared_distance(D, y)
            found["optimum_loss", sigma] = _squared_distance(best.denoised, y)
            found["squared_distance", sigma] = _squared_distance(D, best.denoised)
            found["num_effective", sigma] = best.num_effective
        return found

    values: dict[tuple[str, float], list[Tensor]] = defaultdict(list)
    for rows, found in in_groups(size, step, device, compared):
        for key, of_images in found.items():
            values[key].append(of_images)
        progress(f"Denoising {images.source}", rows.stop, size)
    return Sample({key: torch.cat(parts).cpu().numpy() for key, parts in values.items()}, rng)


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖² per pixel value: [B, C, H, W] → float64 [B]."""
    return (a.double() - b.double()).square().flatten(1).mean(1)


class _Followed:
    """A denoiser that records its distance from the optimum at every evaluation."""

    def __init__(self, denoiser: Denoiser, optimum: Denoiser) -> None:
        self.img_channels, self.img_resolution = denoiser.img_channels, denoiser.img_resolution
        self.label_dim = denoiser.label_dim
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        self.round_sigma = denoiser.round_sigma
        self._denoiser, self._optimum = denoiser, optimum
        self.squared_distances: dict[float, list[Tensor]] = defaultdict(list)
        """Distances by sigma, float64 [B] per evaluation."""

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        D = self._denoiser(x, sigma, class_labels)
        best = self._optimum(x, sigma, class_labels)
        self.squared_distances[float(sigma)].append(_squared_distance(D, best))
        return D


def _follow_trajectories(
    denoiser: Denoiser,
    optimum: ClosedFormOptimum,
    config: OptimalityConfig,
    rng: np.random.Generator,
    progress: Progress,
) -> tuple[Sample, GeneratedBatch]:
    """Sample the model, and compare it with the optimum along its trajectories."""
    values: dict[tuple[str, float], list[Tensor]] = defaultdict(list)
    ends: list[GeneratedBatch] = []
    size = group_size(denoiser, config.execution)
    for start in range(0, config.num_trajectories, size):
        seeds = range(start, min(start + size, config.num_trajectories))
        w = config.sampler.guidance  # compared as they are sampled
        followed = _Followed(guided(denoiser, w), guided(optimum, w))
        ends += generate_images(
            followed,
            seeds,
            config=replace(config.sampler, guidance=1.0),
            class_index=config.class_index,
            class_weights=config.class_weights,
            execution=config.execution,
        )
        for sigma, evaluations in followed.squared_distances.items():
            # An incomplete group is padded after its images.
            values["squared_distance", sigma].append(torch.stack(evaluations).mean(0)[: len(seeds)])
        progress("Following trajectories", seeds.stop, config.num_trajectories)
    along = Sample({key: torch.cat(parts).cpu().numpy() for key, parts in values.items()}, rng)
    classes = [end.class_index for end in ends if end.class_index is not None]
    return along, GeneratedBatch(
        seeds=np.concatenate([end.seeds for end in ends]),
        images=np.concatenate([end.images for end in ends]),
        class_index=np.concatenate(classes) if classes else None,
    )


def _agreement(
    generated: GeneratedBatch,
    optimum: ClosedFormOptimum,
    index: NeighborIndex,
    config: OptimalityConfig,
    classes: np.ndarray | None = None,
) -> Proportion | None:
    """How often model and optimum end nearest to the same image.

    Args:
        generated: the model's images, with the seeds that they were made from.
        optimum: the optimum of a set of images.
        index: an index of the same set.
        config: how to sample.
        classes: the classes in the set, if it may lack some.

    Returns:
        None if no image of the model is of a class in the set.
    """
    seeds, images, class_index = generated.seeds, generated.images, generated.class_index
    if class_index is not None and classes is not None:
        rows = np.isin(class_index, classes)
        seeds, images, class_index = seeds[rows], images[rows], class_index[rows]
    if not len(seeds):
        return None
    batches = generate_images(
        optimum,
        seeds.tolist(),
        config=config.sampler,
        class_index=None if class_index is None else class_index.tolist(),
        execution=config.execution,
    )
    best = np.concatenate([batch.images for batch in batches])
    ends = [index.nearest(each, 1).index for each in (images, best)]
    return clopper_pearson(int((ends[0] == ends[1]).sum()), len(seeds), config.confidence)


def _agreement_baseline(
    denoiser: Denoiser,
    generated: GeneratedBatch,
    data: ImageSet,
    holdout: ImageSet,
    config: OptimalityConfig,
) -> AgreementBaseline | None:
    """The agreement with the optima of equally many training and held-out images."""
    rng = np.random.default_rng([config.seed, 1])
    labels = [
        images.labels if denoiser.label_dim and images.labels is not None else np.zeros(len(images))
        for images in (data, holdout)
    ]
    chosen: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for c in np.unique(labels[1]):
        rows = [np.flatnonzero(of_set == c) for of_set in labels]
        size = min(map(len, rows))
        for kept, of_set in zip(chosen, rows, strict=True):
            kept.append(rng.choice(of_set, size, replace=False))
    found = []
    for images, kept in zip((data, holdout), chosen, strict=True):
        part = images.take(np.sort(np.concatenate(kept)))
        if len(part) < 2:
            return None
        optimum = ClosedFormOptimum(
            part.images,
            part.labels if denoiser.label_dim else None,
            label_dim=denoiser.label_dim,
            device=config.execution.device,
        )
        index = NeighborIndex(part.images, device=config.execution.device)
        found.append(_agreement(generated, optimum, index, config, part.labels))
    train, held = found
    if train is None or held is None:
        return None
    return AgreementBaseline(num_images=sum(map(len, chosen[0])), train=train, holdout=held)


def forecast_seconds(
    denoiser: Denoiser,
    data: ImageSet,
    holdout: ImageSet | None,
    config: ScanConfig,
    *,
    per_evaluation: float,
) -> float:
    """How long the comparison of a scan will take, from one group of images at some noise levels.

    Args:
        denoiser: the model, on `config.execution.device`.
        data: its training images.
        holdout: images that it was not trained on, if there are any.
        config: of the scan.
        per_evaluation: seconds that the model takes for an image.
    """
    setting = Setting(config, data, holdout, denoiser, open_index=_no_index)
    if not _fits_labels(setting):
        return 0.0
    compared = _config_of(setting)
    started = time.perf_counter()
    optimum = ClosedFormOptimum(
        data.images,
        data.labels if denoiser.label_dim else None,
        label_dim=denoiser.label_dim,
        device=compared.execution.device,
    )
    seconds = time.perf_counter() - started
    group = group_size(denoiser, settled(compared.execution, denoiser))
    levels = visited_levels(denoiser, compared.sampler).tolist()
    timed = replace(compared, num_images=max(2, min(group, compared.num_images)))
    spent = _Stopwatch(optimum)
    rng = np.random.default_rng(0)
    sigmas = levels[::TIMED_LEVELS]
    _denoise(denoiser, spent, data, sigmas, timed, rng, silent)  # type: ignore[arg-type]
    of_optimum = spent.seconds / len(sigmas) / min(timed.num_images, len(data))

    noised = min(compared.num_images, len(data))
    noised += 0 if holdout is None else min(compared.num_images, len(holdout))
    sampled = -(-compared.num_trajectories // group) * group
    evaluations = num_evaluations(compared.sampler)
    seconds += (per_evaluation + of_optimum) * (noised * len(levels) + sampled * evaluations)
    seconds += of_optimum * sampled * evaluations  # what the optimum makes of the same noise
    if holdout is not None:  # and two optima of as many images as the smaller set has
        share = min(len(data), len(holdout)) / len(data)
        seconds += 2 * share * of_optimum * sampled * evaluations
    return seconds


class _Stopwatch:
    """The optimum, and the seconds spent in it."""

    def __init__(self, optimum: ClosedFormOptimum) -> None:
        self._optimum, self.seconds = optimum, 0.0

    def evaluate(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Evaluation:
        started = time.perf_counter()
        found = self._optimum.evaluate(x, sigma, class_labels)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        self.seconds += time.perf_counter() - started
        return found


def _no_index() -> NoReturn:
    raise RuntimeError("a forecast builds no index")


def _fits_labels(setting: Setting) -> bool:
    """Whether the labels fit the model, as the comparison needs them to."""
    config, model = setting.config, setting.given_model
    data, holdout = setting.data, setting.holdout
    sets = [images for images in (data, holdout) if images is not None]
    if model.label_dim and any(not 0 < images.num_classes <= model.label_dim for images in sets):
        return False
    if model.label_dim and config.class_index is not None:
        assert data.labels is not None
        if config.class_index not in data.labels:  # without training images there is no optimum
            return False
    return True


def _config_of(setting: Setting) -> OptimalityConfig:
    """How a scan compares: on at most as many images as it samples."""
    config, model = setting.config, setting.given_model
    at_most = max(2, len(config.seeds))
    return OptimalityConfig(
        num_images=min(config.optimum_images, at_most),
        num_trajectories=min(config.optimum_trajectories, at_most),
        sampler=config.sampler.by_edm,
        class_index=config.class_index,
        class_weights=weigh_classes(model, setting.data, config.class_frequencies),
        confidence=config.rule.confidence,
        execution=config.execution,
    )


def _run(context: Context) -> Optimality | None:
    """Compare on at most as many images as were sampled, and only if the labels fit the model."""
    setting = context.setting
    if not _fits_labels(setting):
        return None
    return compare_with_optimum(
        setting.given_model,
        setting.data,
        holdout=setting.holdout,
        index=setting.open_index(),
        config=_config_of(setting),
        progress=setting.progress,
    )


def _section(result: Optimality, page: PageContext) -> Iterator[Block]:
    agreement = result.agreement
    yield Paragraph(
        "The best possible denoiser of a finite training set is known in closed form, and it can "
        "only copy. The closer a model’s outputs are to those of this optimum at every noise "
        "level, the closer the model is to copying. Sampled from the same noise, model and optimum "
        f"end nearest to the same training image for {agreement.count} of {agreement.total} seeds: "
        f"{describe(agreement)}. A model can copy every time and still end at a different training "
        f"image than the optimum. {_compared(result.baseline)}"
    )
    yield from _charts(result)
    yield Heading("The same in numbers")
    yield _table(result)
    held = f" and {result.num_holdout} held-out images" if result.num_holdout else ""
    gap = (
        " MemGap: 0 for a model that denoises training and held-out images equally well, 1 for "
        "one that behaves like the optimum; “–” if noise hides it."
        if result.num_holdout
        else ""
    )
    yield Paragraph(
        f"{result.num_train} training images{held} with noise, {result.num_trajectories} "
        "trajectories. Losses and distances are squares per pixel value, data in [-1, 1]; the "
        "curves are cut off at 1e-7. Effective number: how many training images share the "
        f"optimum’s answer; near 1 it can only return one of them.{gap}",
        is_small=True,
    )


def _compared(baseline: AgreementBaseline | None) -> str:
    """What of the agreement any model of such images has."""
    if baseline is None:
        return (
            "Without held-out images there is no baseline: a model that saw none of the training "
            "images agrees now and then, too."
        )
    return (
        f"With {baseline.num_images:,} images each, the model ends where the optimum of training "
        f"images does for {baseline.train}, and where that of held-out images does, which it "
        f"never saw, for {baseline.holdout}. Only the difference speaks of memory."
    )


def _charts(result: Optimality) -> Iterator[LineChart]:
    """Losses, distances and, with held-out images, MemGap over the noise level."""
    x_label = "noise level sigma"

    def curves(*named: tuple[str, Callable[[AtSigma], Estimate | None]]) -> tuple[Curve, ...]:
        drawn = []
        for (name, value), stroke in zip(named, STROKES, strict=False):
            points = tuple((at.sigma, y) for at in result.at_sigma if (y := value(at)) is not None)
            if points:
                drawn.append(Curve(name, stroke, points))
        return tuple(drawn)

    yield LineChart(
        "Denoising loss per pixel value",
        x_label,
        curves(
            ("model, training images", lambda at: at.train.model_loss),
            ("optimum, training images", lambda at: at.train.optimum_loss),
            (
                "model, held-out images",
                lambda at: None if at.holdout is None else at.holdout.model_loss,
            ),
        ),
    )
    yield LineChart(
        "Squared distance from model to optimum per pixel value",
        x_label,
        curves(
            ("noised training images", lambda at: at.train.squared_distance),
            ("the model's own trajectories", lambda at: at.trajectory),
            (
                "noised held-out images",
                lambda at: None if at.holdout is None else at.holdout.squared_distance,
            ),
        ),
    )
    gap = curves(("MemGap", lambda at: at.mem_gap))
    if gap:
        title = "MemGap: 0 for no memory, 1 for the optimum"
        yield LineChart(title, x_label, gap, y_range=(-1, 2))


def _table(result: Optimality) -> Table:
    columns: tuple[str, ...] = ("sigma", "Model’s loss", "Optimum’s loss")
    columns += ("Held-out loss",) if result.num_holdout else ()
    columns += ("Distance", "On trajectories", "Effective number")
    columns += ("MemGap",) if result.num_holdout else ()

    def cells(at: AtSigma) -> Iterator[str]:
        yield f"{at.train.model_loss.value:.3g}"
        yield f"{at.train.optimum_loss.value:.3g}"
        if at.holdout is not None:
            yield f"{at.holdout.model_loss.value:.3g}"
        yield f"{at.train.squared_distance.value:.3g}"
        yield f"{at.trajectory.value:.3g}"
        yield f"{at.train.num_effective.value:.4g}"
        if at.holdout is not None:
            yield "–" if at.mem_gap is None else f"{at.mem_gap.value:.2f}"

    rows = tuple(Row(f"{at.sigma:.4g}", tuple(cells(at))) for at in result.at_sigma)
    return Table(columns, rows, title="Model and optimum in numbers")


def _lines(result: Optimality) -> Iterator[str]:
    same = result.agreement
    yield (
        "From the same noise, the model and the closed-form optimum end at the same training image "
        "for "
        f"{same.count} of {same.total} seeds: {describe(same)}."
    )
    if result.baseline is None:
        yield "Without held-out images, there is no baseline for this agreement."
    else:
        yield (
            f"The same with {result.baseline.num_images:,} training images only: "
            f"{result.baseline.train}. With as many held-out images, the baseline: "
            f"{result.baseline.holdout}."
        )


def _evidence(result: Optimality, alpha: float) -> Iterator[str]:
    """The noise level of the largest MemGap, among those where the loss is lower in training."""
    clear = [
        (at.mem_gap.value, at)
        for at in result.at_sigma
        if at.mem_gap is not None and at.mem_gap.low > 0
        if at.p_adjusted is not None and at.p_adjusted <= alpha
    ]
    if clear:
        _, at = max(clear, key=lambda pair: pair[0])
        assert at.mem_gap is not None and at.p_adjusted is not None
        yield (
            "the model denoises training images better than held-out ones (MemGap "
            f"{at.mem_gap.value:.2f}, {at.mem_gap.low:.2f} to {at.mem_gap.high:.2f}, at sigma "
            f"{at.sigma:.2g}, {p_text(at.p_adjusted)})"
        )


DIAGNOSTIC = Diagnostic(
    title="Against the optimum",
    requires=frozenset({"images", "model"}),
    run=_run,
    section=_section,
    lines=_lines,
    evidence=_evidence,
    assumes_exchangeable=True,
)
