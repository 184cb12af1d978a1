"""Sinusoidal embeddings of time, as networks other than EDM's were trained with.

The order of operations is theirs: rounded otherwise, an angle near t = 1000 is off by 1e-4.
`PositionalEmbedding` has EDM's.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cos_sin(noise_labels: Tensor, channels: int) -> Tensor:
    """[cos | sin] of labels at frequencies exp(−ln(10⁴) i/n), i = 0 … n−1, n = channels // 2.

    Args:
        noise_labels: float32 [B].
        channels: channels of the result; where it is odd, a 0 comes last.

    Returns:
        float32 [B, channels].
    """
    n = channels // 2
    i = torch.arange(n, dtype=torch.float32, device=noise_labels.device)
    angle = noise_labels[:, None] * torch.exp(-math.log(10000) * i / n)  # [B, n]
    return F.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, channels % 2))


def sin_cos(noise_labels: Tensor, channels: int, theta: float = 10000.0) -> Tensor:
    """[sin | cos] of labels at frequencies exp(−ln(θ) i/(n−1)), i = 0 … n−1, n = channels // 2.

    Args:
        noise_labels: float32 [B].
        channels: at least 4, even.
        theta: period of the slowest wave, in units of 2π.

    Returns:
        float32 [B, channels].
    """
    n = channels // 2
    i = torch.arange(n, dtype=torch.float32, device=noise_labels.device)
    angle = noise_labels[:, None] * torch.exp(i * -(math.log(theta) / (n - 1)))  # [B, n]
    return torch.cat([angle.sin(), angle.cos()], dim=1)
