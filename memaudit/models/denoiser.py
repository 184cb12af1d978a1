"""The one contract between models, samplers and audits.

Networks, converted checkpoints and the closed-form optimum are all denoisers: estimates
D(x; σ) of the clean image behind x = y + σ·n, n ~ N(0, I), data in [-1, 1] (EDM,
arXiv:2206.00364, §2). A sampler or an audit accepts any of them and never asks which it got.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Denoiser(Protocol):
    """D(x; sigma), and what a sampler needs to know about it."""

    img_channels: int
    """Channels of the images: 1 or 3."""
    img_resolution: int
    """Height and width of the images."""
    label_dim: int
    """Number of classes; 0 for an unconditional model."""
    sigma_min: float
    """Smallest noise level that the denoiser supports."""
    sigma_max: float
    """Largest noise level that the denoiser supports."""

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Denoise.

        Args:
            x: noisy images, float [B, C, H, W], data scale [-1, 1].
            sigma: noise level, a scalar or [B].
            class_labels: one-hot float [B, label_dim], or None.

        Returns:
            Denoised images, float32 [B, C, H, W].
        """
        ...

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest noise level that the denoiser supports, same shape and dtype."""
        ...
