"""Augmentation that does not leak: the network is told how its image was transformed.

Each image is flipped, scaled, rotated, stretched and moved at random, and the network receives the
transformation as nine labels; at sampling time the labels are zero, so that it generates images
like the untransformed ones. Source: Karras et al. (EDM), arXiv:2206.00364, Appendix F.2, for the
transformations, their distributions and labels. The resampling is our own.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

AUGMENT_DIM = 9
"""Number of labels: x-flip; y-flip; scale; rotation (cos - 1, sin); stretch (cos, sin); shift (x,
y)."""
SCALE = 2**0.2
"""Factor by which one standard deviation scales or stretches."""
SHIFT = 1 / 8
"""Standard deviation of a shift, in image widths and heights."""


class Augmentation(NamedTuple):
    """A transformation per image; all numbers are 0 where an image stays as it is."""

    flip_x: Tensor
    """bool [B]: mirror left to right."""
    flip_y: Tensor
    """bool [B]: mirror top to bottom."""
    scale: Tensor
    """float32 [B]: enlarge by SCALE to this power."""
    rotation: Tensor
    """float32 [B]: angle in radians."""
    stretch: Tensor
    """float32 [B]: enlarge along an axis by SCALE to this power, and shrink across it."""
    stretch_axis: Tensor
    """float32 [B]: angle of that axis in radians."""
    shift: Tensor
    """float32 [B, 2]: move to the right and down, in multiples of SHIFT."""

    @property
    def labels(self) -> Tensor:
        """What the network is told about each image: float32 [B, AUGMENT_DIM]."""
        columns = [
            self.flip_x,
            self.flip_y,
            self.scale,
            self.rotation.cos() - 1,
            self.rotation.sin(),
            self.stretch * self.stretch_axis.cos(),
            self.stretch * self.stretch_axis.sin(),
            self.shift[:, 0],
            self.shift[:, 1],
        ]
        return torch.stack([column.to(torch.float32) for column in columns], dim=1)


def draw_augmentation(num_images: int, probability: float, device: torch.device) -> Augmentation:
    """Draw random transformations.

    A chosen flip happens half of the time; angles are uniform in [-π, π), other numbers standard
    normal. Source: EDM, arXiv:2206.00364, Appendix F.2.

    Args:
        num_images: B.
        probability: chance, in [0, 1], that an image gets a transformation; per kind and image.
        device: where the numbers are drawn.
    """

    def chosen() -> Tensor:
        return torch.rand(num_images, device=device) < probability

    def normal() -> Tensor:
        return torch.randn(num_images, device=device)

    def angle() -> Tensor:
        return (torch.rand(num_images, device=device) * 2 - 1) * math.pi

    def coin() -> Tensor:
        return torch.rand(num_images, device=device) < 0.5

    return Augmentation(
        flip_x=chosen() & coin(),
        flip_y=chosen() & coin(),
        scale=chosen() * normal(),
        rotation=chosen() * angle(),
        stretch=chosen() * normal(),
        stretch_axis=angle(),
        shift=chosen()[:, None] * torch.stack([normal(), normal()], dim=1),
    )


def augment(y: Tensor, by: Augmentation) -> Tensor:
    """Transform images.

    Flips are exact, and images that are only flipped are not resampled. All other transformations
    form one affine map about the image's center, sampled bicubically at 2x2 points per pixel, with
    the image mirrored beyond its edges.

    Args:
        y: images, float32 [B, C, H, W].
        by: their transformations.

    Returns:
        The transformed images, of the same shape.
    """
    y = torch.where(_per_image(by.flip_x), y.flip(3), y)
    y = torch.where(_per_image(by.flip_y), y.flip(2), y)
    resampled = (by.scale != 0) | (by.rotation != 0) | (by.stretch != 0) | (by.shift != 0).any(1)

    B, C, H, W = y.shape
    grid = F.affine_grid(_source_points(by, H, W), [B, C, 2 * H, 2 * W], align_corners=False)
    sampled = F.grid_sample(y, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return torch.where(_per_image(resampled), F.avg_pool2d(sampled, 2), y)


def _source_points(by: Augmentation, height: int, width: int) -> Tensor:
    """Affine maps [B, 2, 3] from points of the result to points of the image; edges at -1 and 1.

    They undo scaling, rotation, stretch and shift, starting with the last.
    """
    factors = torch.stack([SCALE**-by.stretch, SCALE**by.stretch], dim=1)
    unstretch = _rotation(by.stretch_axis) @ torch.diag_embed(factors) @ _rotation(-by.stretch_axis)
    linear = SCALE ** -by.scale[:, None, None] * _rotation(-by.rotation) @ unstretch
    # Edges are at -1 and 1 along both axes, but angles are those of square pixels.
    linear[:, 0, 1] *= height / width
    linear[:, 1, 0] *= width / height
    shift = 2 * SHIFT * by.shift[:, :, None]  # an image is 2 wide and high here
    return torch.cat([linear, -linear @ shift], dim=2)


def _rotation(angle: Tensor) -> Tensor:
    """Rotation matrices [B, 2, 2] by angles [B], from the x-axis toward the y-axis."""

    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
