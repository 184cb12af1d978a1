"""The closed-form optimum by its definition: slow, exact, and short enough to check by eye."""

import numpy as np
import torch
from torch import Tensor


def denoise_by_definition(x: Tensor, sigma: Tensor | float, images: np.ndarray) -> Tensor:
    """D*(x; σ) = Σᵢ wᵢ yᵢ, w = softmaxᵢ(−‖x − yᵢ‖² / 2σ²), from all differences in float64.

    EDM, arXiv:2206.00364, App. B.3, Eq. 57. `ClosedFormOptimum` computes the same in less time and
    memory; this is what its tests compare it with.

    Args:
        x: noisy images, float [B, C, H, W], data scale [-1, 1].
        sigma: noise level above 0, a number or [B].
        images: training images, uint8 [N, C, H, W].

    Returns:
        Denoised images, float64 [B, C, H, W].

    Example:
        >>> images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
        >>> x = torch.tensor([-0.9, 0.0]).reshape(2, 1, 1, 1)
        >>> denoise_by_definition(x, 0.1, images).flatten().tolist()
        [-1.0, 0.0]
    """
    y = torch.from_numpy(images.astype(np.float64) / 127.5 - 1).flatten(1)  # [N, D]
    sigma = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1)
    S = (x.double().flatten(1)[:, None] - y).square().sum(2)  # [B, N]
    S = S - S.min(1, keepdim=True).values  # the softmax is the same, and does not underflow
    w = (-S / (2 * sigma**2)).softmax(1)
    return (w @ y).view(x.shape)
