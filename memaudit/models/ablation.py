"""The choices of EDM's general sampler: discretization, noise schedule and scaling.

With a noise schedule σ(t) and a scaling s(t), the state x = s(t)·(y + σ(t)·n) moves along

    dx/dt = (σ'/σ + s'/s)·x − (σ'·s/σ)·D(x/s; σ)

(Karras et al., arXiv:2206.00364, Algorithm 1; the choices are Table 1's). With σ(t) = t and s = 1
this is Algorithm 2. `sampler.py` takes the steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from memaudit.errors import ConfigError
from memaudit.models.iddpm import iddpm_levels
from memaudit.models.sampler import karras_sigmas, step_fractions
from memaudit.models.sampler_config import (
    ABLATIONS,
    SIGMA_MAX,
    SIGMA_MIN,
    Discretization,
    Scaling,
    Schedule,
)

EPSILON_S = 1e-3
"""Smallest time of the vp schedule and discretization."""


def default_sigma_range(discretization: Discretization) -> tuple[float, float]:
    """Lowest and highest noise level that a discretization was published with (EDM, Table 1)."""
    match discretization:
        case "vp":
            low, high = VPSchedule().sigma(torch.tensor([EPSILON_S, 1], dtype=torch.float64))
            return float(low), float(high)
        case "ve":
            return 0.02, 100.0
        case "iddpm":
            return 0.002, 81.0
        case "edm":
            return SIGMA_MIN, SIGMA_MAX


def discretize(
    discretization: Discretization,
    num_steps: int,
    *,
    sigma_min: float,
    sigma_max: float,
    rho: float = 7.0,
) -> Tensor:
    """Noise levels that a method visits between two (EDM, Table 1, time steps).

    Args:
        discretization: vp, ve, iddpm or edm.
        num_steps: number of levels.
        sigma_min: lowest level; iddpm takes those of its own levels that lie in the range.
        sigma_max: highest level.
        rho: exponent of edm's levels.

    Returns:
        float64 [num_steps], descending.

    Raises:
        ValueError: an unknown discretization; num_steps below 1.
        ConfigError: none of iddpm's levels lies in the range.
    """
    _check_choice("discretization", discretization)
    match discretization:
        case "vp":
            vp = VPSchedule.between(sigma_min, sigma_max)
            return vp.sigma(1 + step_fractions(num_steps) * (EPSILON_S - 1))
        case "ve":
            return sigma_max * (sigma_min / sigma_max) ** step_fractions(num_steps)
        case "iddpm":
            table = torch.from_numpy(iddpm_levels(dtype=np.float64)[:-1])
            return pick_levels(table, num_steps, sigma_min=sigma_min, sigma_max=sigma_max)
        case "edm":
            return karras_sigmas(num_steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)


def pick_levels(table: Tensor, num_steps: int, *, sigma_min: float, sigma_max: float) -> Tensor:
    """num_steps levels at equal strides through the part of a table that lies in the range."""
    inside = table[(sigma_min <= table) & (table <= sigma_max)]
    if not len(inside):
        raise ConfigError(
            f"No iddpm noise level lies from {sigma_min:g} to {sigma_max:g}; widen {{sigma_min}} "
            "and {sigma_max}, or choose another {discretization}.",
            field=("sigma_min", "sigma_max", "discretization"),
        )
    return inside[(step_fractions(num_steps) * (len(inside) - 1)).round().to(torch.int64)]


class NoiseSchedule(Protocol):
    """A noise schedule σ(t), its derivative, and its inverse t(σ); all float64."""

    def sigma(self, t: Tensor) -> Tensor: ...

    def sigma_prime(self, t: Tensor) -> Tensor: ...

    def t(self, sigma: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class VPSchedule:
    """σ(t) = √(exp(β_d·t²/2 + β_min·t) − 1), t from 1 down to EPSILON_S."""

    beta_d: float = 19.9
    beta_min: float = 0.1

    @classmethod
    def between(cls, sigma_min: float, sigma_max: float) -> "VPSchedule":
        """The schedule with σ(EPSILON_S) = sigma_min and σ(1) = sigma_max."""
        low, high = math.log1p(sigma_min**2), math.log1p(sigma_max**2)
        beta_d = 2 * (low / EPSILON_S - high) / (EPSILON_S - 1)
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


def noise_schedule(schedule: Schedule, *, sigma_min: float, sigma_max: float) -> NoiseSchedule:
    """The noise schedule of that name; vp's runs from sigma_max at time 1 to sigma_min."""
    _check_choice("schedule", schedule)
    match schedule:
        case "vp":
            return VPSchedule.between(sigma_min, sigma_max)
        case "ve":
            return VESchedule()
        case "linear":
            return LinearSchedule()


class GeneralPath:
    """The way from noise to an image with any schedule and scaling (EDM, Algorithm 1).

    Args:
        schedule: σ(t).
        scaling: s(t): vp for 1/√(1 + σ²), none for 1.
    """

    def __init__(self, schedule: NoiseSchedule, scaling: Scaling) -> None:
        _check_choice("scaling", scaling)
        self.schedule = schedule
        self.scaling = scaling

    def t(self, sigma: Tensor) -> Tensor:
        return self.schedule.t(sigma)

    def sigma(self, t: Tensor) -> Tensor:
        return self.schedule.sigma(t)

    def scale(self, sigma: Tensor) -> Tensor:
        return (1 + sigma**2).rsqrt() if self.scaling == "vp" else torch.ones_like(sigma)

    def dx_dt(self, x: Tensor, t: Tensor, denoise: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        sigma, sigma_prime = self.schedule.sigma(t), self.schedule.sigma_prime(t)
        s = self.scale(sigma)
        s_prime_over_s = -sigma * sigma_prime * s**2 if self.scaling == "vp" else 0
        denoised = denoise(x / s, sigma)
        return (sigma_prime / sigma + s_prime_over_s) * x - sigma_prime * s / sigma * denoised


def _check_choice(name: str, value: str) -> None:
    if value not in ABLATIONS[name]:
        raise ValueError(f"{name} is {value!r}; one of {', '.join(ABLATIONS[name])} is needed")
