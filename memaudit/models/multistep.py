"""DPM-Solver++(2M): second order with one evaluation of the model per step.

Lu, Zhou, Bao, Chen, Li, Zhu: DPM-Solver++ (arXiv:2211.01095), Algorithm 2, in EDM's terms, x = y +
σn: α = 1 and λ = −ln σ. Eight evaluations come near an image for which Heun's method takes 35, not
to its bytes. Such images find seeds to look at (audit/screening.py), and are never counted.
"""

import math

import torch
from torch import Tensor

from memaudit.models.denoiser import Denoiser
from memaudit.models.sampler import check_sigmas, denoised
from memaudit.progress import Progress, silent


@torch.no_grad()
def multistep_sampler(
    denoiser: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    class_labels: Tensor | None = None,
    *,
    start: Tensor | None = None,
    progress: Progress = silent,
) -> Tensor:
    """Integrate dx/dσ = (x − D(x; σ)) / σ from pure noise to an image, with the last two D.

    A step from σ_i to σ_{i+1}, h_i = ln(σ_i / σ_{i+1}) and r = h_{i−1} / h_i, is

        D = (1 + 1/(2r)) D_i − 1/(2r) D_{i−1},    x_{i+1} = (σ_{i+1}/σ_i) x_i + (1 − σ_{i+1}/σ_i) D

    The first step and the last one, to σ = 0, take D = D_i. With N levels, N evaluations.

    Args:
        denoiser: any denoiser.
        noise: unit-variance noise, float [B, C, H, W].
        sigmas: noise levels to visit, float64 [N], descending and above 0, within the denoiser's
            range. Each is rounded to the nearest that the denoiser supports; of equal ones, one is
            visited.
        class_labels: one-hot float [B, label_dim], or None.
        start: clean images [B, C, H, W] that are noised to begin with; None: pure noise.
        progress: told the steps done.

    Returns:
        Images, float64 [B, C, H, W], data scale [-1, 1], not clipped.

    Raises:
        ValueError: noise levels that are not descending numbers above 0.

    Example:
        >>> from memaudit.models.optimum.closed_form import ClosedFormOptimum
        >>> from memaudit.models.sampler import karras_sigmas
        >>> images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8).numpy()
        >>> noise = torch.randn(8, 1, 4, 4)
        >>> x = multistep_sampler(ClosedFormOptimum(images), noise, karras_sigmas(10))
        >>> bool((x == -1).all())
        True
    """
    check_sigmas(sigmas)
    # Two levels may round to one, and no step lies between them.
    sigmas = denoiser.round_sigma(sigmas.to("cpu", torch.float64))
    sigmas = sigmas[[True, *(sigmas[1:] < sigmas[:-1]).tolist()]]
    levels = sigmas.tolist()
    x: Tensor = noise.to(torch.float64) * levels[0]
    x = x if start is None else start + x
    D_prev, h_prev = None, math.inf
    for i, sigma in enumerate(levels):
        D = denoised(denoiser, x, sigmas[i], class_labels)
        if i + 1 == len(levels):
            x = D
        else:
            shrink = levels[i + 1] / sigma
            h = -math.log(shrink)
            D_bar = D
            if D_prev is not None:
                D_bar = D + h / (2 * h_prev) * (D - D_prev)
            x = shrink * x + (1 - shrink) * D_bar
            D_prev, h_prev = D, h
        progress("Sampling", i + 1, len(levels))
    return x
