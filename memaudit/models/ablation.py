"""EDM's general sampler: any solver, discretization, schedule and scaling of its ablations.

With a noise schedule σ(t) and a scaling s(t), the state x = s(t)·(y + σ(t)·n) moves along

    dx/dt = (σ'/σ + s'/s)·x − (σ'·s/σ)·D(x/s; σ)

(Karras et al., arXiv:2206.00364, Algorithm 1; the choices are Table 1's). With σ(t) = t and s = 1
this is Algorithm 2, which `sampler.py` has in its own form.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from memaudit.errors import ConfigError
from memaudit.models.denoiser import Denoiser
from memaudit.models.iddpm import iddpm_levels
from memaudit.models.sampler import churn_factors, karras_sigmas, sigma_range, step_fractions
from memaudit.models.sampler_config import ABLATIONS, Discretization, Scaling, Schedule, Solver
from memaudit.progress import Progress, silent


@torch.no_grad()
def ablation_sampler(
    denoiser: Denoiser,
    noise: Tensor,
    class_labels: Tensor | None = None,
    *,
    num_steps: int = 18,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float = 7.0,
    solver: Solver = "heun",
    discretization: Discretization = "edm",
    schedule: Schedule = "linear",
    scaling: Scaling = "none",
    epsilon_s: float = 1e-3,
    C_1: float = 0.001,
    C_2: float = 0.008,
    M: int = 1000,
    alpha: float = 1.0,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    start: Tensor | None = None,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
    progress: Progress = silent,
) -> Tensor:
    """Sample with the choices that EDM's ablations compare.

    Args:
        denoiser: any denoiser; its sigma range cuts the one asked for.
        noise: unit-variance noise, float [B, C, H, W].
        class_labels: one-hot float [B, label_dim], or None.
        num_steps: number of steps; heun calls the denoiser 2·num_steps − 1 times, euler num_steps.
        sigma_min: lowest noise level above 0; None: the discretization's own.
        sigma_max: noise level to start from; None: the discretization's own.
        rho: exponent of the edm discretization.
        solver: euler (first order) or heun (second order).
        discretization: which noise levels are visited.
        schedule: σ(t): vp, ve (√t) or linear (t).
        scaling: s(t): vp (1/√(1 + σ²)) or none (1).
        epsilon_s: smallest time of the vp schedule and discretization.
        C_1: see `iddpm_levels`.
        C_2: see `iddpm_levels`.
        M: see `iddpm_levels`.
        alpha: where heun evaluates again, as a share of the step: 1 is Heun, 1/2 the midpoint
            method, 2/3 Ralston's (EDM, Algorithm 3).
        S_churn: this and the rest as in `heun_sampler`.

    Returns:
        Images, float64 [B, C, H, W], data scale [-1, 1], not clipped.

    Raises:
        ValueError: an unknown choice; num_steps below 1; alpha not above 0.
        ConfigError: a range of noise levels that is empty, or outside the denoiser's.
    """
    chosen = {
        "solver": solver,
        "discretization": discretization,
        "schedule": schedule,
        "scaling": scaling,
    }
    for name, value in chosen.items():
        if value not in ABLATIONS[name]:
            raise ValueError(f"{name} is {value!r}; one of {', '.join(ABLATIONS[name])} is needed")
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}; more than 0 is needed")

    # Noise levels to visit.
    own_min, own_max = default_sigma_range(discretization, epsilon_s=epsilon_s)
    sigma_min, sigma_max = sigma_range(
        denoiser,
        own_min if sigma_min is None else sigma_min,
        own_max if sigma_max is None else sigma_max,
    )
    vp = VPSchedule.between(sigma_min, sigma_max, epsilon_s=epsilon_s)
    match discretization:
        case "vp":
            sigmas = vp.sigma(1 + step_fractions(num_steps) * (epsilon_s - 1))
        case "ve":
            sigmas = sigma_max * (sigma_min / sigma_max) ** step_fractions(num_steps)
        case "iddpm":
            table = torch.from_numpy(iddpm_levels(M, C_1=C_1, C_2=C_2, dtype=np.float64)[:-1])
            sigmas = pick_levels(table, num_steps, sigma_min=sigma_min, sigma_max=sigma_max)
        case "edm":
            sigmas = karras_sigmas(num_steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
    sigmas = denoiser.round_sigma(sigmas.to(noise.device))
    gammas = churn_factors(sigmas, S_churn=S_churn, S_min=S_min, S_max=S_max)

    # Times at which they are reached.
    curves: dict[str, NoiseSchedule] = {"vp": vp, "ve": VESchedule(), "linear": LinearSchedule()}
    curve = curves[schedule]
    t = curve.t(sigmas)
    t = torch.cat([t, t.new_zeros(1)])

    def scale(sigma: Tensor) -> Tensor:
        return (1 + sigma**2).rsqrt() if scaling == "vp" else torch.ones_like(sigma)

    def dx_dt(x: Tensor, t: Tensor) -> Tensor:
        sigma, sigma_prime = curve.sigma(t), curve.sigma_prime(t)
        s = scale(sigma)
        s_prime_over_s = -sigma * sigma_prime * s**2 if scaling == "vp" else 0
        denoised = denoiser(x / s, sigma, class_labels).to(torch.float64)
        return (sigma_prime / sigma + s_prime_over_s) * x - sigma_prime * s / sigma * denoised

    x = noise.to(torch.float64) * sigmas[0]
    x = scale(sigmas[0]) * (x if start is None else start + x)
    for i, gamma in enumerate(gammas):
        t_cur, t_next = t[i], t[i + 1]

        # Increase the noise temporarily; draws as in Algorithm 2.
        t_hat, x_hat = t_cur, x
        if S_churn > 0:
            sigma_cur = curve.sigma(t_cur)
            t_hat = curve.t(denoiser.round_sigma(sigma_cur + gamma * sigma_cur))
            sigma_hat = curve.sigma(t_hat)
            added = (sigma_hat**2 - sigma_cur**2).clip(min=0).sqrt() * S_noise * randn_like(x)
            x_hat = scale(sigma_hat) * (x / scale(sigma_cur) + added)

        # Euler step.
        h = t_next - t_hat
        d_cur = dx_dt(x_hat, t_hat)
        x = x_hat + h * d_cur

        # Second-order correction, undefined at sigma = 0.
        if solver == "heun" and i < num_steps - 1:
            d_prime = dx_dt(x_hat + alpha * h * d_cur, t_hat + alpha * h)
            x = x_hat + h * ((1 - 1 / (2 * alpha)) * d_cur + 1 / (2 * alpha) * d_prime)

        progress("Sampling", i + 1, num_steps)
    return x


def default_sigma_range(
    discretization: Discretization, *, epsilon_s: float = 1e-3
) -> tuple[float, float]:
    """The noise levels that each method was published with (EDM, Table 1)."""
    match discretization:
        case "vp":
            low, high = VPSchedule().sigma(torch.tensor([epsilon_s, 1], dtype=torch.float64))
            return float(low), float(high)
        case "ve":
            return 0.02, 100.0
        case "iddpm":
            return 0.002, 81.0
        case "edm":
            return 0.002, 80.0


def pick_levels(table: Tensor, num_steps: int, *, sigma_min: float, sigma_max: float) -> Tensor:
    """num_steps levels at equal strides through the part of a table that lies in the range."""
    inside = table[(sigma_min <= table) & (table <= sigma_max)]
    if not len(inside):
        raise ConfigError(
            f"No iddpm noise level lies from {sigma_min:g} to {sigma_max:g}; "
            "widen sigma_min and sigma_max, or choose another discretization."
        )
    return inside[(step_fractions(num_steps) * (len(inside) - 1)).round().to(torch.int64)]


class NoiseSchedule(Protocol):
    """A noise schedule σ(t), its derivative, and its inverse t(σ); all float64."""

    def sigma(self, t: Tensor) -> Tensor: ...

    def sigma_prime(self, t: Tensor) -> Tensor: ...

    def t(self, sigma: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class VPSchedule:
    """σ(t) = √(exp(β_d·t²/2 + β_min·t) − 1), t from 1 down to epsilon_s."""

    beta_d: float = 19.9
    beta_min: float = 0.1

    @classmethod
    def between(cls, sigma_min: float, sigma_max: float, *, epsilon_s: float) -> "VPSchedule":
        """The schedule with σ(epsilon_s) = sigma_min and σ(1) = sigma_max."""
        low, high = math.log1p(sigma_min**2), math.log1p(sigma_max**2)
        beta_d = 2 * (low / epsilon_s - high) / (epsilon_s - 1)
        return cls(beta_d=beta_d, beta_min=high - beta_d / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.expm1(self.beta_d * t**2 / 2 + self.beta_min * t).sqrt()

    def sigma_prime(self, t: Tensor) -> Tensor:
        sigma = self.sigma(t)
        return (self.beta_min + self.beta_d * t) * (sigma + 1 / sigma) / 2

    def t(self, sigma: Tensor) -> Tensor:
        root = (self.beta_min**2 + 2 * self.beta_d * torch.log1p(sigma**2)).sqrt()
        return (root - self.beta_min) / self.beta_d


class VESchedule:
    """σ(t) = √t."""

    def sigma(self, t: Tensor) -> Tensor:
        return t.sqrt()

    def sigma_prime(self, t: Tensor) -> Tensor:
        return 1 / (2 * t.sqrt())

    def t(self, sigma: Tensor) -> Tensor:
        return sigma**2


class LinearSchedule:
    """σ(t) = t."""

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def sigma_prime(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def t(self, sigma: Tensor) -> Tensor:
        return sigma
