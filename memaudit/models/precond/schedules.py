"""Discrete noise schedules: β_t for t = 0 … T−1, ᾱ_t = Π (1 − β_s), and σ_t = √((1 − ᾱ_t)/ᾱ_t).

linear               β from β_start to β_end (Ho et al., arXiv:2006.11239)
scaled_linear        √β linear; latent diffusion's "linear" (Rombach et al., arXiv:2112.10752)
cosine               ᾱ(s) = cos²(½π (s + 0.008)/1.008), β ≤ 0.999 (Nichol and Dhariwal,
                     arXiv:2102.09672); squaredcos_cap_v2 is another name of it
sigmoid              ᾱ(s) = (logistic(3) − logistic(6s − 3)) / (logistic(3) − logistic(−3)),
                     β ≤ 0.999 (Jabri et al., arXiv:2212.11972, with τ = 1)
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCHEDULES = ("linear", "scaled_linear", "cosine", "squaredcos_cap_v2", "sigmoid")
MAX_BETA = 0.999
"""Bound on β where a schedule gives ᾱ, which ends at 0."""
NAMED_TOLERANCE = 1e-4
"""Largest relative difference of stored β from those of a name; that of σ is half of it at most."""


def schedule_betas(
    schedule: str,
    num_steps: int,
    *,
    beta_start: float | None = None,
    beta_end: float | None = None,
) -> NDArray[np.float64]:
    """β_t of a named schedule.

    Args:
        schedule: one of SCHEDULES.
        num_steps: number of noise levels, T.
        beta_start, beta_end: first and last β of linear and scaled_linear; None for
            1000/T · 10⁻⁴ and 1000/T · 0.02.

    Returns:
        float64 [T].

    Raises:
        ValueError: an unknown schedule.
    """
    start = 1000 / num_steps * 1e-4 if beta_start is None else beta_start
    end = 1000 / num_steps * 0.02 if beta_end is None else beta_end
    if schedule == "linear":
        return np.linspace(start, end, num_steps, dtype=np.float64)
    if schedule == "scaled_linear":
        return np.linspace(math.sqrt(start), math.sqrt(end), num_steps, dtype=np.float64) ** 2
    s = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    if schedule in ("cosine", "squaredcos_cap_v2"):
        alpha_bar = np.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2
    elif schedule == "sigmoid":
        logistic = 1 / (1 + np.exp(3 - 6 * s))
        # The end as a float32, as in denoising-diffusion-pytorch: models with it are of there.
        alpha_bar = np.float64(np.float32(logistic[-1])) - logistic
        alpha_bar /= alpha_bar[0]
    else:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}; got {schedule!r}")
    betas: NDArray[np.float64] = np.clip(1 - alpha_bar[1:] / alpha_bar[:-1], 0, MAX_BETA)
    return betas


def sigmas_of(betas: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """σ_t = √((1 − ᾱ_t)/ᾱ_t) of β_t, float64 [T]; infinite from where no signal is left."""
    alpha_bar = np.cumprod(1 - np.asarray(betas, dtype=np.float64))
    with np.errstate(divide="ignore"):
        sigmas: NDArray[np.float64] = np.sqrt((1 - alpha_bar) / alpha_bar)
    return sigmas


def schedule_options(betas: Sequence[float] | NDArray[np.floating]) -> dict[str, Any]:
    """The options of a preconditioner that stand for stored β_t: by name where they have one.

    Args:
        betas: as a file holds them, float32 or float64 [T].

    Returns:
        `schedule`, `num_steps` and, where that has them, `beta_start` and `beta_end`; or `betas`.
    """
    found = np.asarray(betas, dtype=np.float64)
    for schedule in SCHEDULES:
        has_ends = "linear" in schedule
        ends = (float(found[0]), float(found[-1])) if has_ends else (None, None)
        named = schedule_betas(schedule, len(found), beta_start=ends[0], beta_end=ends[1])
        if np.allclose(found, named, rtol=NAMED_TOLERANCE, atol=NAMED_TOLERANCE * 1e-3):
            options = {"schedule": schedule, "num_steps": len(found)}
            if has_ends:
                options |= {"beta_start": _tidy(ends[0]), "beta_end": _tidy(ends[1])}
            return options
    return {"betas": found.tolist()}


def _tidy(value: float | None) -> float:
    """A float32 number as it was written: 0.02 and not 0.019999999552965164."""
    return float(f"{value:.6g}")
