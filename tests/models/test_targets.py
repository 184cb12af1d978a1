"""What other trainers' networks predict, against the closed-form optimum of a training set."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from memaudit.errors import ConfigError
from memaudit.models.build import build_network
from memaudit.models.optimum.definition import denoise_by_definition
from memaudit.models.precond import DiscretePrecond, FlowPrecond, Preconditioner
from memaudit.models.precond.schedules import SCHEDULES, schedule_betas, sigmas_of
from memaudit.models.precond.targets import TARGETS, scalings_of

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
SIGMAS = (0.01, 0.1, 0.7, 3.0, 20.0, 80.0)
TINY = {
    "img_resolution": 8,
    "img_channels": 3,
    "model_type": "DhariwalUNet",
    "model_channels": 8,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}


class Optimum(nn.Module):
    """A network that predicts exactly what a trainer's loss asks for, from x_t and t alone."""

    def __init__(self, target, point, time_scale=1.0, unit_range=False):
        super().__init__()
        self.target, self.point, self.time_scale = target, point, time_scale
        self.unit_range = unit_range

    def forward(self, x_t: Tensor, time: Tensor, class_labels: Tensor | None = None) -> Tensor:
        a, b, da, db = (float(value) for value in self.point(float(time[0]) / self.time_scale))
        x, sigma = x_t.double() / a, b / a
        if self.unit_range:
            y = (denoise_by_definition(2 * x - 1, 2 * sigma, IMAGES) + 1) / 2
        else:
            y = denoise_by_definition(x, sigma, IMAGES)
        n = (x - y) / sigma
        F = {
            "epsilon": n,
            "sample": y,
            "v_prediction": a * n - b * y,
            "velocity": da * y + db * n,
            "score": -n / b,
        }[self.target]
        return F.float()


def linear(t: float) -> tuple[float, ...]:
    return t, 1 - t, 1, -1


def gvp(t: float) -> tuple[float, ...]:
    a, b = math.sin(math.pi / 2 * t), math.cos(math.pi / 2 * t)
    return a, b, math.pi / 2 * b, -math.pi / 2 * a


def backwards(point):
    def reversed_point(t: float) -> tuple[float, ...]:
        a, b, da, db = point(1 - t)
        return a, b, -da, -db

    return reversed_point


def largest_error(network: Preconditioner, sigma: float) -> float:
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    y = torch.from_numpy(IMAGES[:2] / 127.5 - 1).float()
    sigma = float(network.round_sigma(torch.tensor(sigma)))
    x = y + sigma * noise
    # A float32 x itself is off by 2^-24 of its size, which at large sigma moves the posterior.
    return float((network(x, sigma).double() - denoise_by_definition(x, sigma, IMAGES)).abs().max())


@pytest.mark.parametrize("data_range", ["-1..1", "0..1"])
@pytest.mark.parametrize("time_scale", [1, 1000])
@pytest.mark.parametrize("data_at", [1, 0])
@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_a_flow_gives_back_the_optimum(path, data_at, time_scale, data_range):
    network = build_network(
        {"class_name": "FlowPrecond", **TINY}
        | {"path": path, "data_at": data_at, "time_scale": time_scale, "data_range": data_range}
    ).eval()
    point = {"linear": linear, "gvp": gvp}[path]
    network.model = Optimum(
        "velocity",
        point if data_at == 1 else backwards(point),
        time_scale,
        unit_range=data_range == "0..1",
    )
    for sigma in SIGMAS:
        assert largest_error(network, sigma) < 2e-5


def test_a_flow_starts_at_its_own_prior():
    for path in ("linear", "gvp"):
        network = build_network({"class_name": "FlowPrecond", "path": path, **TINY})
        assert isinstance(network, FlowPrecond)
        scalings = network.scalings(torch.tensor(network.sigma_max))
        assert float(scalings.c_in * network.sigma_max) == pytest.approx(1, abs=2e-6)
        assert float(scalings.c_noise) == pytest.approx(0, abs=2e-6)


@pytest.mark.parametrize("data_range", ["-1..1", "0..1"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("target", ["epsilon", "sample", "v_prediction"])
def test_discrete_levels_give_back_the_optimum(target, schedule, data_range):
    T = 500
    network = build_network(
        {"class_name": "DiscretePrecond", **TINY, "target": target, "schedule": schedule}
        | {"num_steps": T, "time_scale": 1000 / T, "data_range": data_range}
    ).eval()
    alpha_bar = np.cumprod(1 - schedule_betas(schedule, T))

    def point(t: float) -> tuple[float, ...]:
        assert t == pytest.approx(round(t), abs=1e-3)
        return math.sqrt(alpha_bar[round(t)]), math.sqrt(1 - alpha_bar[round(t)]), 0, 0

    network.model = Optimum(target, point, 1000 / T, unit_range=data_range == "0..1")
    for sigma in SIGMAS:
        assert largest_error(network, sigma) < 5e-5


@pytest.mark.parametrize(
    ("target", "path"),
    [(target, "vp") for target in TARGETS if target != "velocity"]
    + [("velocity", "linear"), ("velocity", "gvp"), ("epsilon", "ve"), ("score", "ve")],
)
def test_scalings_solve_their_target(target, path):
    """D of a network that is right about y and n is y, in float64."""
    y, n = torch.randn(2, 100, dtype=torch.float64)
    sigma = torch.logspace(-2, 2, 100, dtype=torch.float64)
    c_skip, c_out, a = scalings_of(target, sigma, path=path)
    b = a * sigma
    F = {
        "epsilon": n,
        "sample": y,
        "v_prediction": a * n - b * y,
        "velocity": y - n if path == "linear" else math.pi / 2 * (b * y - a * n),
        "score": -n / b,
    }[target]
    x = y + sigma * n
    torch.testing.assert_close(c_skip * x + c_out * F, y, rtol=1e-10, atol=1e-10)


def test_schedules_are_the_published_formulas():
    assert schedule_betas("linear", 1000)[[0, -1]].tolist() == [1e-4, 0.02]
    assert schedule_betas("linear", 4000)[[0, -1]].tolist() == [1e-4 / 4, 0.02 / 4]
    sd = schedule_betas("scaled_linear", 1000, beta_start=0.00085, beta_end=0.012)
    assert sd[[0, -1]] == pytest.approx([0.00085, 0.012], rel=1e-12)
    assert np.sqrt(sd)[500] - np.sqrt(sd)[499] == pytest.approx(
        (math.sqrt(0.012) - math.sqrt(0.00085)) / 999, rel=1e-9
    )
    for name, s in (("cosine", 0.5), ("sigmoid", 0.5)):
        sigma = sigmas_of(schedule_betas(name, 1000))[499]
        angle = (s + 0.008) / 1.008 * math.pi / 2, 0.008 / 1.008 * math.pi / 2
        exact = {
            "cosine": (math.cos(angle[0]) / math.cos(angle[1])) ** 2,
            "sigmoid": 0.5,
        }[name]
        assert sigma == pytest.approx(math.sqrt((1 - exact) / exact), rel=1e-7)


def test_levels_without_signal_are_left_out():
    betas = [0.1, 0.5, 1.0]
    network = build_network({"class_name": "DiscretePrecond", **TINY, "betas": betas})
    assert isinstance(network, DiscretePrecond)
    assert network.levels.tolist() == pytest.approx(
        [math.sqrt(0.1 / 0.9), math.sqrt(0.55 / 0.45)], rel=1e-6
    )
    same = build_network(
        {"class_name": "DiscretePrecond", **TINY, "sigmas": network.levels.tolist()}
    )
    assert same.sigma_max == network.sigma_max
    assert "levels" not in network.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "velocity"}, "target must be one of epsilon, sample, v_prediction"),
        ({"schedule": "quadratic"}, "schedule must be one of linear"),
        ({"betas": [0.1, 0.2], "sigmas": [1.0, 2.0]}, "one of them is needed"),
        ({"sigmas": [2.0, 1.0]}, "must ascend"),
        ({"betas": [1.0, 1.0]}, "must ascend"),
        ({"betas": [0.1, 2.0]}, "betas must be a list of numbers, each more than 0"),
        ({"null_label": "first"}, "null_label must be zeros, last or null"),
        ({"data_range": "0..255"}, "data_range must be -1..1 or 0..1"),
        ({"class_name": "FlowPrecond", "path": "vp"}, "path must be one of linear, gvp"),
        ({"class_name": "FlowPrecond", "data_at": 2}, "data_at must be an integer"),
    ],
)
def test_what_makes_no_denoiser_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        build_network({"class_name": "DiscretePrecond", **TINY} | options)


class Labels(nn.Module):
    def forward(self, x, time, class_labels=None):
        self.seen = class_labels
        return x


def test_a_null_label_is_zeros_or_the_last_class():
    one_hot = torch.eye(3)[[2]]
    options = {"class_name": "FlowPrecond", **TINY, "label_dim": 3}
    x = torch.zeros(1, 3, 8, 8)

    network = build_network(options | {"null_label": "last"}).eval()
    assert network.null_label == "last" and network.model.map_label.in_features == 4
    network.model = Labels()
    network(x, 1.0, one_hot)
    assert network.model.seen.tolist() == [[0, 0, 1, 0]]
    for none in (None, torch.zeros(1, 3)):
        network(x, 1.0, none)
        assert network.model.seen.tolist() == [[0, 0, 0, 1]]

    network = build_network(options | {"null_label": "zeros"}).eval()
    assert network.null_label == "zeros" and network.model.map_label.in_features == 3
    network.model = Labels()
    network(x, 1.0, None)
    assert network.model.seen.tolist() == [[0, 0, 0]]

    network = build_network(options).eval()
    assert network.null_label is None
    with pytest.raises(ValueError, match="must be one-hot"):
        network(x, 1.0, None)


def test_edm_knows_of_no_class_if_labels_were_dropped():
    options = {**TINY, "class_name": "EDMPrecond", "label_dim": 3}
    assert build_network(options).null_label is None
    assert build_network(options | {"label_dropout": 0.1}).null_label == "zeros"


def test_a_learned_variance_is_left_out():
    network = build_network({"class_name": "DiscretePrecond", **TINY, "learned_variance": True})
    assert network.model.out_conv.out_channels == 6
    assert network.eval()(torch.zeros(1, 3, 8, 8), 1.0).shape == (1, 3, 8, 8)
