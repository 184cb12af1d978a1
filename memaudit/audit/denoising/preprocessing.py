"""Whether the training images are prepared as they were for training: which variant fits best?

A scan against images in another channel order, turned, or cropped otherwise finds few copies,
because it looks for the wrong pixels. The model itself knows the right ones: it denoises them best.

The loss of a denoiser trained on the images y cannot be lower, on average, on images Ty, where T
turns, mirrors or inverts them or exchanges channels: T leaves noise as it is, so that T⁻¹·D·T would
denoise y better than the best denoiser. Filters and crops change how hard an image is to denoise.
Their losses are compared after division by that of a linear filter fitted to the same images.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy.special import stdtr
from torch import Tensor

from memaudit.audit.denoising.noised_images import NoisedImages, chosen_rows, linear_loss
from memaudit.data.images import ImageSet, uint8_to_float
from memaudit.models.denoiser import Denoiser
from memaudit.models.execution import Execution
from memaudit.models.sampler import karras_sigmas
from memaudit.progress import Progress, silent

NUM_IMAGES = 24
SIGMAS = (3.0, 1.0, 0.3)
"""Noise levels at which both the layout and the details of an image matter."""
ALPHA = 0.001
"""Level at which a variant is called better, corrected for the number of variants (Bonferroni)."""
CLEARLY = 0.9
"""A variant is better only if it lowers the loss to this share, or to CLEARLY_RESIZED."""
CLEARLY_RESIZED = 0.8
"""The same for other filters and crops, whose comparison is less exact."""

ISOMETRIES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "reversed channels": (lambda y: y.flip(1), "were they read as BGR instead of RGB?"),
    "inverted values": (lambda y: -y, "is black white in them?"),
    "mirrored": (lambda y: y.flip(3), "were they mirrored for training?"),
    "upside down": (lambda y: y.flip(2), "was the order of their rows reversed?"),
    "transposed": (lambda y: y.transpose(2, 3), "were rows and columns exchanged?"),
    "turned left": (lambda y: y.rot90(1, (2, 3)), "was an EXIF orientation ignored or applied?"),
    "turned right": (lambda y: y.rot90(3, (2, 3)), "was an EXIF orientation ignored or applied?"),
}
"""Variants that leave noise as it is, and what each suggests."""
FILTERS = {
    "nearest filter": Image.Resampling.NEAREST,
    "box filter": Image.Resampling.BOX,
    "bilinear filter": Image.Resampling.BILINEAR,
    "bicubic filter": Image.Resampling.BICUBIC,
}
TINY = 1e-12
"""Added to a loss, which is 0 where images of one color are known."""
CROP = 7 / 8
"""Share of the width that the cropped variant keeps, as 224 of 256."""


@dataclass(frozen=True)
class Variant:
    """How well the model denoises the images in another form."""

    name: str
    change: float
    """Its loss over that of the images as given, the geometric mean over images and noise levels;
    for filters and crops, each over that of a linear filter. Below 1 is better."""
    p_value: float
    """p-value of a paired t-test of whether it is better, corrected for the number of forms."""
    is_better: bool
    """Whether it is clearly better."""


@dataclass(frozen=True)
class Preprocessing:
    """Which form of the images the model denoises best."""

    num_images: int
    """Training images that were tried in every form."""
    variants: tuple[Variant, ...]
    """The best fit first."""
    best: str | None
    """The variant that fits clearly better than the images as given, or None."""
    message: str
    """What was found, in one sentence."""


def check_preprocessing(
    denoiser: Denoiser,
    data: ImageSet,
    *,
    originals: ImageSet | None = None,
    flips: bool = False,
    execution: Execution | None = None,
    progress: Progress = silent,
) -> Preprocessing:
    """Find out whether the model denoises the images better in another form.

    Args:
        denoiser: the model, on `execution.device`.
        data: training images of the model's shape, with labels if it has classes.
        originals: the same images before they were resized, in the same order, if they are at hand;
            other filters and crops are tried with them.
        flips: whether copies of mirrored images will be found anyway, so that images
            that are mirrored do no harm.
        execution: where the model is, and how many images it is given at a time.
        progress: told how many variants are done.

    Raises:
        CheckpointError: the model gives numbers that are not finite.
    """
    noised = NoisedImages.of(denoiser, data, execution or Execution(), NUM_IMAGES)
    # Repeated images are no further evidence.
    _, distinct = np.unique(noised.images.flatten(1).numpy(), axis=0, return_index=True)
    sigmas = _supported(denoiser)
    given = np.log(noised.losses(sigmas) + TINY)
    tried = [form for form in _isometries(noised.images) if not (flips and form[0] == "mirrored")]
    num_exact = len(tried)
    if originals is not None:
        chosen = originals.images[chosen_rows(len(data), NUM_IMAGES)]
        tried += _resized(chosen, (noised.images.shape[2], noised.images.shape[3]))
    variants = []
    for number, (name, images) in enumerate(tried):
        difference = np.log(noised.losses(sigmas, images) + TINY) - given
        if number >= num_exact:
            difficulty = [
                _log_linear_loss(images, sigma) - _log_linear_loss(noised.images, sigma)
                for sigma in sigmas
            ]
            difference -= np.array(difficulty)[:, None]
        clearly = CLEARLY if number < num_exact else CLEARLY_RESIZED
        variants.append(_variant(name, difference.mean(0)[distinct], len(tried), clearly))
        progress("Trying variants of the images", number + 1, len(tried))
    variants.sort(key=lambda variant: variant.change)
    best = next((variant for variant in variants if variant.is_better), None)
    return Preprocessing(
        num_images=len(noised.images),
        variants=tuple(variants),
        best=None if best is None else best.name,
        message=_message(best, data),
    )


def _log_linear_loss(images: Tensor, sigma: float) -> float:
    return math.log(linear_loss(images, sigma) + TINY)


def _supported(denoiser: Denoiser) -> list[float]:
    """The noise levels to compare at: those that the model supports, or some that it does."""
    inside = [s for s in SIGMAS if denoiser.sigma_min <= s <= denoiser.sigma_max]
    if not inside:
        low, high = max(denoiser.sigma_min, 0.002), min(denoiser.sigma_max, 80.0)
        inside = karras_sigmas(3, sigma_min=low, sigma_max=high).tolist()
    rounded = denoiser.round_sigma(torch.tensor(inside, dtype=torch.float64))
    return [float(sigma) for sigma in rounded]


def _isometries(images: Tensor) -> Iterator[tuple[str, Tensor]]:
    for name, (transform, _) in ISOMETRIES.items():
        changed = transform(images).contiguous()
        if changed.shape != images.shape:  # turned, and not square
            continue
        if images.shape[1] > 1 or name != "reversed channels":
            yield name, changed


def _resized(originals: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[str, Tensor]]:
    """The originals, uint8 [T, C, H, W], resized in other ways than by Lanczos."""
    height, width = originals.shape[2:]
    for name, resampling in FILTERS.items():
        yield name, _resize(originals, size, resampling)
    top, left = (round(side * (1 - CROP) / 2) for side in (height, width))
    if top and left:
        inner = originals[:, :, top:-top, left:-left]
        kept = f"{height - 2 * top} of {height}"
        if height != width:
            kept = f"{height - 2 * top}x{width - 2 * left} of {height}x{width}"
        yield f"center crop of {kept} pixels", _resize(inner, size)
    down, right = height // (2 * size[0]), width // (2 * size[1])
    if down or right:
        padded = np.pad(originals, ((0, 0), (0, 0), (0, down), (0, right)), mode="edge")
        moved = padded[:, :, down:, right:]
        yield "shifted by half a pixel", _resize(moved, size)


def _resize(
    images: np.ndarray,
    size: tuple[int, int],
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
) -> Tensor:
    resized = []
    for image in images:
        planes = [Image.fromarray(plane).resize(size[::-1], resampling) for plane in image]
        resized.append(np.stack([np.asarray(plane) for plane in planes]))
    return uint8_to_float(torch.from_numpy(np.stack(resized))).to(torch.float64)


def _variant(name: str, difference: np.ndarray, num_tried: int, clearly: float) -> Variant:
    """Judge a variant by the differences of log losses of each image, float64 [T]."""
    change = float(np.exp(difference.mean()))
    num_images, p_value = len(difference), 1.0
    if num_images > 1 and difference.std() > 0:
        t = difference.mean() / (difference.std(ddof=1) / math.sqrt(num_images))
        p_value = float(stdtr(num_images - 1, t))
    p_value = min(1.0, p_value * num_tried)
    return Variant(name, change, p_value, p_value < ALPHA and change < clearly)


def _message(best: Variant | None, data: ImageSet) -> str:
    if best is None:
        return (
            "No other form of the training images (channels, values or axes reversed, turned) is "
            "denoised clearly better than the one given."
        )
    reason = ISOMETRIES[best.name][1] if best.name in ISOMETRIES else "were they resized so?"
    return (
        f"The model denoises the training images best in another form than given, {best.name}: "
        f"its loss is {best.change:.2g} times that on the images in {data.source} (p = "
        f"{best.p_value:.1g}); {reason} Copies are not found among images that were prepared "
        "otherwise than for training."
    )
