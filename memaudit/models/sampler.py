"""EDM's sampler: Heun's second-order method with temporary noise.

Karras, Aittala, Aila, Laine: Elucidating the Design Space of Diffusion-Based Generative Models
(arXiv:2206.00364), Algorithm 2 and Equation 5. `ablation.py` has the paper's general sampler.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from memaudit.errors import ConfigError
from memaudit.models.denoiser import Denoiser
from memaudit.models.sampler_config import SIGMA_MAX, SIGMA_MIN
from memaudit.progress import Progress, silent


@torch.no_grad()
def heun_sampler(
    denoiser: Denoiser,
    noise: Tensor,
    class_labels: Tensor | None = None,
    *,
    num_steps: int = 18,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    rho: float = 7.0,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    start: Tensor | None = None,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
    progress: Progress = silent,
) -> Tensor:
    """Integrate dx/dσ = (x − D(x; σ)) / σ from pure noise to an image (EDM, Algorithm 2).

    The state is float64; the denoiser is handed it as it is, and computes in its own precision.
    It is called 2·num_steps − 1 times.

    Args:
        denoiser: any denoiser; its sigma range cuts the one asked for.
        noise: unit-variance noise, float [B, C, H, W].
        class_labels: one-hot float [B, label_dim], or None.
        num_steps: number of steps; one is a single Euler step, x = D(x; sigma_max).
        sigma_min: lowest noise level above 0.
        sigma_max: noise level to start from.
        rho: exponent of the time steps (Eq. 5); larger means shorter steps near sigma_min.
        S_churn: amount of noise added on the way, over all steps; 0 is deterministic.
        S_min: churn only where S_min ≤ sigma ≤ S_max.
        S_max: see S_min.
        S_noise: standard deviation of the added noise.
        start: clean images [B, C, H, W] that are noised to begin with; None: pure noise.
        randn_like: draws unit-variance noise of the state's shape and dtype. With churn it is
            called once a step, in order; without churn never.
        progress: told the steps done.

    Returns:
        Images, float64 [B, C, H, W], data scale [-1, 1], not clipped.

    Raises:
        ValueError: num_steps below 1.
        ConfigError: a range of noise levels that is empty, or outside the denoiser's.
    """
    # Time steps.
    sigma_min, sigma_max = sigma_range(denoiser, sigma_min, sigma_max)
    sigmas = karras_sigmas(num_steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
    sigmas = denoiser.round_sigma(sigmas.to(noise.device))
    gammas = churn_factors(sigmas, S_churn=S_churn, S_min=S_min, S_max=S_max)
    sigmas = torch.cat([sigmas, sigmas.new_zeros(1)])  # t_N = 0

    x = noise.to(torch.float64) * sigmas[0]
    if start is not None:
        x = start + x
    for i, gamma in enumerate(gammas):
        sigma_cur, sigma_next = sigmas[i], sigmas[i + 1]

        # Increase the noise temporarily. The published stream spends a draw at every step, churned
        # or not. Without any churn nothing reads the stream, so that none is needed.
        sigma_hat, x_hat = sigma_cur, x
        if S_churn > 0:
            sigma_hat = denoiser.round_sigma(sigma_cur + gamma * sigma_cur)
            x_hat = x + (sigma_hat**2 - sigma_cur**2).sqrt() * S_noise * randn_like(x)

        # Euler step.
        denoised = denoiser(x_hat, sigma_hat, class_labels).to(torch.float64)
        d_cur = (x_hat - denoised) / sigma_hat
        x = x_hat + (sigma_next - sigma_hat) * d_cur

        # Second-order correction, undefined at sigma = 0.
        if i < num_steps - 1:
            denoised = denoiser(x, sigma_next, class_labels).to(torch.float64)
            d_prime = (x - denoised) / sigma_next
            x = x_hat + (sigma_next - sigma_hat) * (d_cur + d_prime) / 2

        progress("Sampling", i + 1, num_steps)
    return x


def karras_sigmas(num_steps: int, *, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """EDM's noise levels, σ_i = (σmax^(1/ρ) + i/(N−1)·(σmin^(1/ρ) − σmax^(1/ρ)))^ρ (Eq. 5).

    Returns:
        float64 [num_steps], from sigma_max down to sigma_min; the final 0 is not part of it.
    """
    start, end = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (start + step_fractions(num_steps) * (end - start)) ** rho


def step_fractions(num_steps: int) -> Tensor:
    """i / (N − 1) for i = 0 … N − 1, float64 [num_steps]; a single step is at 0."""
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; at least 1 is needed")
    return torch.arange(num_steps, dtype=torch.float64) / max(num_steps - 1, 1)


def sigma_range(denoiser: Denoiser, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """The part of [sigma_min, sigma_max] that the denoiser supports."""
    if not 0 < sigma_min <= sigma_max < math.inf:
        raise ConfigError(
            f"sigma_min is {sigma_min} and sigma_max {sigma_max}; "
            "0 < sigma_min <= sigma_max < inf is needed."
        )
    low, high = max(sigma_min, denoiser.sigma_min), min(sigma_max, denoiser.sigma_max)
    if low > high:
        raise ConfigError(
            f"The noise levels asked for, {sigma_min:g} to {sigma_max:g}, lie outside the model's, "
            f"{denoiser.sigma_min:g} to {denoiser.sigma_max:g}; choose sigma_min and sigma_max "
            "within the model's range."
        )
    return low, high


def churn_factors(sigmas: Tensor, *, S_churn: float, S_min: float, S_max: float) -> list[float]:
    """γ_i of Algorithm 2, by which each step raises its noise level: σ̂ = σ + γσ."""
    gamma = min(S_churn / len(sigmas), math.sqrt(2) - 1)
    # Read once, before the loop: a comparison on a GPU would wait for it at every step.
    return [gamma if S_min <= sigma <= S_max else 0.0 for sigma in sigmas.tolist()]
