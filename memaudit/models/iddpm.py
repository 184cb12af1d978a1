"""The discrete noise levels of improved DDPM (Nichol and Dhariwal, arXiv:2102.09672)."""

import math

import numpy as np
import torch
from numpy.typing import NDArray


def iddpm_levels(
    M: int = 1000, *, C_1: float = 0.001, C_2: float = 0.008, dtype: type[np.floating] = np.float32
) -> NDArray[np.floating]:
    """Noise levels u_0 > … > u_M = 0 of improved DDPM.

    u_{j−1} = √((u_j² + 1) / max(ᾱ_{j−1} / ᾱ_j, C_1) − 1), ᾱ_j = sin²(½ π j / (M (1 + C_2))).
    EDM, arXiv:2206.00364, Table 1.

    ᾱ and its ratios are float32 in this order of operations, as published networks were trained
    with: up to 5e-4 off the exact levels.

    Args:
        M: number of noise levels above 0.
        C_1: lower bound on a ratio.
        C_2: offset of the schedule.
        dtype: np.float32 or np.float64, in which the recurrence runs.

    Returns:
        `dtype` [M + 1], descending.
    """
    j = torch.arange(M + 1, dtype=torch.float32, device="cpu")
    alpha_bar = (0.5 * math.pi * j / M / (C_2 + 1)).sin() ** 2
    ratio = (alpha_bar[:-1] / alpha_bar[1:]).clip(min=C_1).numpy().astype(dtype)
    # Not in torch, whose float32 roots are rounded differently from processor to processor.
    u = np.zeros(M + 1, dtype=dtype)
    for i in range(M, 0, -1):
        u[i - 1] = np.sqrt((u[i] ** 2 + 1) / ratio[i - 1] - 1)
    return u
