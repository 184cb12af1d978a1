"""A model's own sampler: DDIM, DDPM's ancestral steps, and the ODE of a flow."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_networks import tiny
from torch import Tensor

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.generate import generate_images, sample
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.own_sampler import noise_levels_of, resolve_sampler
from memaudit.models.precond.schedules import schedule_betas, sigmas_of
from memaudit.models.sampler_config import SamplerConfig

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (20, 1, 4, 6), np.uint8)
T = 100
BETAS = schedule_betas("linear", T)
LEVELS = torch.from_numpy(np.asarray(sigmas_of(BETAS.tolist())))
NOISE = torch.randn(5, 1, 4, 6, generator=torch.Generator().manual_seed(3))


class Discrete(ClosedFormOptimum):
    """The optimum at DDPM's levels."""

    noise_levels = LEVELS
    sigma_min, sigma_max = float(LEVELS[0]), float(LEVELS[-1])


class Scaled(Discrete):
    """Leaves [-1, 1], so that its images are clipped, or stays within."""

    factor = 1.0

    def __call__(self, x: Tensor, sigma: Any, class_labels: Tensor | None = None) -> Tensor:
        return self.factor * super().__call__(x, sigma, class_labels)


class Flow(ClosedFormOptimum):
    """The optimum of a flow along a path."""

    flow_path = "linear"
    sigma_max = 1e6


class FlowGVP(Flow):
    flow_path = "gvp"


def own(**options: Any) -> SamplerConfig:
    return SamplerConfig(sampler="own", **options)


def epsilon(denoiser: Any, x_t: Tensor, t: int) -> Tensor:
    """What a network that predicts noise would give to diffusers' schedulers."""
    sigma = LEVELS[t]
    x = x_t.double() * (1 + sigma**2).sqrt()
    return (x - denoiser(x, sigma).double()) / sigma


def step_noise(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("steps", [10, 100])
def test_ddim_is_that_of_diffusers(steps: int, clip: bool):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=T,
        trained_betas=BETAS.tolist(),
        timestep_spacing="trailing",
        clip_sample=clip,
    )
    scheduler.set_timesteps(steps)
    model = Scaled(IMAGES)
    model.factor = 1.2 if clip else 0.8
    x_t = NOISE.double()
    for t in scheduler.timesteps.tolist():
        output = epsilon(model, x_t, t)
        x_t = scheduler.step(output, t, x_t, use_clipped_model_output=clip).prev_sample
    found = sample(model, NOISE, config=own(num_steps=steps))
    assert float((found - x_t).abs().max()) < 1e-4


@pytest.mark.parametrize("steps", [10, 100])
def test_the_ancestral_sampler_is_ddpms(steps: int):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=T, trained_betas=BETAS.tolist(), timestep_spacing="trailing"
    )
    scheduler.set_timesteps(steps)
    model, draw = Discrete(IMAGES), step_noise(5)
    x_t = NOISE.double()
    # The scheduler draws its noise where we cannot give it: its mean and deviation are taken.
    ts = scheduler.timesteps.tolist()
    for i, t in enumerate(ts):
        output = epsilon(model, x_t, t)
        with pytest.MonkeyPatch.context() as patch:
            module = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
            patch.setattr(module, lambda shape, **_: torch.zeros(shape, dtype=torch.float64))
            x_t = scheduler.step(output, t, x_t).prev_sample
        if i + 1 < len(ts):
            x_t = x_t + scheduler._get_variance(t).double().sqrt() * draw(x_t)
    config = own(num_steps=steps, solver="ancestral")
    found = sample(model, NOISE, config=config, randn_like=step_noise(5))
    assert float((found - x_t).abs().max()) < 1e-4


def velocity(model: Flow, x_t: Tensor, t: float) -> Tensor:
    """dx_t/dt with noise at t = 0 and data at t = 1."""
    if model.flow_path == "linear":
        a, b, da, db = t, 1 - t, 1, -1
    else:
        angle = math.pi / 2 * t
        a, b = math.sin(angle), math.cos(angle)
        da, db = math.pi / 2 * b, -math.pi / 2 * a
    if t == 0:
        D = torch.from_numpy(IMAGES.mean(0, keepdims=True) / 127.5 - 1).expand_as(x_t)
    else:
        D = model(x_t / a, torch.tensor(b / a)).double()
    return da * D + db * (x_t - a * D) / b


@pytest.mark.parametrize("flow", [Flow, FlowGVP])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_euler_and_heun_of_a_flow_are_those_of_its_ode(flow: type[Flow], solver: Any):
    model, steps = flow(IMAGES), 12
    x_t, h = NOISE.double(), 1 / 12
    for i in range(steps):
        first = velocity(model, x_t, i / steps)
        ahead = x_t + h * first
        # The last step is Euler's: its end, where all noise is gone, has no velocity by D.
        if solver == "heun" and i + 1 < steps:
            ahead = x_t + h / 2 * (first + velocity(model, ahead, (i + 1) / steps))
        x_t = ahead
    found = sample(model, NOISE, config=own(num_steps=steps, solver=solver))
    assert float((found - x_t).abs().max()) < 1e-4


@pytest.mark.parametrize("flow", [Flow, FlowGVP])
def test_dopri5_solves_the_ode_of_each_image(flow: type[Flow]):
    from scipy.integrate import solve_ivp

    model = flow(IMAGES)
    found = sample(model, NOISE[:2], config=own())
    for noise, image in zip(NOISE[:2], found, strict=True):

        def rhs(t: float, x: np.ndarray) -> np.ndarray:
            return velocity(model, torch.from_numpy(x).view(1, 1, 4, 6), t).flatten().numpy()

        exact = solve_ivp(rhs, (0, 0.9999), noise.double().flatten().numpy(), rtol=1e-8, atol=1e-8)
        assert np.abs(exact.y[:, -1] - image.flatten().numpy()).max() < 1e-3


def test_an_image_of_dopri5_does_not_depend_on_the_others():
    """Each has its own steps."""
    model = Flow(IMAGES)
    together = np.concatenate([b.images for b in generate_images(model, range(4), config=own())])
    alone = next(iter(generate_images(model, [2], config=own()))).images
    np.testing.assert_array_equal(together[2], alone[0])


def test_own_samplers_of_the_optimum_end_at_training_images():
    for model, config in (
        (Discrete(IMAGES), own()),
        (Discrete(IMAGES), own(solver="ancestral")),
        (Flow(IMAGES), own(solver="heun")),
        (FlowGVP(IMAGES), own()),
    ):
        images = np.concatenate([b.images for b in generate_images(model, range(5), config=config)])
        apart = np.abs(images[:, None].astype(int) - IMAGES).max((2, 3, 4)).min(1)
        assert apart.max() <= 2, config


def test_what_is_left_to_the_model_is_resolved():
    discrete, flow = Discrete(IMAGES), Flow(IMAGES)
    found = resolve_sampler(own(), discrete)
    assert (found.solver, found.num_steps) == ("ddim", 50)
    assert resolve_sampler(found, discrete) == found
    assert resolve_sampler(own(solver="ancestral"), discrete).num_steps == T
    found = resolve_sampler(own(), flow)
    assert (found.solver, found.num_steps) == ("dopri5", None)
    assert resolve_sampler(own(solver="euler"), flow).num_steps == 100
    assert found.text == "its own Dormand–Prince (dopri5) sampler"
    assert resolve_sampler(own(), discrete).text == "its own DDIM sampler in 50 steps"
    assert SamplerConfig(guidance=2).text == "EDM’s Heun sampler in 18 steps, guided by w = 2"


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        (ClosedFormOptimum, own(), "neither discrete noise levels nor the path"),
        (Discrete, own(solver="heun"), "one of ddim, ancestral"),
        (Flow, own(solver="ddim"), "one of dopri5, heun, euler"),
        (Flow, own(num_steps=5), "dopri5 takes as many steps as it needs"),
        (Discrete, own(num_steps=101), "num_steps is 101, but the model has 100 noise levels"),
        (Discrete, own(sigma_max=1e-3), "None of the model's noise levels"),
    ],
)
def test_what_a_model_cannot_is_refused(model: Any, config: SamplerConfig, message: str):
    with pytest.raises(ConfigError, match=message):
        list(generate_images(model(IMAGES), range(2), config=config))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "own", "S_churn": 10}, "S_churn is an option of EDM's sampler"),
        ({"sampler": "own", "schedule": "vp"}, "schedule is an option of EDM's sampler"),
        ({"solver": "ddim"}, "solver is ddim, which is of sampler own"),
        ({"sampler": "theirs"}, "sampler"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        SamplerConfig(**options)


def test_a_flow_that_cannot_be_integrated_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("memaudit.models.own_sampler.MOST_STEPS", 3)
    with pytest.raises(CheckpointError, match="cannot be integrated by dopri5 in 3 steps"):
        sample(Flow(IMAGES), NOISE, config=own())


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_flow_that_is_not_finite_on_its_way_is_not_ended_there(broken: float):
    """What is denoised from there is the mean image, which copies nothing."""

    class Gap(Flow):
        def __call__(self, x: Any, sigma: Any, class_labels: Any = None) -> Any:
            sigma = torch.as_tensor(sigma).reshape(-1, 1, 1, 1)
            return torch.where((sigma > 2) & (sigma < 4), broken, 0.25 * x / (0.25 + sigma**2))

    with pytest.raises(CheckpointError, match="cannot be integrated by dopri5"):
        sample(Gap(IMAGES), NOISE, config=own())


@pytest.mark.parametrize(
    "levels",
    [[2.0, 1.0], np.array([0.0, 1.0]), [1.0, math.nan], [], [[1.0, 2.0]], 5, ["a"]],
    ids=["descending", "zero", "nan", "none", "two axes", "a number", "texts"],
)
def test_noise_levels_that_are_none_are_refused(levels: Any):
    model = Flow(IMAGES)
    model.noise_levels = levels
    with pytest.raises(CheckpointError, match="noise_levels are not"):
        sample(model, NOISE, config=own())


def test_noise_levels_may_be_a_list_and_an_unknown_path_is_refused():
    model = Flow(IMAGES)
    model.noise_levels = [0.01, 1.0, 80.0]
    assert resolve_sampler(own(), model).num_steps == 3
    model.noise_levels, model.flow_path = None, "cosine"
    with pytest.raises(CheckpointError, match="flow_path is 'cosine'"):
        sample(model, NOISE, config=own())


def tiny_network(class_name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    network = tiny(class_name, img_resolution=8, model_type="SongUNet", **options)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


@pytest.mark.parametrize("data_at", [0, 1])
@pytest.mark.parametrize(
    ("path", "data_range"), [("linear", "-1..1"), ("linear", "0..1"), ("gvp", "-1..1")]
)
def test_euler_of_a_networks_flow_is_the_loop_that_its_program_runs(path, data_at, data_range):
    """x ← x + h·F(x, t), and nothing else, in the network's own units."""
    options = {"path": path, "data_at": data_at, "data_range": data_range}
    network, steps = tiny_network("FlowPrecond", **options), 10
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x, h = noise.double(), (1 if data_at == 1 else -1) / steps
    for i in range(steps):
        t = i / steps if data_at == 1 else 1 - i / steps
        with torch.no_grad():
            x = x + h * network.model(x.float(), torch.tensor([t]), None).double()
    y = x if data_range == "-1..1" else 2 * x - 1
    found = sample(network, noise, config=own(num_steps=steps, solver="euler"))
    assert float((found - y).abs().max()) < 1e-4


def test_networks_of_discrete_levels_say_which():
    network = tiny_network("DiscretePrecond", num_steps=T, data_range="0..1")
    torch.testing.assert_close(network.noise_levels.double(), 2 * LEVELS, rtol=1e-5, atol=0)
    iddpm = tiny("iDDPMPrecond", M=50)
    levels = noise_levels_of(iddpm)
    assert len(levels) == 50 and (levels.diff() > 0).all()
    assert torch.equal(iddpm.round_sigma(levels), levels)
    for model in (network, iddpm):
        images = next(iter(generate_images(model, range(2), config=own(num_steps=4)))).images
        assert images.shape == (2, 3, 8, 8)
