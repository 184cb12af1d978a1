"""DPM-Solver++(2M), against the closed form of a Gaussian, the optimum and diffusers' scheduler."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from memaudit.errors import ConfigError
from memaudit.models.generate import generate_images, sample
from memaudit.models.multistep import multistep_sampler
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.sampler import heun_sampler, karras_sigmas
from memaudit.models.sampler_config import SamplerConfig

MULTISTEP = SamplerConfig(solver="multistep", num_steps=10)


class GaussianDenoiser:
    """The optimum for y ~ N(0, s²): D(x; σ) = x s² / (s² + σ²). Counts how often it is called."""

    img_channels, img_resolution, label_dim = 1, 4, 0
    sigma_min, sigma_max = 0.0, math.inf

    def __init__(self, s: float = 0.5, levels: Tensor | None = None) -> None:
        self.s, self.levels, self.sigmas = s, levels, list[float]()

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.sigmas.append(float(sigma))
        return x * self.s**2 / (self.s**2 + sigma**2)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        if self.levels is None:
            return sigma
        return self.levels[(sigma[..., None] - self.levels).abs().argmin(-1)]


def an_optimum(number: int = 20) -> ClosedFormOptimum:
    images = np.random.default_rng(0).integers(0, 256, (number, 1, 4, 4), np.uint8)
    return ClosedFormOptimum(images)


@pytest.mark.parametrize("of", ["a Gaussian", "20 images"])
def test_converges_at_second_order(of: str) -> None:
    """Both optima have a closed form; between two levels the ODE has, for a Gaussian, too."""
    high, low = 8.0, 0.5
    noise = torch.randn([4, 1, 4, 4], dtype=torch.float64, generator=torch.manual_seed(0))
    denoiser = GaussianDenoiser() if of == "a Gaussian" else an_optimum()

    def at_low(num_steps: int, solve=multistep_sampler) -> Tensor:  # type: ignore[no-untyped-def]
        """The state at `low`, where the last evaluation is made: x, from which D follows."""
        seen: list[Tensor] = []

        class Noting:
            sigma_min, sigma_max = 0.0, math.inf
            round_sigma = staticmethod(lambda sigma: sigma)

            def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
                seen.append(x)
                return denoiser(x, sigma, labels)

        solve(Noting(), noise, karras_sigmas(num_steps, sigma_min=low, sigma_max=high))
        return seen[-1]

    if of == "a Gaussian":
        s = 0.5
        exact = noise * high * math.sqrt((s**2 + low**2) / (s**2 + high**2))
    else:
        exact = at_low(300, heun_sampler)
    steps = [16, 32, 64]
    errors = [float((at_low(n) - exact).abs().max()) for n in steps]
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert 1.8 < order < 2.3


def test_ends_at_the_training_images_of_an_optimum() -> None:
    noise = torch.randn([16, 1, 4, 4], generator=torch.manual_seed(1))
    optimum = an_optimum()
    by_heun = sample(optimum, noise, config=SamplerConfig())
    found = sample(optimum, noise, config=MULTISTEP)
    same = (found - by_heun).abs().flatten(1).amax(1) < 1e-3
    assert same.float().mean() > 0.5  # the few steps end at another image at times


def test_takes_one_evaluation_per_step_and_visits_equal_levels_once() -> None:
    denoiser = GaussianDenoiser()
    noise = torch.ones(1, 1, 4, 4)
    sample(denoiser, noise, config=MULTISTEP)
    np.testing.assert_allclose(denoiser.sigmas, karras_sigmas(10))
    rounded = GaussianDenoiser(levels=torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64))
    x = multistep_sampler(rounded, noise, karras_sigmas(10, sigma_min=0.1))
    assert rounded.sigmas == [10.0, 1.0, 0.1]
    assert x.isfinite().all()


@pytest.mark.slow  # importing it takes seconds
def test_equals_the_scheduler_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    noise = torch.randn([4, 1, 4, 4], generator=torch.manual_seed(2)).double()
    optimum = an_optimum()
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(
        sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0, solver_order=2
    )
    scheduler.set_timesteps(10)
    x = noise * scheduler.sigmas[0].double()
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1].double(), strict=True):
        D = optimum(x, sigma)
        # It takes the raw output F of a network: D = c_skip x + c_out F, EDM's Table 1.
        c_skip = 0.25 / (sigma**2 + 0.25)
        c_out = sigma * 0.5 / (sigma**2 + 0.25) ** 0.5
        F = (D - c_skip * x) / c_out
        x = scheduler.step(F, t, x).prev_sample.double()
    found = multistep_sampler(optimum, noise, karras_sigmas(10))
    np.testing.assert_allclose(found, x, atol=2e-4)


def test_begins_at_noised_images() -> None:
    start = torch.full([2, 1, 4, 4], 0.25, dtype=torch.float64)
    noise = torch.zeros(2, 1, 4, 4)
    denoiser = GaussianDenoiser(s=1e3)  # keeps what it is given
    x = multistep_sampler(denoiser, noise, karras_sigmas(8, sigma_max=1.0), start=start)
    np.testing.assert_allclose(x, start, atol=1e-5)


def test_an_image_depends_on_its_seed_alone() -> None:
    one = np.concatenate([b.images for b in generate_images(an_optimum(), [7], config=MULTISTEP)])
    all_of_them = generate_images(an_optimum(), range(10), config=MULTISTEP)
    many = np.concatenate([batch.images for batch in all_of_them])
    np.testing.assert_array_equal(one[0], many[7])


def test_is_not_an_ablation_and_takes_no_options_of_one() -> None:
    assert not MULTISTEP.is_ablation
    assert MULTISTEP.resolved().sigma_max == 80
    assert MULTISTEP.text == "the DPM-Solver++(2M) sampler in 10 steps"
    with pytest.raises(ConfigError, match="adds no noise"):
        SamplerConfig(solver="multistep", S_churn=10)
    with pytest.raises(ConfigError, match="takes EDM's noise levels"):
        SamplerConfig(solver="multistep", discretization="vp")
    with pytest.raises(ConfigError, match="has discrete noise levels|is a flow|no sampler"):
        sample(
            an_optimum(),
            torch.zeros(1, 1, 4, 4),
            config=SamplerConfig(sampler="own", solver="multistep"),
        )
