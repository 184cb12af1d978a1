"""Images from a denoiser, one per seed, rounded to bytes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import memaudit
from memaudit.data.images import float_to_uint8, uint8_to_float
from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.ablation import (
    GeneralPath,
    default_sigma_range,
    discretize,
    noise_schedule,
)
from memaudit.models.arithmetic import fp32_products
from memaudit.models.checkpoints import Checkpoint, denoiser_of
from memaudit.models.denoiser import Denoiser, image_shape
from memaudit.models.devices import device_name, to_device, with_float64
from memaudit.models.execution import HANDED_OUT, Execution, Precision
from memaudit.models.graphs import Graphed, takes_graphs
from memaudit.models.group_size import group_size
from memaudit.models.guidance import check_guidance, guided
from memaudit.models.memory import GroupSize
from memaudit.models.multistep import multistep_sampler
from memaudit.models.own_sampler import resolve_sampler, sample_as_published
from memaudit.models.precision import in_format
from memaudit.models.sampler import heun_sampler, sigma_range
from memaudit.models.sampler_config import SamplerConfig
from memaudit.models.seeds import Ahead, PerImageRandom, draw_classes
from memaudit.progress import Progress, silent


def check_classes(denoiser: Denoiser, asked: Sequence[int]) -> None:
    """Refuse classes that a model does not have.

    Raises:
        ConfigError: names the first such class, and the model's.
    """
    for number in asked:
        if not 0 <= number < denoiser.label_dim:
            has = f"classes 0 to {denoiser.label_dim - 1}" if denoiser.label_dim else "no classes"
            raise ConfigError(f"Class {number} was asked for, but the model has {has}.")


@dataclass(frozen=True)
class GeneratedBatch:
    """Some images with what they were made from."""

    seeds: np.ndarray
    """int64 [B]."""
    images: np.ndarray
    """uint8 [B, C, H, W]."""
    class_index: np.ndarray | None
    """int64 [B]: the class that each was generated for; None for a model without classes."""
    is_fast: np.ndarray | None = None
    """bool [B]: whether the network was evaluated in the faster format that was asked for, or in
    fp32; None: all in fp32."""
    group_size: int | None = None
    """How many images were evaluated at a time, at the least; None if that is not known."""

    def __getitem__(self, rows: slice | np.ndarray) -> "GeneratedBatch":
        """Some of the images."""
        classes, is_fast = self.class_index, self.is_fast
        return GeneratedBatch(
            self.seeds[rows],
            self.images[rows],
            None if classes is None else classes[rows],
            None if is_fast is None else is_fast[rows],
            self.group_size,
        )

    @property
    def fast_rows(self) -> np.ndarray:
        """`is_fast`, False for all where it is None."""
        return np.zeros(len(self.seeds), dtype=bool) if self.is_fast is None else self.is_fast

    @staticmethod
    def concatenate(parts: "Sequence[GeneratedBatch]") -> "GeneratedBatch":
        """The images of several batches, at least one."""
        if len(parts) == 1:
            return parts[0]
        classes = [part.class_index for part in parts if part.class_index is not None]
        is_any_fast = any(part.is_fast is not None for part in parts)
        return GeneratedBatch(
            seeds=np.concatenate([part.seeds for part in parts]),
            images=np.concatenate([part.images for part in parts]),
            class_index=np.concatenate(classes) if classes else None,
            is_fast=np.concatenate([part.fast_rows for part in parts]) if is_any_fast else None,
            group_size=min((part.group_size for part in parts if part.group_size), default=None),
        )


OnGroup = Callable[[int, GeneratedBatch], None]
"""Told the place of a group's first image among the seeds, and the group."""


def ignore_group(place: int, group: GeneratedBatch) -> None:
    """Wait for a group until it is handed out."""


def generate_images(
    denoiser: Denoiser | Checkpoint,
    seeds: Sequence[int],
    *,
    config: SamplerConfig | None = None,
    class_index: int | Sequence[int] | None = None,
    class_weights: Sequence[float] | None = None,
    start: np.ndarray | None = None,
    execution: Execution | None = None,
    progress: Progress = silent,
    on_group: OnGroup = ignore_group,
) -> Iterator[GeneratedBatch]:
    """Generate one image per seed.

    An image depends on its seed alone. On a CPU the same seeds give the same bytes whatever the
    batch size. On GPUs of one kind they do at one batch size, which is chosen by the memory where
    none is given; at another, or where memory ran out and fewer are evaluated at a time, images
    agree to the network's float tolerance.

    Args:
        denoiser: any denoiser, or a checkpoint, on the device that `execution` names.
        seeds: one integer per image; its initial noise, class and churn are drawn from it.
        config: how to sample.
        class_index: one class for all images, or one per image. None: drawn from each seed if the
            model has classes.
        class_weights: how often each class is to be drawn, in any unit, [label_dim]. None: all
            alike, as in EDM.
        start: clean images, uint8 [len(seeds), C, H, W], to begin at instead of pure noise: each is
            noised to the first noise level.
        execution: where the denoiser is, and how many images are handed out at a time; on a GPU,
            also how many are evaluated at a time, at most. In a faster format than fp32, groups
            with pixels that are not finite are made again in fp32. `auto` is fp32 here: whoever
            chooses a faster format by it has to confirm what it gives.
        progress: told the images done, counting those under way by their steps.
        on_group: told every group of images that is evaluated at once as soon as it is there, which
            with several ranks is in any order.

    Returns:
        An iterator of batches of `execution.batch_size` images, in order of seeds; the last may be
        smaller.

    Raises:
        ConfigError: a class that the model does not have; guidance of a model that cannot be
            guided; while iterating, noise levels outside the model's range.
        CheckpointError: while iterating, an image with pixels that are not finite; names the seed.
        TypeError: what should denoise is not a denoiser.

    Example:
        >>> from memaudit.models.optimum.closed_form import ClosedFormOptimum
        >>> train = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), np.uint8)
        >>> batches = generate_images(ClosedFormOptimum(train), range(100))
        >>> [len(batch.images) for batch in batches]
        [64, 36]
    """
    denoiser = denoiser_of(denoiser)
    execution = execution or Execution()
    if isinstance(class_index, int):
        class_index = [class_index] * len(seeds)
    check_classes(denoiser, class_index or ())
    if class_weights is not None and (
        class_index is not None
        or len(class_weights) != denoiser.label_dim
        or min(class_weights) < 0
        or not max(class_weights) > 0
    ):
        raise ValueError(
            "class_weights must be one number ≥ 0 per class, not all 0, and no class may be given; "
            f"got {len(class_weights)} for {denoiser.label_dim} classes"
        )
    for name, given in (("class_index", class_index), ("start", start)):
        if given is not None and len(given) != len(seeds):
            raise ValueError(f"{name} holds {len(given)}, but there are {len(seeds)} seeds")
    config = resolve_sampler(config or SamplerConfig(), denoiser)
    check_guidance(denoiser, config.guidance)
    size = group_size(denoiser, execution)
    job = Job(
        denoiser,
        seeds,
        config=config,
        class_index=class_index,
        class_weights=class_weights,
        start=start,
        group_size=size,
        execution=execution,
        progress=progress,
        on_group=on_group,
    )
    groups = _maker_of(denoiser)(job)
    on_cpu = torch.device(execution.device).type == "cpu"
    return _batches(groups, execution.batch_size or (HANDED_OUT if on_cpu else size))


@dataclass(frozen=True)
class Job:
    """Seeds and what their images are made with, as `generate_images` has it."""

    denoiser: Denoiser
    seeds: Sequence[int]
    _: KW_ONLY
    config: SamplerConfig
    class_index: Sequence[int] | None
    class_weights: Sequence[float] | None
    start: np.ndarray | None
    group_size: int
    """Images that are evaluated at once."""
    execution: Execution
    progress: Progress
    on_group: OnGroup = ignore_group

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return torch.device(self.execution.device)


MakeGroups = Callable[[Job], Iterator[GeneratedBatch]]
"""As `make_groups`."""
_made_elsewhere: list[tuple[Denoiser, MakeGroups]] = []


@contextmanager
def made_elsewhere(denoiser: Denoiser, make: MakeGroups) -> Iterator[None]:
    """Within the context, have a denoiser's images made by something else, such as ranks."""
    _made_elsewhere.append((denoiser, make))
    try:
        yield
    finally:
        _made_elsewhere.pop()


def _maker_of(denoiser: Denoiser) -> MakeGroups:
    elsewhere = (make for known, make in _made_elsewhere if known is denoiser)
    return next(elsewhere, make_groups)


def sample(
    denoiser: Denoiser,
    noise: Tensor,
    class_labels: Tensor | None = None,
    *,
    config: SamplerConfig,
    start: Tensor | None = None,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
    progress: Progress = silent,
) -> Tensor:
    """Sample as configured: by EDM's Algorithm 2, its general sampler, or the model's own.

    Args:
        denoiser: any denoiser; its range cuts the noise levels asked for.
        noise: unit-variance noise, float [B, C, H, W].
        class_labels: one-hot float [B, label_dim], or None.
        config: how to sample.
        start: this and the rest as in `heun_sampler`.

    Returns:
        Images, float64 [B, C, H, W], data scale [-1, 1], not clipped.

    Raises:
        ConfigError: noise levels outside the denoiser's range; a model that cannot be guided, or
            has no sampler of its own.
    """
    config = resolve_sampler(config, denoiser)
    model, denoiser = denoiser, guided(denoiser, config.guidance)
    if config.sampler == "own":
        return sample_as_published(
            model,
            denoiser,
            noise,
            class_labels,
            config=config,
            start=start,
            randn_like=randn_like,
            progress=progress,
        )
    low, high = sigma_range(denoiser, *asked_range(config))
    if config.solver == "multistep":
        return multistep_sampler(
            denoiser,
            noise,
            _levels(config, low, high),
            class_labels,
            start=start,
            progress=progress,
        )
    path = None
    if config.is_ablation:
        schedule = noise_schedule(config.schedule or "linear", sigma_min=low, sigma_max=high)
        path = GeneralPath(schedule, config.scaling or "none")
    return heun_sampler(
        denoiser,
        noise,
        _levels(config, low, high),
        class_labels,
        S_churn=config.S_churn,
        S_min=config.S_min,
        S_max=config.S_max,
        S_noise=config.S_noise,
        path=path,
        solver=config.solver or "heun",
        start=start,
        randn_like=randn_like,
        progress=progress,
    )


def asked_range(config: SamplerConfig) -> tuple[float, float]:
    """Lowest and highest noise level that a configuration asks for, the model's range aside."""
    default_min, default_max = default_sigma_range(config.discretization or "edm")
    return (
        default_min if config.sigma_min is None else config.sigma_min,
        default_max if config.sigma_max is None else config.sigma_max,
    )


def visited_levels(denoiser: Denoiser, config: SamplerConfig) -> Tensor:
    """The noise levels at which EDM's sampler evaluates a model: float64 [num_steps], descending.

    Without churn these are all of them.

    Raises:
        ConfigError: noise levels outside the denoiser's range.
    """
    return denoiser.round_sigma(_levels(config, *sigma_range(denoiser, *asked_range(config))))


def _levels(config: SamplerConfig, low: float, high: float) -> Tensor:
    assert config.num_steps is not None
    return discretize(
        config.discretization or "edm",
        config.num_steps,
        sigma_min=low,
        sigma_max=high,
        rho=config.rho,
    )


def sampling_identity(
    checkpoint: Checkpoint,
    config: SamplerConfig,
    *,
    class_index: int | None,
    class_weights: Sequence[float] | None = None,
    execution: Execution,
) -> dict[str, Any]:
    """What generated images depend on besides their seeds, as JSON values.

    Sampling that was stopped is resumed only where all of it is the same. The names fit in a
    message.

    Args:
        checkpoint: the model.
        config: how to sample.
        class_index: the one class of all images, or None.
        class_weights: how often each class is drawn, or None for all alike.
        execution: settled (`group_size.settled`), since images of a GPU depend on it.
    """
    on_cpu = torch.device(execution.device).type == "cpu"
    resolved = resolve_sampler(config, checkpoint.network)
    return {
        "version of memaudit": memaudit.__version__,
        "checkpoint": [checkpoint.sha256, checkpoint.format],
        "sampler": {name: str(value) for name, value in resolved.as_dict().items()},
        "class": class_index,
        "class frequencies": None if class_weights is None else list(class_weights),
        "device": "cpu" if on_cpu else device_name(execution.device),
        "batch size": None if on_cpu else execution.batch_size,
        "precision": "fp32" if execution.precision == "auto" else execution.precision,
        "compiled": execution.compile == "on",
    }


def _batches(groups: Iterator[GeneratedBatch], batch_size: int) -> Iterator[GeneratedBatch]:
    """Hand out images, made in groups of one size, in batches of another."""
    waiting: list[GeneratedBatch] = []
    num_waiting = 0
    for group in groups:
        waiting.append(group)
        num_waiting += len(group.seeds)
        if num_waiting < batch_size:
            continue
        joined = GeneratedBatch.concatenate(waiting)
        num_ready = num_waiting - num_waiting % batch_size
        for first in range(0, num_ready, batch_size):
            yield joined[first : first + batch_size]
        num_waiting -= num_ready
        waiting = [joined[num_ready:]] if num_waiting else []
    if waiting:
        yield GeneratedBatch.concatenate(waiting)


def make_groups(job: Job) -> Iterator[GeneratedBatch]:
    """The images of all seeds, in groups that are evaluated at once, in this process.

    A GPU has the next group in its queue when one is handed out, so that it does not wait for what
    is done with that, and a thread draws the noise of the one after. All of it is in the order of
    the seeds. Groups are halved where the memory of a GPU runs out.
    """
    denoiser, seeds, progress = job.denoiser, job.seeds, job.progress
    precision = "fp32" if job.execution.precision == "auto" else job.execution.precision
    fast = in_format(denoiser, precision, compiled=job.execution.compile == "on")
    is_gpu = job.device.type == "cuda"
    if is_gpu and takes_graphs(fast):
        evaluations = 2 * (job.config.num_steps or 1) - 1  # by Heun; another solver takes fewer
        fast = Graphed(fast, -(-len(seeds) // job.group_size) * evaluations)
    group, first = GroupSize(job.group_size, job.device), 0
    under_way: _UnderWay | None = None
    with Ahead(beside=is_gpu) as ahead:

        def finished(group: _UnderWay) -> GeneratedBatch:
            if group.is_broken and group.is_fast:
                again = partial(_draw, job, group.first, group.size)
                group = _queue(job, denoiser, again, ahead, "fp32")
            made = group.images()
            made = made if precision != "fp32" else replace(made, is_fast=None)
            job.on_group(group.first, made)
            return made

        drawn = ahead.call(_draw, job, first, group.size)
        while first < len(seeds):
            size = group.size
            queued = group.attempt(partial(_queue, job, fast, drawn, ahead, precision))
            if queued is None:
                progress("Sampling", first, len(seeds), f"{group.size} images at a time")
                drawn = ahead.call(_draw, job, first, group.size)
                continue
            first += size
            if first < len(seeds):
                drawn = ahead.call(_draw, job, first, size)
            if under_way is not None:
                yield finished(under_way)
            under_way = queued
            if not is_gpu:
                yield finished(under_way)
                under_way = None
        if under_way is not None:
            yield finished(under_way)


class _Drawn(NamedTuple):
    """What is drawn for a group before it is sampled."""

    first: int
    """Place of its first seed."""
    seeds: list[int]
    """Without those that fill up the group."""
    random: PerImageRandom
    noise: Tensor
    """Float32 [B, C, H, W]."""
    classes: Tensor | None
    """int64 [B]."""
    start: Tensor | None
    """uint8 [B, C, H, W]."""


def _draw(job: Job, first: int, size: int) -> _Drawn:
    seeds = job.seeds
    # A last group that is not full is filled up with copies of its last image.
    rows = [min(first + i, len(seeds) - 1) for i in range(size)]
    row_seeds = [seeds[row] for row in rows]
    random = PerImageRandom(row_seeds)
    noise = random.noise(image_shape(job.denoiser))
    classes = None
    if label_dim := job.denoiser.label_dim:
        classes = random.class_index(label_dim)  # EDM draws it even where one is given
        if job.class_index is not None:
            classes = torch.tensor([job.class_index[row] for row in rows])
        if job.class_weights is not None:
            classes = torch.tensor(draw_classes(row_seeds, job.class_weights))
    start = None if job.start is None else torch.from_numpy(job.start[rows])
    return _Drawn(first, list(seeds[first : first + size]), random, noise, classes, start)


class _UnderWay:
    """A group whose images the device may still be computing.

    Args:
        drawn: what it is made from.
        x: its images, float64 [B, C, H, W], as the device has them in its queue.
        precision: what the network is evaluated in.
    """

    def __init__(self, drawn: _Drawn, x: Tensor, precision: Precision) -> None:
        self.first, self.size = drawn.first, len(x)
        self.is_fast = precision != "fp32"
        self._drawn = drawn
        x = x[: len(drawn.seeds)]
        self._shape = x.shape
        is_broken = (~x.isfinite()).flatten(1).any(1)
        # In one piece, for one copy from the device.
        found = torch.cat([float_to_uint8(x).flatten(1), is_broken[:, None].to(torch.uint8)], 1)
        self._copied = None
        if x.device.type == "cuda":
            on_host = torch.empty(found.shape, dtype=found.dtype).pin_memory()
            found = on_host.copy_(found, non_blocking=True)
            self._copied = torch.cuda.current_stream(x.device).record_event()
        self._found = found

    @property
    def is_broken(self) -> bool:
        """Whether it has pixels that are not finite. Waits for the device."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None
        return bool(self._found[:, -1].any())

    def images(self) -> GeneratedBatch:
        """Wait for the device.

        Raises:
            CheckpointError: pixels that are not finite.
        """
        seeds, classes = self._drawn.seeds, self._drawn.classes
        if self.is_broken:
            _refuse(self._found[:, -1].tolist(), seeds)
        return GeneratedBatch(
            seeds=np.array(seeds, dtype=np.int64),
            images=self._found[:, :-1].reshape(self._shape).numpy(),
            class_index=None if classes is None else classes[: len(seeds)].numpy(),
            is_fast=np.full(len(seeds), self.is_fast),
            group_size=self.size,
        )


def _queue(
    job: Job,
    denoiser: Denoiser,
    drawn: Callable[[], _Drawn],
    ahead: Ahead,
    precision: Precision,
) -> _UnderWay:
    """Have the device sample a group, with the denoiser in the format of that precision."""
    group = drawn()
    denoiser, device = with_float64(denoiser, job.device)
    class_labels = start = None
    with torch.inference_mode(), fp32_products(precision == "tf32"):
        if group.classes is not None:
            one_hots = one_hot(group.classes, denoiser.label_dim).to(torch.float32)
            class_labels = to_device(one_hots, device)
        if group.start is not None:
            start = uint8_to_float(to_device(group.start, device)).to(torch.float64)
        x = sample(
            denoiser,
            to_device(group.noise, device),
            class_labels,
            config=job.config,
            start=start,
            randn_like=group.random.drawn_by(ahead),
            progress=_in_images(job.progress, group.first, len(group.seeds), len(job.seeds)),
        )
        return _UnderWay(group, x, precision)


def _in_images(progress: Progress, first: int, group_size: int, num_images: int) -> Progress:
    """Tell `progress` of a group's steps as images done, so that the bar moves within a group."""

    def step_done(task: str, done: int, total: int | None, note: str = "") -> None:
        progress(task, first + group_size * done // (total or done), num_images, note)

    return step_done


def _refuse(is_broken: list[int], seeds: Sequence[int]) -> NoReturn:
    raise CheckpointError(
        f"The model generated pixels that are not finite for seed {seeds[is_broken.index(1)]} "
        f"(for {sum(is_broken)} of the {len(seeds)} images sampled with it), which cannot become "
        "an image. Look for broken weights with `memaudit inspect`, or sample with another "
        "{sigma_min}, {sigma_max} or {num_steps}.",
        field=("sigma_min", "sigma_max", "num_steps"),
    )
