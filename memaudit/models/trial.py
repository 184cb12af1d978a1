"""One evaluation of a network on blank images, to see what it takes or whether it works."""

from typing import Any

import torch

from memaudit.models.denoiser import Denoiser, image_shape


def evaluate_blank(denoiser: Denoiser, num_images: int, device: torch.device) -> None:
    """Evaluate as the sampler does: a compiler makes other kernels for tensors of another kind.

    Args:
        denoiser: on the device.
        num_images: how many images at once.
        device: where it is.
    """
    labels: Any = None
    if denoiser.label_dim:
        labels = torch.zeros(num_images, denoiser.label_dim, device=device)
        labels[:, 0] = 1
    level = min(max(1.0, denoiser.sigma_min), denoiser.sigma_max)
    x = torch.zeros(num_images, *image_shape(denoiser), dtype=torch.float64, device=device)
    denoiser(x, torch.full((), level, dtype=torch.float64, device=device), labels)
