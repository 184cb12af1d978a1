"""Images from a denoiser, one a seed, rounded to bytes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from memaudit.data.images import float_to_uint8, uint8_to_float
from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.ablation import ablation_sampler
from memaudit.models.denoiser import Denoiser
from memaudit.models.sampler import heun_sampler
from memaudit.models.sampler_config import SamplerConfig
from memaudit.models.seeds import PerImageRandom
from memaudit.progress import Progress, silent


@dataclass(frozen=True)
class GeneratedBatch:
    """Some images with what they were made from, all on the CPU."""

    seeds: Tensor
    """int64 [B]."""
    images: Tensor
    """uint8 [B, C, H, W]."""
    class_index: Tensor | None
    """int64 [B]: the class each was generated for; None for a model without classes."""


def generate_images(
    denoiser: Denoiser,
    seeds: Sequence[int],
    *,
    config: SamplerConfig | None = None,
    class_index: int | Sequence[int] | None = None,
    start: np.ndarray | None = None,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> Iterator[GeneratedBatch]:
    """Generate one image a seed.

    An image depends on its seed alone. On a CPU the same seeds give the same bytes whatever the
    batch size; on a GPU the network's kernels depend on the batch size, so that images agree to
    its float tolerance.

    Args:
        denoiser: any denoiser, on `device`.
        seeds: integers, one an image; initial noise, class and churn are drawn from it.
        config: how to sample.
        class_index: one class for all images, or one an image. None: drawn from each seed, if there
            are classes.
        start: clean images, uint8 [len(seeds), C, H, W], to begin at instead of pure noise: each is
            noised to the first noise level.
        batch_size: images handed out at a time, and on a GPU evaluated at a time.
        device: where the denoiser is.
        progress: told the images done, counting those under way by their steps.

    Returns:
        An iterator of batches of batch_size images (the last may be smaller), in order of seeds.

    Raises:
        ConfigError: a class that the model does not have; a batch_size below 1; while iterating,
            noise levels outside the model's range.
        CheckpointError: while iterating, an image with pixels that are not finite; names the seed.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; at least 1 is needed.")
    if isinstance(class_index, int):
        class_index = [class_index] * len(seeds)
    for asked in class_index or ():
        if not 0 <= asked < denoiser.label_dim:
            has = f"classes 0 to {denoiser.label_dim - 1}" if denoiser.label_dim else "no classes"
            raise ConfigError(f"Class {asked} was asked for, but the model has {has}.")
    for name, given in (("class_index", class_index), ("start", start)):
        if given is not None and len(given) != len(seeds):
            raise ValueError(f"{name} holds {len(given)}, but there are {len(seeds)} seeds")
    device = torch.device(device)
    images = _images(
        denoiser,
        seeds,
        config=config or SamplerConfig(),
        class_index=class_index,
        start=start,
        group_size=cpu_group_size(denoiser) if device.type == "cpu" else batch_size,
        device=device,
        progress=progress,
    )
    return _batches(seeds, images, batch_size)


@contextmanager
def float32_inference() -> Iterator[None]:
    """Evaluate networks without gradients, in float32 throughout.

    TF32, cuDNN's default on a GPU, keeps 10 bits of a convolution's inputs.
    """
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def cpu_group_size(denoiser: Denoiser) -> int:
    """Images that a CPU evaluates at a time: a constant of the resolution.

    Convolutions and linear layers choose their kernels by the size of the batch, and kernels differ
    by up to 1e-6, which is enough to turn a byte. At one size, an image is the same beside any
    others. 64 images, or 8192 pixels, are as fast as more, and little to waste on a last group.
    """
    group_size = 64
    while group_size > 4 and group_size * denoiser.img_resolution**2 > 8192:
        group_size //= 2
    return group_size


def _batches(
    seeds: Sequence[int], images: Iterator[tuple[Tensor, Tensor | None]], batch_size: int
) -> Iterator[GeneratedBatch]:
    """Hand out images, made in groups of one size, in batches of another."""
    for first in range(0, len(seeds), batch_size):
        batch, classes = zip(*islice(images, batch_size), strict=True)
        yield GeneratedBatch(
            seeds=torch.tensor(seeds[first : first + batch_size], dtype=torch.int64),
            images=torch.stack(batch),
            class_index=None if classes[0] is None else torch.stack(classes),
        )


def _images(
    denoiser: Denoiser,
    seeds: Sequence[int],
    *,
    config: SamplerConfig,
    class_index: Sequence[int] | None,
    start: np.ndarray | None,
    group_size: int,
    device: torch.device,
    progress: Progress,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """One image a seed, uint8 [C, H, W], and its class, int64 [], made in groups."""
    for first in range(0, len(seeds), group_size):
        group = list(seeds[first : first + group_size])
        # A last group that is not full is filled up with copies of its last image.
        rows = [min(first + i, len(seeds) - 1) for i in range(group_size)]
        x, classes = _sample(
            denoiser,
            [seeds[row] for row in rows],
            config=config,
            class_index=None if class_index is None else [class_index[row] for row in rows],
            start=None if start is None else torch.from_numpy(start[rows]),
            device=device,
            progress=_in_images(progress, first, len(group), len(seeds), config.num_steps),
        )
        x = x[: len(group)]
        _check_finite(x, group)
        images = float_to_uint8(x).cpu()
        for row, image in enumerate(images):
            yield image, None if classes is None else classes[row]


def _sample(
    denoiser: Denoiser,
    seeds: Sequence[int],
    *,
    config: SamplerConfig,
    class_index: Sequence[int] | None,
    start: Tensor | None,
    device: torch.device,
    progress: Progress,
) -> tuple[Tensor, Tensor | None]:
    """Images of some seeds at once, float64 [B, C, H, W], and their classes, int64 [B]."""
    random = PerImageRandom(seeds)
    resolution = denoiser.img_resolution
    noise = random.noise((denoiser.img_channels, resolution, resolution)).to(device)
    classes = class_labels = None
    if denoiser.label_dim:
        classes = random.class_index(denoiser.label_dim)  # EDM draws it even where one is given
        if class_index is not None:
            classes = torch.tensor(class_index)
        class_labels = one_hot(classes, denoiser.label_dim).to(device, torch.float32)

    options = {name: value for name, value in config.as_dict().items() if value is not None}
    sampler = ablation_sampler if config.is_ablation else heun_sampler
    with float32_inference():
        x = sampler(
            denoiser,
            noise,
            class_labels,
            start=None if start is None else uint8_to_float(start).to(device, torch.float64),
            randn_like=random.randn_like,
            progress=progress,
            **options,
        )
    return x, classes


def _in_images(
    progress: Progress, first: int, group_size: int, num_images: int, num_steps: int
) -> Progress:
    """Tell `progress` of a group's steps as images done, so that the bar moves within a group."""

    def step_done(task: str, done: int, total: int | None, note: str = "") -> None:
        progress(task, first + group_size * done // num_steps, num_images, note)

    return step_done


def _check_finite(x: Tensor, seeds: Sequence[int]) -> None:
    broken = (~x.isfinite()).flatten(1).any(1).tolist()
    if any(broken):
        raise CheckpointError(
            f"The model gave pixels that are not finite for seed {seeds[broken.index(True)]} "
            f"({sum(broken)} of {len(seeds)} images sampled with it); an image cannot be made of "
            "them. Look for broken weights with `memaudit inspect`, or sample with another "
            "sigma_min, sigma_max or num_steps."
        )
