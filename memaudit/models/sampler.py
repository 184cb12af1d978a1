"""EDM's sampler: Heun's second-order method with temporary noise.

Karras, Aittala, Aila, Laine: Elucidating the Design Space of Diffusion-Based Generative Models
(arXiv:2206.00364), Algorithm 2 and Equation 5. `ablation.py` has the choices of the paper's general
sampler, Algorithm 1, which takes the same steps along another path.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.denoiser import Denoiser
from memaudit.models.devices import like
from memaudit.models.sampler_config import ABLATIONS, SIGMA_MAX, SIGMA_MIN, Solver
from memaudit.progress import Progress, silent


class Path(Protocol):
    """The way from noise to an image: x = s(t)·(y + σ(t)·n) for decreasing times t, all float64."""

    def t(self, sigma: Tensor) -> Tensor:
        """Time at which the noise level is sigma."""
        ...

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level at time t."""
        ...

    def scale(self, sigma: Tensor) -> Tensor:
        """Scale s of the state where the noise level is sigma."""
        ...

    def dx_dt(self, x: Tensor, t: Tensor, denoise: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Derivative of the state x [B, C, H, W] at time t, by one call of denoise(x, sigma)."""
        ...


class EDMPath:
    """σ(t) = t and s = 1, hence dx/dσ = (x − D(x; σ)) / σ."""

    def t(self, sigma: Tensor) -> Tensor:
        return sigma

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def scale(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def dx_dt(self, x: Tensor, t: Tensor, denoise: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return (x - denoise(x, t)) / t


@torch.no_grad()
def heun_sampler(
    denoiser: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    class_labels: Tensor | None = None,
    *,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    path: Path | None = None,
    solver: Solver = "heun",
    alpha: float = 1.0,
    start: Tensor | None = None,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
    progress: Progress = silent,
) -> Tensor:
    """Integrate dx/dσ = (x − D(x; σ)) / σ from pure noise to an image (EDM, Algorithm 2).

    With another `path` it is EDM's Algorithm 1. The state is float64; the denoiser is handed it as
    it is, and computes in its own precision. With N noise levels it is called 2N − 1 times.

    Args:
        denoiser: any denoiser.
        noise: unit-variance noise, float [B, C, H, W].
        sigmas: noise levels to visit, float64 [N], descending and above 0, within the denoiser's
            range: see `karras_sigmas` and `sigma_range`. Each is rounded to the nearest that the
            denoiser supports, and 0 follows the last. One level is a single Euler step,
            x = D(x; sigma).
        class_labels: one-hot float [B, label_dim], or None.
        S_churn: amount of noise added on the way, over all steps; 0 is deterministic.
        S_min: noise is added only where S_min ≤ sigma ≤ S_max.
        S_max: see S_min.
        S_noise: standard deviation of the added noise.
        path: σ(t) and s(t), where they are not those of Algorithm 2.
        solver: heun, or euler for N calls of the denoiser and first order.
        alpha: where the second evaluation is, as a share of the step: 1 is Heun, 1/2 the midpoint
            method, 2/3 Ralston's (EDM, Algorithm 3).
        start: clean images [B, C, H, W] that are noised to begin with; None: pure noise.
        randn_like: draws unit-variance noise of the state's shape and dtype. With churn it is
            called once per step, in order; without churn never.
        progress: told the steps done.

    Returns:
        Images, float64 [B, C, H, W], data scale [-1, 1], not clipped.

    Raises:
        ValueError: noise levels that are not descending numbers above 0; an unknown solver; alpha
            not above 0.

    Example:
        >>> from memaudit.models.optimum.closed_form import ClosedFormOptimum
        >>> images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8).numpy()
        >>> noise = torch.randn(8, 1, 4, 4)
        >>> x = heun_sampler(ClosedFormOptimum(images), noise, karras_sigmas(18))
        >>> bool((x == -1).all())
        True
    """
    check_sigmas(sigmas)
    if solver not in ABLATIONS["solver"]:
        raise ValueError(f"solver is {solver!r}; one of {', '.join(ABLATIONS['solver'])} is needed")
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}; more than 0 is needed")
    path = path or EDMPath()
    num_steps = len(sigmas)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return denoised(denoiser, x, sigma, class_labels)

    # Time steps, which are numbers on the CPU: arithmetic with them does not wait for a GPU.
    sigmas = denoiser.round_sigma(sigmas.to("cpu", torch.float64))
    gammas = churn_factors(sigmas, S_churn=S_churn, S_min=S_min, S_max=S_max)
    t = path.t(sigmas)
    t = torch.cat([t, t.new_zeros(1)])  # t_N = 0

    x: Tensor = noise.to(torch.float64) * sigmas[0]
    x = path.scale(sigmas[0]) * (x if start is None else start + x)
    for i, gamma in enumerate(gammas):
        t_cur, t_next = t[i], t[i + 1]

        # Increase the noise temporarily. The published stream spends a draw at every step, churned
        # or not. Without any churn nothing reads the stream, so that none is needed.
        t_hat, x_hat = t_cur, x
        if S_churn > 0:
            sigma_cur = path.sigma(t_cur)
            t_hat = path.t(denoiser.round_sigma(sigma_cur + gamma * sigma_cur))
            sigma_hat = path.sigma(t_hat)
            # A path's rounding may lower a noise level that no churn raises.
            added = (sigma_hat**2 - sigma_cur**2).clip(min=0).sqrt() * S_noise * randn_like(x)
            x_hat = path.scale(sigma_hat) * (x / path.scale(sigma_cur) + added)

        # Euler step.
        h = t_next - t_hat
        d_cur = path.dx_dt(x_hat, t_hat, denoise)
        x = x_hat + h * d_cur

        # Second-order correction, undefined at sigma = 0.
        if solver == "heun" and i < num_steps - 1:
            x_prime, t_prime = x, t_next
            if alpha != 1:
                x_prime, t_prime = x_hat + alpha * h * d_cur, t_hat + alpha * h
            d_prime = path.dx_dt(x_prime, t_prime, denoise)
            x = x_hat + h * ((1 - 1 / (2 * alpha)) * d_cur + 1 / (2 * alpha) * d_prime)

        progress("Sampling", i + 1, num_steps)
    return x


def denoised(denoiser: Denoiser, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
    """D(x; sigma) in float64.

    Raises:
        CheckpointError: it has another shape than x, and would be stretched to fit.
    """
    D = denoiser(x, like(sigma, x), class_labels)
    if D.shape != x.shape:
        raise CheckpointError(
            f"The model denoised images of {list(x.shape)} to {list(D.shape)}; images of the same "
            "shape are needed."
        )
    return D.to(torch.float64)


def karras_sigmas(
    num_steps: int,
    *,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    rho: float = 7.0,
) -> Tensor:
    """EDM's noise levels, σ_i = (σmax^(1/ρ) + i/(N−1)·(σmin^(1/ρ) − σmax^(1/ρ)))^ρ (Eq. 5).

    Args:
        num_steps: number of levels, N.
        sigma_min: lowest level.
        sigma_max: highest level.
        rho: exponent; larger means shorter steps near sigma_min.

    Returns:
        float64 [num_steps], from sigma_max down to sigma_min; the final 0 is not part of it.

    Raises:
        ValueError: num_steps below 1.

    Example:
        >>> [round(sigma, 3) for sigma in karras_sigmas(4).tolist()]
        [80.0, 9.723, 0.47, 0.002]
    """
    start, end = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas: Tensor = (start + step_fractions(num_steps) * (end - start)) ** rho
    return sigmas


def step_fractions(num_steps: int) -> Tensor:
    """i / (N − 1) for i = 0 … N − 1, float64 [num_steps]; a single step is at 0."""
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; at least 1 is needed")
    return torch.arange(num_steps, dtype=torch.float64) / max(num_steps - 1, 1)


def sigma_range(
    denoiser: Denoiser, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX
) -> tuple[float, float]:
    """The part of [sigma_min, sigma_max] that the denoiser supports.

    Raises:
        ConfigError: a range that is empty, or entirely outside the denoiser's.
    """
    if not 0 < sigma_min <= sigma_max < math.inf:
        raise ConfigError(
            f"{{sigma_min}} is {sigma_min} and {{sigma_max}} is {sigma_max}; "
            "0 < {sigma_min} <= {sigma_max} < inf is needed.",
            field=("sigma_min", "sigma_max"),
        )
    low, high = max(sigma_min, denoiser.sigma_min), min(sigma_max, denoiser.sigma_max)
    if low > high:
        raise ConfigError(
            f"The noise levels asked for, {sigma_min:g} to {sigma_max:g}, lie outside the model's, "
            f"{denoiser.sigma_min:g} to {denoiser.sigma_max:g}; choose {{sigma_min}} and "
            "{sigma_max} within the model's range.",
            field=("sigma_min", "sigma_max"),
        )
    return low, high


def churn_factors(sigmas: Tensor, *, S_churn: float, S_min: float, S_max: float) -> list[float]:
    """γ_i of Algorithm 2, by which each step raises its noise level: σ̂ = σ + γσ."""
    gamma = min(S_churn / len(sigmas), math.sqrt(2) - 1)
    return [gamma if S_min <= sigma <= S_max else 0.0 for sigma in sigmas.tolist()]


def check_sigmas(sigmas: Tensor) -> None:
    """Raise ValueError unless noise levels, float [N], are descending numbers above 0."""
    levels = sigmas.tolist()
    is_descending = all(a >= b for a, b in zip(levels, levels[1:], strict=False))
    if not levels or not is_descending or not 0 < levels[-1] <= levels[0] < math.inf:
        raise ValueError(f"sigmas must be descending numbers above 0, got {levels}")
