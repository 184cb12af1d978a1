"""Whether a model denoises the training images as it is configured, and from how much noise.

A network under the wrong settings (another preconditioning, another order of its channels, weights
that were never trained) generates images that are no copies of anything. That they are not says
nothing about memorization, so this is tested before anything is sampled: on noised training images,
at the noise levels of the sampler, against two denoisers that anybody can build without training.
It costs, with the forms of the images that are tried besides (preprocessing.py), as much as
generating about thirty images.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from memaudit.audit.denoising.noise_range import START_SCALES, NoiseRange
from memaudit.audit.denoising.noised_images import (
    NoisedImages,
    check_shape,
    corrected_loss,
    linear_loss,
)
from memaudit.audit.denoising.other_options import OtherOption, other_options_of
from memaudit.audit.denoising.preprocessing import Preprocessing, check_preprocessing
from memaudit.data.images import ImageSet
from memaudit.data.sources import as_images
from memaudit.models.checkpoints import Checkpoint, denoiser_of
from memaudit.models.denoiser import Denoiser
from memaudit.models.execution import Execution
from memaudit.models.generate import asked_range, visited_levels
from memaudit.models.sampler import sigma_range
from memaudit.models.sampler_config import SamplerConfig
from memaudit.progress import Progress, silent

NUM_LEVELS = 9
MAX_RATIO = 5.0
"""Most that the loss may be, over that of shrinking to the mean, besides what follows. Trained EDM
networks reach 1.6; wrong settings give hundreds."""
INVISIBLE_RMS = 2.0
"""Gray levels. A loss of 5 times its square, 4.5 levels RMS, is allowed however low the noise: a
network that predicts the image itself is not more exact than that."""
NOISE_SHARE = 0.1
"""A loss of (0.1 σ)² is allowed however high the noise: the sampler adds the loss to noise that
hides it. Networks that predict the noise (VP, VE) need it: at σ = 80 they lose 60 to 150 times what
shrinking does, after 2,000 steps of training."""
MAX_LINEAR = 2.0
"""Most that the loss may be, over that of a linear filter, at noise levels up to VISIBLE_SIGMA.
This finds weights that were never trained: an untrained EDM network shrinks to the mean."""
VISIBLE_SIGMA = 1.0
"""Noise level up to which an image shows through its noise."""
LEARNABLE = 0.8
"""Where a linear filter loses less than this part of what shrinking to the mean does, there is
something to learn."""
NOTHING_LEARNED = 0.98
"""A model whose loss is a larger part of it at all of these levels has learned nothing of use."""
FLAT_SHARE = 0.1
"""Share of the loss of shrinking that is allowed besides, for images that a filter nearly knows."""
LEAST_CORRECTED = 0.5
"""Least part of the loss that may be left by a linear correction of what the model returns, at
noise levels up to VISIBLE_SIGMA. Networks that run as they were trained keep 0.95 and more, from
step 160 on; a wrong sigma_data, 0.45 instead of 0.5, leaves 0.41."""


@dataclass(frozen=True)
class DenoisingLevel:
    """Losses at one noise level. All are ‖D(y + σn; σ) − y‖² per pixel value, data in [-1, 1]."""

    sigma: float
    loss: float
    """The model's."""
    shrink_loss: float
    """That of shrinking to the mean image, var·σ²/(var + σ²)."""
    linear_loss: float
    """That of the best linear filter for images with this power spectrum (Wiener)."""
    corrected_loss: float
    """The model's after the best linear correction, D + a·x + b·D but for an offset."""
    ratio: float
    """The model's loss over that of shrinking."""
    allowed: float
    """Most that the loss of a model that denoises as configured is."""


@dataclass(frozen=True)
class DenoisingTest:
    """Whether a model denoises the training images at the noise levels of the sampler."""

    num_images: int
    """Training images that noise was added to."""
    variance: float
    """Variance of their pixel values, data in [-1, 1]."""
    given_labels: bool
    """Whether the images' own labels were used; False also for a model without classes."""
    levels: tuple[DenoisingLevel, ...]
    """Some of the noise levels that the sampler visits, in descending order."""
    noise_range: NoiseRange
    denoises: bool
    """Whether the loss is as low as that of a network that runs as it was trained."""
    message: str
    """What was found, in one or two sentences."""
    preprocessing: Preprocessing
    """Whether the model denoises the images better in another form than given."""
    causes: tuple[str, ...]
    """What the likely causes are, the likeliest first; empty if the model denoises."""
    other_options: tuple[OtherOption, ...] = ()
    """How well it denoises with other values of what its file does not show, the best first."""

    @property
    def worst(self) -> DenoisingLevel:
        """The level at which the loss is highest, compared with what is allowed."""
        return max(self.levels, key=lambda level: level.loss / level.allowed)

    @property
    def allows_pass(self) -> bool:
        """Whether finding no copies says anything about this model."""
        is_prepared = self.preprocessing.best is None
        is_right = self.denoises and not self.option_problem
        return is_right and is_prepared and not self.noise_range.problem

    @property
    def option_problem(self) -> str:
        """What is said if it denoises better with another option; empty if it does not."""
        best = next((other for other in self.other_options if other.is_better), None)
        if best is None:
            return ""
        return (
            f"The model denoises the training images better with {best.option}, which its file "
            f"does not show: to {100 * best.change:.0f} % of the loss. It was trained so, and that "
            "it generates no copies otherwise says nothing about memorization."
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before trusting the numbers; empty if all is well."""
        found = []
        if not self.denoises or self.noise_range.problem:
            causes = f" Likely causes: {'; '.join(self.causes)}." if self.causes else ""
            found.append(self.message + causes)
        if self.option_problem:
            found.append(self.option_problem)
        if self.preprocessing.best is not None:
            found.append(self.preprocessing.message)
        return tuple(found)


def check_denoising(
    denoiser: Denoiser | Checkpoint,
    data: str | Path | np.ndarray | ImageSet,
    *,
    sampler: SamplerConfig | None = None,
    checkpoint: Checkpoint | None = None,
    originals: ImageSet | None = None,
    flips: bool = False,
    execution: Execution | None = None,
    progress: Progress = silent,
) -> DenoisingTest:
    """Compare a model's loss on noised training images with that of shrinking to the mean.

    Also find out whether it denoises them better in another form than given.

    The loss is the mean of ‖D(y + σn; σ) − y‖²/D over images, one noise each; shrinking to the mean
    image has var·σ²/(var + σ²). Noises depend on the image's place alone, so that the numbers are
    the same at every run.

    Args:
        denoiser: the model, on `execution.device`, or its checkpoint.
        data: its training images, at least 1, with labels if it has classes (else classes are
            drawn).
        sampler: how images will be sampled; its noise levels are tested.
        checkpoint: what the denoiser was opened from, if that is not given itself; options that
            its file does not show are tried with other values.
        originals: the images before they were resized, if they are at hand; see
            `check_preprocessing`.
        flips: whether copies of mirrored images will be found as well.
        execution: where the model is, and how many images it is given at a time.
        progress: told how many images are done.

    Raises:
        DataError: no images, or images of another shape than the model's.
        ConfigError: noise levels outside the model's range.
        CheckpointError: the model gives numbers that are not finite, or another shape.

    Example:
        >>> import numpy as np
        >>> from memaudit.models.optimum.closed_form import ClosedFormOptimum
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8)
        >>> check_denoising(ClosedFormOptimum(images), ImageSet.from_array(images)).denoises
        True
    """
    if isinstance(denoiser, Checkpoint):
        checkpoint = checkpoint or denoiser
    denoiser = denoiser_of(denoiser)
    data = as_images(data, progress=progress)
    sampler = sampler or SamplerConfig()
    execution = execution or Execution()
    check_shape(denoiser, data)
    noised = NoisedImages.of(denoiser, data, execution)
    sigmas = _some_levels(denoiser, sampler)
    products = noised.products(sigmas, progress=progress).mean(1)
    variance = float(noised.images.var(correction=0))
    levels = tuple(
        _level(sigma, means, variance, noised.images)
        for sigma, means in zip(sigmas, products, strict=True)
    )
    asked_min, asked_max = asked_range(sampler)
    used_min, used_max = sigma_range(denoiser, asked_min, asked_max)
    noise_range = NoiseRange(
        asked_min=asked_min,
        asked_max=asked_max,
        used_min=used_min,
        used_max=used_max,
        needed_max=START_SCALES * float(noised.images.square().mean().sqrt()),
    )
    denoises, message, causes = _judge(levels, noise_range)
    return DenoisingTest(
        num_images=len(noised.images),
        variance=variance,
        given_labels=noised.given_labels,
        levels=levels,
        noise_range=noise_range,
        denoises=denoises,
        message=message,
        preprocessing=check_preprocessing(
            denoiser,
            data,
            originals=originals,
            flips=flips,
            execution=execution,
            progress=progress,
        ),
        causes=causes,
        other_options=()
        if checkpoint is None
        else other_options_of(checkpoint, data, execution=execution, progress=progress),
    )


def _some_levels(denoiser: Denoiser, sampler: SamplerConfig) -> list[float]:
    """Noise levels of the sampler, the highest and the lowest among them, in descending order."""
    levels = visited_levels(denoiser, sampler)
    chosen = torch.linspace(0, len(levels) - 1, min(NUM_LEVELS, len(levels))).round().long()
    return sorted(set(levels[chosen].tolist()), reverse=True)


def _level(sigma: float, products: np.ndarray, variance: float, images: Tensor) -> DenoisingLevel:
    loss = float(products[3, 3])
    shrink_loss = variance * sigma**2 / (variance + sigma**2)
    filtered = linear_loss(images, sigma)
    invisible = MAX_RATIO * (INVISIBLE_RMS / 127.5) ** 2
    allowed = MAX_RATIO * shrink_loss + (NOISE_SHARE * sigma) ** 2
    if sigma <= VISIBLE_SIGMA:
        allowed = min(allowed, MAX_LINEAR * filtered + FLAT_SHARE * shrink_loss)
    return DenoisingLevel(
        sigma=sigma,
        loss=loss,
        shrink_loss=shrink_loss,
        linear_loss=filtered,
        corrected_loss=corrected_loss(products),
        ratio=loss / shrink_loss if shrink_loss else math.inf if loss else 1.0,
        allowed=allowed + invisible,
    )


def _judge(
    levels: tuple[DenoisingLevel, ...], noise_range: NoiseRange
) -> tuple[bool, str, tuple[str, ...]]:
    """Whether the model denoises, what to say of it, and the likely causes if it does not."""
    worst = max(levels, key=lambda level: level.loss / level.allowed)
    if worst.loss > worst.allowed:
        to_mean = f"{_times(worst.ratio)} times that of shrinking to their mean"
        expected = _times(worst.allowed / worst.shrink_loss) if worst.shrink_loss else "1"
        if worst.loss > MAX_RATIO * worst.shrink_loss:
            message, causes = f"{to_mean} (at most {expected} is allowed there)", CAUSES
        else:
            by_filter = f"{worst.loss / worst.linear_loss:,.2g} times that of a linear filter"
            message, causes = f"{by_filter}, which needs no training, and {to_mean}", UNTRAINED
        message = (
            f"The checkpoint does not denoise as configured: at noise level {worst.sigma:.3g} its "
            f"loss on the training images is {message}. That it generates no copies says nothing "
            "about memorization."
        )
        return False, message, causes
    skewed = [level for level in levels if _is_skewed(level)]
    if skewed:
        level = min(skewed, key=lambda level: level.corrected_loss / level.loss)
        message = (
            "The checkpoint does not denoise as configured: what it returns at noise level "
            f"{level.sigma:.3g} is skewed, so that scaling it and adding a part of its input takes "
            f"away {100 * (1 - level.corrected_loss / level.loss):.0f} % of its loss on the "
            "training images. A network that runs as it was trained has learned that itself. That "
            "it generates no copies says nothing about memorization."
        )
        return False, message, SKEWED
    if _has_learned_nothing(levels):
        message = (
            "The checkpoint does not denoise: at no noise level is its loss on the training images "
            "lower than that of shrinking to their mean, which needs no training. That it "
            "generates no copies says nothing about memorization."
        )
        return False, message, UNTRAINED
    if noise_range.problem:
        message = f"The checkpoint denoises as configured, but {noise_range.problem}."
        return True, message, ()
    message = (
        "The checkpoint denoises the training images as configured: its loss is at most "
        f"{100 * worst.loss / worst.allowed:.0f} % of what is allowed, at noise levels "
        f"{noise_range.used_min:g} to {noise_range.used_max:g}."
    )
    return True, message, ()


def _is_skewed(level: DenoisingLevel) -> bool:
    """Whether the training would have lowered the loss by a mere change of scales."""
    is_visible = level.loss > MAX_RATIO * (INVISIBLE_RMS / 127.5) ** 2
    is_tested = level.sigma <= VISIBLE_SIGMA and is_visible
    return is_tested and level.corrected_loss < LEAST_CORRECTED * level.loss


def _has_learned_nothing(levels: tuple[DenoisingLevel, ...]) -> bool:
    """Whether shrinking to the mean is as good wherever a linear filter is clearly better."""
    learnable = [
        level
        for level in levels
        if level.sigma <= VISIBLE_SIGMA and level.linear_loss < LEARNABLE * level.shrink_loss
    ]
    return bool(learnable) and all(
        level.loss > NOTHING_LEARNED * level.shrink_loss for level in learnable
    )


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


CAUSES = (
    "what the network predicts: the class of the preconditioning (EDMPrecond, VPPrecond, "
    "VEPrecond, iDDPMPrecond), target, or prediction_type in a diffusers folder, is not the one it "
    "was trained with",
    "sigma_data, or the noise schedule, was changed, or data_at, the direction of a flow",
    "the architecture fits the weights by their shapes only: another preset, another number of "
    "heads or norm groups, another order of heads or channels in the attention",
    "the training images are read differently than in training: another range of values "
    "(data_range), another order of color channels, or other images altogether",
    "the weights were never trained, or hardly (an early snapshot), or were damaged",
)
"""Likely causes of a loss that is too high."""
SKEWED = (CAUSES[1], CAUSES[0], *CAUSES[2:4])
UNTRAINED = (
    "the weights were never trained, or hardly: an average of the weights (EMA) that has just "
    "begun, a snapshot of the first steps",
    *CAUSES[:-1],
)
"""Likely causes of a loss that is no better than that of a filter."""
