"""How a model was meant to be sampled: its own sampler, in place of EDM's.

With x = y + σn and D = D(x; σ) clipped to the range of images, a step from noise level σ to σ' is

    DDIM       x' = D + (σ'/σ) (x − D)                               Song et al., arXiv:2010.02502
    ancestral  x' = D + (σ'/σ)² (x − D) + σ' √(1 − (σ'/σ)²) n        Ho et al., arXiv:2006.11239

for discrete levels, which DDPM writes with ᾱ = 1/(1 + σ²) and x_t = √ᾱ x; the noise added is that
of the posterior ("fixed small"). Levels are every (T/N)-th from the last one down ("trailing").

A flow is an ODE along its path x_t = a y + b n, in τ from noise at 1 to data at 0:

    linear     a = 1 − τ,      b = τ              dx_t/dτ = (x_t − D) / τ
    gvp        a = cos ½πτ,    b = sin ½πτ        dx_t/dτ = ½π (a x_t − D) / b
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.denoiser import Denoiser
from memaudit.models.devices import like
from memaudit.models.precond.flow import FLOW_PATHS
from memaudit.models.precond.targets import signal
from memaudit.models.sampler import denoised, heun_sampler, step_fractions
from memaudit.models.sampler_config import OF_FLOWS, OF_LEVELS, OWN_STEPS, SamplerConfig
from memaudit.progress import Progress, silent
from memaudit.wording import shown

TOLERANCE = 1e-5
"""Relative and absolute error of a step of dopri5, which torchcfm publishes with."""
LAST = 1e-3
"""τ from which dopri5 takes a last Euler step: nearer to the data, a velocity loses the digits that
a float32 denoiser rounds."""
MOST_STEPS = 10_000
"""Steps of dopri5 after which a model is given up as one that cannot be integrated."""


def resolve_sampler(config: SamplerConfig, denoiser: Denoiser) -> SamplerConfig:
    """The sampler with the solver and the steps that are this model's by default.

    Raises:
        CheckpointError: the model does not say its noise levels or its path as is needed.
        ConfigError: the model has no sampler of its own, or not that solver.
    """
    if config.sampler == "edm":
        return config
    levels, path = noise_levels_of(denoiser), _flow_path_of(denoiser)
    if levels is None and path is None:
        raise ConfigError(
            "{sampler} is own, but the model has neither discrete noise levels nor the path of a "
            "flow, so that no sampler of its own is known. Leave it out for EDM's.",
            field="sampler",
        )
    solvers = OF_FLOWS if levels is None else OF_LEVELS
    solver = config.solver or solvers[0]
    if solver not in solvers:
        kind = "is a flow" if levels is None else "has discrete noise levels"
        raise ConfigError(
            f"{{solver}} is {solver}, but the model {kind}: choose one of {', '.join(solvers)}.",
            field="solver",
        )
    steps = config.num_steps
    if solver == "dopri5":
        if steps is not None:
            raise ConfigError(
                "{num_steps} is given, but {solver} dopri5 takes as many steps as it needs; leave "
                "out {num_steps}, or choose another {solver}.",
                field=("num_steps", "solver"),
            )
    elif levels is None:
        steps = steps or OWN_STEPS[solver]
    else:
        steps = steps or min(OWN_STEPS.get(solver) or len(levels), len(levels))
        if steps > len(levels):
            raise ConfigError(
                f"{{num_steps}} is {steps:,}, but the model has {len(levels):,} noise levels.",
                field="num_steps",
            )
    return replace(config, solver=solver, num_steps=steps)


def noise_levels_of(denoiser: Denoiser) -> Tensor | None:
    """The noise levels that a model was trained at, ascending, float64 [T]; None for any level.

    Raises:
        CheckpointError: they are none, as a denoiser in Python may say.
    """
    given = getattr(denoiser, "noise_levels", None)
    if given is None:
        return None
    try:
        levels = torch.as_tensor(given).to("cpu", torch.float64)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"The model's noise_levels are not numbers: {error}.") from error
    if (
        levels.ndim != 1
        or not len(levels)
        or not ((levels > 0) & levels.isfinite()).all()
        or (levels[1:] < levels[:-1]).any()
    ):
        raise CheckpointError(
            "The model's noise_levels are not ascending numbers above 0, which its own sampler "
            "needs."
        )
    return levels


def _flow_path_of(denoiser: Denoiser) -> str | None:
    """The path of a flow: linear or gvp; None for another model.

    Raises:
        CheckpointError: it is another one.
    """
    path = getattr(denoiser, "flow_path", None)
    if path not in (None, *FLOW_PATHS):
        raise CheckpointError(
            f"The model's flow_path is {shown(path)}; its own sampler knows "
            f"{' and '.join(FLOW_PATHS)}."
        )
    return path


def sample_as_published(
    denoiser: Denoiser,
    guided: Denoiser,
    noise: Tensor,
    class_labels: Tensor | None,
    *,
    config: SamplerConfig,
    start: Tensor | None = None,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
    progress: Progress = silent,
) -> Tensor:
    """Sample a model by its own sampler.

    Args:
        denoiser: the model, which says its noise levels or its path.
        guided: what denoises: the model, or the model guided.
        noise: unit-variance noise, float [B, C, H, W].
        class_labels: one-hot float [B, label_dim], or None.
        config: resolved by `resolve_sampler`; a sigma_max leaves out the levels above it.
        start: clean images that are noised to begin with, [B, C, H, W]; None: pure noise.
        randn_like: draws unit-variance noise; called once per ancestral step but the last.
        progress: told the steps done.

    Returns:
        Images, float64 [B, C, H, W], data scale [-1, 1], not clipped.
    """
    levels, highest = noise_levels_of(denoiser), config.sigma_max or math.inf
    if levels is not None:
        return _descend(
            guided,
            noise,
            trailing(levels[levels <= highest * (1 + 1e-6)], config),
            class_labels,
            is_ancestral=config.solver == "ancestral",
            start=start,
            randn_like=randn_like,
            progress=progress,
        )
    path = FlowPath(_flow_path_of(denoiser) or "", getattr(denoiser, "data_scale", 1.0))
    first = torch.tensor(min(denoiser.sigma_max, highest), dtype=torch.float64)
    if config.solver == "dopri5":
        return _dopri5(guided, noise, path, first, class_labels, start=start, progress=progress)
    assert config.num_steps is not None and config.solver is not None
    # N + 1 equidistant times, of which 0 is added by the sampler.
    times = path.t(first) * (1 - step_fractions(config.num_steps + 1)[:-1])
    return heun_sampler(
        guided,
        noise,
        path.sigma(times),
        class_labels,
        path=path,
        solver=config.solver,
        start=start,
        progress=progress,
    )


def trailing(levels: Tensor, config: SamplerConfig) -> Tensor:
    """Levels to visit, descending: every (T/N)-th from the last one down.

    Raises:
        ConfigError: there are none.
    """
    if not len(levels):
        raise ConfigError(
            "None of the model's noise levels is below {sigma_max}; raise it.", field="sigma_max"
        )
    T = len(levels)
    N = min(config.num_steps or T, T)
    t = np.round(np.arange(T, 0, -T / N)).astype(np.int64)[:N] - 1
    return levels[torch.from_numpy(t)]


@torch.no_grad()
def _descend(
    denoiser: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    class_labels: Tensor | None,
    *,
    is_ancestral: bool,
    start: Tensor | None,
    randn_like: Callable[[Tensor], Tensor],
    progress: Progress,
) -> Tensor:
    """DDIM's or DDPM's steps through discrete levels."""
    # Pure noise is x_T itself: x = x_T/√ᾱ.
    x = noise.to(torch.float64)
    x = x * (1 + sigmas[0] ** 2).sqrt() if start is None else start + x * sigmas[0]
    for i, sigma in enumerate(sigmas):
        D = denoised(denoiser, x, sigma, class_labels).clip(-1, 1)
        if i + 1 == len(sigmas):
            x = D
        elif is_ancestral:
            ratio = (sigmas[i + 1] / sigma) ** 2
            x = D + ratio * (x - D) + sigmas[i + 1] * (1 - ratio).sqrt() * randn_like(x)
        else:
            x = D + sigmas[i + 1] / sigma * (x - D)
        progress("Sampling", i + 1, len(sigmas))
    return x


class FlowPath:
    """The way of a flow from noise at τ = 1 to data at τ = 0, for `heun_sampler` and dopri5.

    Args:
        name: linear or gvp.
        data_scale: size of the range of the flow's data, relative to [-1, 1]: b/a is
            data_scale · σ.
    """

    def __init__(self, name: str, data_scale: float = 1.0) -> None:
        self._name, self._is_linear = name, name == "linear"
        self._data_scale = data_scale

    def t(self, sigma: Tensor) -> Tensor:
        ratio = self._data_scale * sigma
        return ratio / (1 + ratio) if self._is_linear else 2 / math.pi * torch.atan(ratio)

    def sigma(self, t: Tensor) -> Tensor:
        ratio = t / (1 - t) if self._is_linear else torch.tan(math.pi / 2 * t)
        return ratio / self._data_scale

    def scale(self, sigma: Tensor) -> Tensor:
        return signal(self._name, self._data_scale * sigma)

    def dx_dt(self, x: Tensor, t: Tensor, denoise: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        sigma = self.sigma(t)
        a = self.scale(sigma)
        D = denoise(x / a, sigma)
        if self._is_linear:
            return (x - D) / t
        return math.pi / 2 * (a * x - D) / (a * sigma * self._data_scale)


# Dormand and Prince, J. Comp. Appl. Math. 6 (1980), Table 2: RK5(4)7M.
_C = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""Weights of the fifth order less those of the fourth."""


@torch.no_grad()
def _dopri5(
    denoiser: Denoiser,
    noise: Tensor,
    path: FlowPath,
    first: Tensor,
    class_labels: Tensor | None,
    *,
    start: Tensor | None,
    progress: Progress,
) -> Tensor:
    """Dormand and Prince's method with a step size for each image, so that none depends on others.

    A step is taken where the root mean square of error / (atol + rtol·|x|) is at most 1. The next
    is 0.9·error^(−1/5) times as long, between 0.2 and 10 times.
    """
    sigma_0 = like(first, noise)
    x = noise.to(torch.float64) * sigma_0
    x = path.scale(sigma_0) * (x if start is None else start + x)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return denoised(denoiser, x, sigma.flatten(), class_labels)

        return path.dx_dt(x, t[:, None, None, None], denoise)

    begin = path.t(sigma_0)
    t = begin.expand(len(x)).clone()
    h = torch.where(t > LAST, torch.minimum(t - LAST, 0.01 * begin), 0.0)
    k_first = velocity(x, t)
    for _ in range(MOST_STEPS):
        if not (h > 0).any():
            break
        k = [k_first]
        for c, weights in zip(_C[1:], _A[1:], strict=True):
            x_stage = x - _rows(h) * sum(w * each for w, each in zip(weights, k, strict=True))
            k.append(velocity(x_stage, t - c * h))
        error = _rows(h) * sum(w * each for w, each in zip(_ERROR, k, strict=True))
        scale = TOLERANCE * (1 + torch.maximum(x.abs(), x_stage.abs()))
        norm = (error / scale).square().flatten(1).mean(1).sqrt()
        is_taken = (norm <= 1) & (h > 0)
        x = torch.where(_rows(is_taken), x_stage, x)
        k_first = torch.where(_rows(is_taken), k[-1], k_first)
        t = torch.where(is_taken, t - h, t)
        factor = (0.9 * norm.clamp(min=1e-10) ** -0.2).clamp(0.2, 10)
        h = torch.minimum(h * factor, (t - LAST).clamp(min=0))
        h = torch.where(h > 1e-12, h, 0.0)
        done = 1 - float(t.max() - LAST) / max(float(begin) - LAST, 1e-9)
        progress("Sampling", round(100 * min(max(done, 0), 1)), 100)
    # Steps that became too short, or are not numbers, end far from the data.
    if (h > 0).any() or (t > LAST * (1 + 1e-6)).any():
        raise CheckpointError(
            f"The flow cannot be integrated by dopri5 in {MOST_STEPS:,} steps; sample it with "
            "another {solver}.",
            field="solver",
        )
    return denoised(denoiser, x / path.scale(path.sigma(_rows(t))), path.sigma(t), class_labels)


def _rows(values: Tensor) -> Tensor:
    return values[:, None, None, None]
