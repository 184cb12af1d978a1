"""Copies of images as they get about: noisy, compressed, shifted, cropped, recolored, in parts.

They are planted to learn which copies a rule sees. Lengths are in proportion to the resolution:
what is 1 pixel at 32×32 is 2 pixels at 64×64.
"""

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

REFERENCE = 32
"""Resolution at which the lengths of the transformations are stated, in pixels."""
NOISE = (4, 8, 16, 24)
"""Standard deviations of the noise, in gray levels."""
QUALITIES = (75, 30, 10)
"""JPEG qualities."""
BRIGHTENED = 20
"""Gray levels added."""
CONTRAST = 0.8
"""Factor on the differences from an image's mean."""
BLENDED = (20, 50)
"""Weights of the other image in a blend, in percent."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray (ITU-R BT.601), as PIL has them."""

HALVES = ("blend-50", "half")
"""Kinds of copies that hold equal shares of two images: either of them is copied."""

COPIED_VALUES = 1 << 23
"""Pixel values of all images that are copied at a time: 42 images of 256×256×3."""
FEWEST_ORIGINALS = 10
"""Images that are copied however large they are, if there are as many."""

Transform = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""(images, other images, random numbers) → copies; all uint8 [B, C, H, W]."""


@dataclass(frozen=True)
class Transformation:
    """A way to make a copy of an image."""

    key: str
    """Name for a program, such as `shift-1`, the same at every resolution."""
    phrase: str
    """What completes `copies …`, such as `shifted by 1 pixel`."""
    apply: Transform


@dataclass(frozen=True)
class PlantedKind:
    """Copies of one kind."""

    kind: Transformation
    originals: np.ndarray
    """int64 [B]: positions of the images that were copied."""
    copies: np.ndarray
    """uint8 [B, C, H, W]. Copies that equal their original are left out, but for exact ones."""
    others: np.ndarray
    """int64 [B]: positions of the other images that they hold an equal share of; elsewhere
    `originals` again."""


def plant_copies(
    images: np.ndarray, rng: np.random.Generator, *, num_originals: int
) -> list[PlantedKind]:
    """Make copies of every kind of images drawn at random.

    Args:
        images: uint8 [N, C, H, W], N ≥ 2; may be memory-mapped.
        rng: draws the images, and for each another one to blend it with.
        num_originals: most images to copy, ≥ 1; fewer if they are large.

    Returns:
        The kinds of which there are copies.
    """
    _, C, H, W = images.shape
    affordable = max(FEWEST_ORIGINALS, COPIED_VALUES // math.prod((C, H, W)))
    chosen = rng.choice(len(images), min(num_originals, affordable, len(images)), replace=False)
    other = rng.integers(len(images) - 1, size=len(chosen))
    other += other >= chosen  # any image but the original
    originals, others = images[chosen], images[other]
    planted = []
    for kind in transformations((C, H, W)):
        copies = kind.apply(originals, others, rng)
        kept = (copies != originals).any((1, 2, 3)) | (kind.key == "exact")
        if kept.any():
            also = other if kind.key in HALVES else chosen
            planted.append(PlantedKind(kind, chosen[kept], copies[kept], also[kept]))
    return planted


def transformations(image_shape: tuple[int, int, int]) -> tuple[Transformation, ...]:
    """Every transformation that changes images of a shape (C, H, W), from mild to strong by kind.

    Images of one pixel in height or width are not shifted, cropped, mirrored or cut, and gray
    images are not turned gray.
    """
    return tuple(_transformations(*image_shape))


def _transformations(C: int, H: int, W: int) -> Iterator[Transformation]:
    yield Transformation("exact", "exact", _exact)
    for levels in NOISE:
        noisy = partial(_with_noise, levels=levels)
        yield Transformation(f"noise-{levels}", f"with noise of {levels} levels", noisy)
    for quality in QUALITIES:
        compressed = partial(_compressed, quality=quality)
        yield Transformation(f"jpeg-{quality}", f"saved as JPEG of quality {quality}", compressed)
    has_parts = min(H, W) >= 2
    if has_parts:
        for shift in (1, 2):
            pixels = max(shift, round(shift * W / REFERENCE))
            if pixels < W:
                shifted = partial(_shifted, pixels=pixels)
                length = "1 pixel" if pixels == 1 else f"{pixels} pixels"
                yield Transformation(f"shift-{shift}", f"shifted by {length}", shifted)
        height, width = (min(size - 1, round(size * 28 / REFERENCE)) for size in (H, W))
        cropped = partial(_cropped, height=height, width=width)
        yield Transformation("crop", f"cropped to {height}×{width} and enlarged", cropped)
    yield Transformation("brighter", f"brighter by {BRIGHTENED} levels", _brightened)
    yield Transformation(
        "contrast", f"with {100 * (1 - CONTRAST):.0f} % less contrast", _with_less_contrast
    )
    if C == 3:
        yield Transformation("gray", "turned gray", _gray)
    if has_parts:
        yield Transformation("mirror", "mirrored", _mirrored)
    for percent in BLENDED:
        blended = partial(_blended, share=percent / 100)
        phrase = f"blended with {percent} % of another image"
        yield Transformation(f"blend-{percent}", phrase, blended)
    if has_parts:
        height, width = (max(1, round(size * 12 / REFERENCE)) for size in (H, W))
        patched = partial(_with_corner_replaced, height=height, width=width)
        yield Transformation("corner", f"with a corner of {height}×{width} replaced", patched)
        yield Transformation("half", "half replaced", _half_replaced)


def _exact(images: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return images.copy()


def _with_noise(
    images: np.ndarray, others: np.ndarray, rng: np.random.Generator, *, levels: float
) -> np.ndarray:
    return _to_bytes(images + levels * rng.standard_normal(images.shape))


def _compressed(
    images: np.ndarray, others: np.ndarray, rng: np.random.Generator, *, quality: int
) -> np.ndarray:
    """Encoded and decoded by PIL, with color planes of half the resolution, as it saves them."""
    copies = np.empty_like(images)
    for image, copy in zip(images, copies, strict=True):
        is_gray = len(image) == 1
        file = io.BytesIO()
        pixels = np.ascontiguousarray(image[0] if is_gray else image.transpose(1, 2, 0))
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        decoded = np.asarray(Image.open(file, formats=("JPEG",)))
        copy[:] = decoded if is_gray else decoded.transpose(2, 0, 1)
    return copies


def _shifted(
    images: np.ndarray, others: np.ndarray, rng: np.random.Generator, *, pixels: int
) -> np.ndarray:
    """To the right; the pixels that come in repeat the edge."""
    padded = np.pad(images, ((0, 0), (0, 0), (0, 0), (pixels, 0)), mode="edge")
    return padded[..., : images.shape[3]]


def _cropped(
    images: np.ndarray, others: np.ndarray, rng: np.random.Generator, *, height: int, width: int
) -> np.ndarray:
    """The middle, resized to the whole by PIL's bicubic filter."""
    *_, H, W = images.shape
    top, left = (H - height) // 2, (W - width) // 2
    copies = np.empty_like(images)
    for image, copy in zip(images, copies, strict=True):
        for plane, enlarged in zip(image, copy, strict=True):
            middle = np.ascontiguousarray(plane[top : top + height, left : left + width])
            enlarged[:] = Image.fromarray(middle).resize((W, H), Image.Resampling.BICUBIC)
    return copies


def _brightened(images: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _to_bytes(images.astype(np.int64) + BRIGHTENED)


def _with_less_contrast(
    images: np.ndarray, others: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    mean = images.mean((1, 2, 3), keepdims=True)
    return _to_bytes(mean + CONTRAST * (images - mean))


def _gray(images: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    luma = np.einsum("c,bchw->bhw", np.array(LUMA), images)
    return np.repeat(_to_bytes(luma)[:, None], 3, axis=1)


def _mirrored(images: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return images[..., ::-1].copy()


def _blended(
    images: np.ndarray, others: np.ndarray, rng: np.random.Generator, *, share: float
) -> np.ndarray:
    return _to_bytes((1 - share) * images + share * others)


def _with_corner_replaced(
    images: np.ndarray, others: np.ndarray, rng: np.random.Generator, *, height: int, width: int
) -> np.ndarray:
    copies = images.copy()
    copies[..., :height, :width] = others[..., :height, :width]
    return copies


def _half_replaced(images: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The left half is the image's, the right half the other's."""
    middle = images.shape[3] // 2
    copies = images.copy()
    copies[..., middle:] = others[..., middle:]
    return copies


def _to_bytes(values: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.rint(values).clip(0, 255).astype(np.uint8)
    return rounded
