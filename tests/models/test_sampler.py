"""EDM's Algorithm 2 and the general sampler, against golden numbers and closed forms."""

import json
import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from memaudit.errors import ConfigError
from memaudit.models import ablation
from memaudit.models.ablation import (
    GeneralPath,
    LinearSchedule,
    discretize,
    noise_schedule,
    pick_levels,
)
from memaudit.models.build import build_network
from memaudit.models.generate import sample
from memaudit.models.iddpm import iddpm_levels
from memaudit.models.sampler import heun_sampler, karras_sigmas, sigma_range
from memaudit.models.sampler_config import ABLATIONS, SamplerConfig

PATHS = {"Algorithm 2": None, "general": GeneralPath(LinearSchedule(), "none")}
"""Two ways to say σ(t) = t and s = 1."""
EDM = SamplerConfig()
GENERAL = SamplerConfig(solver="heun")
KINDS = ["edm_", "abl.euler.", "abl.heun.", "abl.", "bound."]
"""Beginnings of the names of the golden runs; a run belongs to the first that fits."""


class GaussianDenoiser:
    """The optimum for y ~ N(0, s²): D(x; σ) = x s² / (s² + σ²). Notes how it is called."""

    img_channels = 1
    img_resolution = 4
    label_dim = 0

    def __init__(
        self,
        s: float = 0.5,
        *,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
        levels: Tensor | None = None,
    ) -> None:
        self.s = s
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.levels = levels
        self.sigmas: list[float] = []
        self.dtypes: set[torch.dtype] = set()

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.sigmas.append(float(sigma))
        self.dtypes |= {x.dtype, sigma.dtype}
        return x * self.s**2 / (self.s**2 + sigma**2)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        if self.levels is None:
            return sigma
        nearest = (sigma[..., None].float() - self.levels).abs().argmin(-1)
        return self.levels[nearest].to(sigma.dtype)


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.float64)


def in_turn(noise: Tensor) -> Callable[[Tensor], Tensor]:
    """A randn_like that gives noise[0], noise[1], … [steps, B, C, H, W]."""
    steps: Iterator[Tensor] = iter(noise)
    return lambda x: next(steps)


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_samplers_agree_with_golden_runs(
    golden: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with safe_open(golden / "precond.safetensors", "pt") as file:
        u = file.get_tensor("iddpm.u")
    with safe_open(golden / "samplers_analytic.safetensors", "pt") as file:
        runs = {
            name: run
            for name, run in json.loads(file.metadata()["runs"]).items()
            if next(k for k in KINDS if name.startswith(k)) == kind
        }
        ends = {name: file.get_tensor(f"{name}.x") for name in runs}
        sigmas = {name: file.get_tensor(f"{name}.sigmas") for name in runs}
        latents, noise = file.get_tensor("latents"), file.get_tensor("noise")
    assert runs

    for name, options in runs.items():
        sampler, alpha = options.pop("sampler"), options.pop("alpha", 1.0)
        denoiser = GaussianDenoiser(
            sigma_min=float(options.pop("net_sigma_min")),
            sigma_max=float(options.pop("net_sigma_max")),
            levels=u if name.startswith("bound.iddpm") else None,
        )
        if sampler == "ablation_sampler":
            options = {"solver": "heun"} | options
        config = SamplerConfig(**options)
        if config.discretization == "iddpm":
            # The last bit of the sine in the levels is the processor's: they are compared apart.
            golden_levels = sigmas[name][:: 2 if config.solver == "heun" else 1]
            picked = pick_levels(
                torch.from_numpy(iddpm_levels(dtype=np.float64)[:-1]),
                config.num_steps,
                sigma_min=max(denoiser.sigma_min, 0.002),
                sigma_max=min(denoiser.sigma_max, 81.0),
            )
            bound = 2**-22 * (1 + golden_levels**-2)
            assert ((denoiser.round_sigma(picked) / golden_levels - 1).abs() < bound).all()
            monkeypatch.setattr(
                ablation, "pick_levels", lambda *_, levels=golden_levels, **__: levels
            )
        if alpha == 1:
            x = sample(denoiser, latents, config=config, randn_like=in_turn(noise))
        else:
            x = heun_sampler(denoiser, latents, karras_sigmas(config.num_steps), alpha=alpha)
        called = torch.tensor(denoiser.sigmas, dtype=torch.float64)
        torch.testing.assert_close(called, sigmas[name], rtol=1e-9, atol=0)
        # The reference adds noise of 1e-7 where a vp schedule rounds; nothing else is that far.
        tolerance = 1e-6 if options.get("schedule") == "vp" else 1e-9
        assert relative_error(x, ends[name]) < tolerance, name


@pytest.mark.parametrize("name", ["ddpmpp_vp", "ddpmpp_edm", "ncsnpp_ve", "adm_iddpm"])
@pytest.mark.parametrize("run", ["run0", "run1"])
def test_samplers_of_networks_agree_with_golden_runs(golden: Path, name: str, run: str) -> None:
    network = golden_network(golden, name)
    with safe_open(golden / "samplers_nets.safetensors", "pt") as file:
        recipe = json.loads(file.metadata()[f"{name}.{run}"])
        golden_x = file.get_tensor(f"{name}.{run}.x")
        churned = "S_churn" in recipe["kwargs"]
        noise = file.get_tensor(f"{name}.noise") if churned else ones(0)
        x = sample(
            network,
            file.get_tensor(f"{name}.latents"),
            file.get_tensor(f"{name}.class_labels"),
            config=SamplerConfig(**recipe["kwargs"]),
            randn_like=in_turn(noise),
        )
    assert relative_error(x, golden_x) < 2e-5


@cache
def golden_network(golden: Path, name: str) -> torch.nn.Module:
    with safe_open(golden / "nets" / f"{name}.safetensors", "pt") as file:
        network = build_network(json.loads(file.metadata()["config"]))
        weights = {key[3:]: file.get_tensor(key) for key in file.keys() if key.startswith("sd.")}  # noqa: SIM118
    network.load_state_dict(weights)
    return network.eval()


def convergence_order(**options: Any) -> float:
    """Slope of log error over log steps against the closed form of the Gaussian's ODE."""
    s, sigma_max = 0.5, 80.0
    noise = 1.3 * ones(1, 1, 1, 1)
    exact = noise * sigma_max * s / math.sqrt(s**2 + sigma_max**2)
    steps = [16, 32, 64, 128]
    errors = [
        float((heun_sampler(GaussianDenoiser(s), noise, karras_sigmas(n), **options) - exact).abs())
        for n in steps
    ]
    return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0])


def test_heun_converges_at_second_order() -> None:
    assert 1.8 < convergence_order() < 2.3


def test_euler_converges_at_first_order() -> None:
    assert 0.85 < convergence_order(solver="euler") < 1.15


def test_ralston_converges_at_second_order() -> None:
    assert 1.8 < convergence_order(alpha=2 / 3) < 2.3


def test_general_sampler_with_its_defaults_is_algorithm_2() -> None:
    noise = torch.randn(2, 1, 4, 4)
    churn = {"S_churn": 40, "S_min": 0.05, "S_max": 50, "S_noise": 1.003}
    draws = torch.randn(18, 2, 1, 4, 4, dtype=torch.float64)
    a, b = (
        heun_sampler(
            GaussianDenoiser(),
            noise,
            karras_sigmas(18),
            randn_like=in_turn(draws),
            path=path,
            **churn,
        )
        for path in PATHS.values()
    )
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_steps", [1, 2, 18])
@pytest.mark.parametrize("path", PATHS)
def test_n_steps_of_heun_call_the_denoiser_2n_minus_1_times(num_steps: int, path: str) -> None:
    denoiser = GaussianDenoiser()
    heun_sampler(denoiser, ones(1, 1, 4, 4), karras_sigmas(num_steps), path=PATHS[path])
    assert len(denoiser.sigmas) == 2 * num_steps - 1


@pytest.mark.parametrize("discretization", ABLATIONS["discretization"])
def test_one_step_of_every_discretization_denoises_from_sigma_max(discretization: Any) -> None:
    denoiser = GaussianDenoiser()
    config = SamplerConfig(num_steps=1, solver="euler", discretization=discretization)
    x = sample(denoiser, ones(1, 1, 4, 4), config=config)
    (sigma,) = denoiser.sigmas
    assert sigma >= 80
    torch.testing.assert_close(x, sigma * 0.25 / (0.25 + sigma**2) * ones(1, 1, 4, 4))


def test_one_step_is_the_denoiser_at_sigma_max() -> None:
    x = heun_sampler(GaussianDenoiser(), ones(1, 1, 4, 4), karras_sigmas(1))
    torch.testing.assert_close(x, 80 * 0.25 / (0.25 + 80**2) * ones(1, 1, 4, 4))


@pytest.mark.parametrize("path", PATHS)
def test_the_state_is_float64_whatever_the_noise_and_the_denoiser(path: str) -> None:
    class Float32Denoiser(GaussianDenoiser):
        def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
            return super().__call__(x, sigma).to(torch.float32)

    denoiser = Float32Denoiser()
    x = heun_sampler(denoiser, torch.randn(1, 1, 4, 4), karras_sigmas(18).float(), path=PATHS[path])
    assert x.dtype == torch.float64
    assert denoiser.dtypes == {torch.float64}


@pytest.mark.parametrize("config", [EDM, GENERAL])
def test_a_denoisers_range_cuts_the_noise_levels(config: SamplerConfig) -> None:
    denoiser = GaussianDenoiser(sigma_min=0.02, sigma_max=20.0)
    sample(denoiser, ones(1, 1, 4, 4), config=config)
    assert denoiser.sigmas[0] == pytest.approx(20.0)
    assert denoiser.sigmas[-1] == pytest.approx(0.02)


@pytest.mark.parametrize("path", PATHS)
def test_noise_levels_are_rounded_to_the_denoisers(path: str) -> None:
    levels = torch.tensor([100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.01])
    denoiser = GaussianDenoiser(levels=levels)
    draws = torch.randn(6, 1, 1, 4, 4, dtype=torch.float64)
    heun_sampler(
        denoiser,
        ones(1, 1, 4, 4),
        karras_sigmas(6),
        S_churn=3,
        randn_like=in_turn(draws),
        path=PATHS[path],
    )
    assert set(denoiser.sigmas) <= set(levels.double().tolist())


def test_churn_draws_once_per_step_and_deterministic_sampling_never() -> None:
    draws = []

    def randn_like(x: Tensor) -> Tensor:
        draws.append(x.dtype)
        return torch.zeros_like(x)

    def run(**churn: Any) -> None:
        heun_sampler(
            GaussianDenoiser(), ones(1, 1, 4, 4), karras_sigmas(8), randn_like=randn_like, **churn
        )

    run()
    assert draws == []
    # Also where S_min and S_max exclude a step: the published stream spends a draw on it.
    run(S_churn=10, S_min=1, S_max=2)
    assert draws == [torch.float64] * 8


def test_progress_is_told_every_step() -> None:
    told = []
    heun_sampler(
        GaussianDenoiser(),
        ones(1, 1, 4, 4),
        karras_sigmas(3),
        progress=lambda task, done, total, note="": told.append((task, done, total)),
    )
    assert told == [("Sampling", 1, 3), ("Sampling", 2, 3), ("Sampling", 3, 3)]


def test_karras_sigmas_run_from_sigma_max_down_to_sigma_min() -> None:
    sigmas = karras_sigmas(18, sigma_min=0.002, sigma_max=80.0, rho=7.0)
    assert sigmas.dtype == torch.float64
    assert (sigmas.diff() < 0).all()
    torch.testing.assert_close(sigmas[[0, -1]], torch.tensor([80.0, 0.002], dtype=torch.float64))


def test_levels_outside_the_denoisers_range_are_refused() -> None:
    denoiser = GaussianDenoiser(sigma_min=0.02, sigma_max=20.0)
    with pytest.raises(ConfigError, match=r"asked for, 30 to 80, lie outside .* 0\.02 to 20"):
        sample(denoiser, ones(1, 1, 4, 4), config=SamplerConfig(sigma_min=30.0))
    config = SamplerConfig(discretization="iddpm", sigma_max=0.003)
    with pytest.raises(ConfigError, match="No iddpm noise level lies from 0.002 to 0.003"):
        sample(GaussianDenoiser(), ones(1, 1, 4, 4), config=config)


@pytest.mark.parametrize(
    ("sigma_min", "sigma_max"),
    [(0.0, 80.0), (90.0, 80.0), (0.002, math.inf), (0.002, math.nan)],
)
def test_a_range_without_noise_levels_is_refused(sigma_min: float, sigma_max: float) -> None:
    with pytest.raises(ConfigError, match=f"sigma_min is {sigma_min} and sigma_max is {sigma_max}"):
        sigma_range(GaussianDenoiser(), sigma_min, sigma_max)


@pytest.mark.parametrize("sigmas", [[], [1.0, 2.0], [1.0, 0.0], [math.inf, 1.0], [math.nan]])
def test_noise_levels_that_do_not_descend_to_above_0_are_refused(sigmas: list[float]) -> None:
    with pytest.raises(ValueError, match="sigmas must be descending numbers above 0"):
        heun_sampler(GaussianDenoiser(), ones(1, 1, 4, 4), torch.tensor(sigmas))


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="num_steps is 0; at least 1"):
        karras_sigmas(0)


def test_bad_choices_are_named() -> None:
    def run(**options: Any) -> Tensor:
        return heun_sampler(GaussianDenoiser(), ones(1, 1, 4, 4), karras_sigmas(2), **options)

    with pytest.raises(ValueError, match="solver is 'rk4'; one of euler, heun"):
        run(solver="rk4")
    with pytest.raises(ValueError, match="alpha is 0"):
        run(alpha=0)
    with pytest.raises(ValueError, match="discretization is 'ddim'; one of vp, ve, iddpm, edm"):
        discretize("ddim", 18, sigma_min=0.002, sigma_max=80)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="schedule is 'cosine'; one of vp, ve, linear"):
        noise_schedule("cosine", sigma_min=0.002, sigma_max=80)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scaling is 've'; one of vp, none"):
        GeneralPath(LinearSchedule(), "ve")  # type: ignore[arg-type]
