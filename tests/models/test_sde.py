"""Networks trained on SDEs (Song et al.), against the closed-form optimum of a training set."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from memaudit.errors import ConfigError
from memaudit.models.build import build_network
from memaudit.models.optimum.definition import denoise_by_definition
from memaudit.models.precond import SDEPrecond, VEPrecond, VPPrecond

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
SIGMAS = (0.02, 0.1, 0.7, 3.0, 20.0, 80.0)
TINY = {
    "img_resolution": 8,
    "img_channels": 3,
    "model_channels": 8,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}


def point(sde: str, t: float) -> tuple[float, float]:
    """a and b at time t, by the SDE's definition."""
    log_mean = -0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1
    b = 1 - math.exp(2 * log_mean)
    return math.exp(log_mean), math.sqrt(b) if sde == "vp" else b


class Optimum(nn.Module):
    """A network that predicts exactly what score_sde_pytorch's loss asks for."""

    def __init__(self, sde: str, target: str, *, centered: bool) -> None:
        super().__init__()
        self.sde, self.target, self.centered = sde, target, centered

    def forward(self, x_t: Tensor, time: Tensor, class_labels: Tensor | None = None) -> Tensor:
        time = float(time[0])
        a, b = (1.0, math.exp(time)) if self.sde == "ve" else point(self.sde, time / 999)
        x_t = x_t.double()
        if self.centered:
            y = denoise_by_definition(x_t / a, b / a, IMAGES)
        else:
            x_t = (x_t + 1) / 2
            y = (denoise_by_definition(2 * x_t / a - 1, 2 * b / a, IMAGES) + 1) / 2
        n = (x_t - a * y) / b
        return ({"epsilon": n, "sample": y}[self.target] * (-1 if self.sde == "ve" else 1)).float()


@pytest.mark.parametrize("data_range", ["-1..1", "0..1"])
@pytest.mark.parametrize(
    ("sde", "target"),
    [("vp", "epsilon"), ("vp", "sample"), ("subvp", "epsilon"), ("ve", "epsilon")],
)
def test_an_sde_gives_back_the_optimum(sde, target, data_range):
    network = build_network(
        {"class_name": "SDEPrecond", **TINY}
        | {"sde": sde, "target": target, "data_range": data_range}
    ).eval()
    network.model = Optimum(sde, target, centered=data_range == "-1..1")
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for sigma in SIGMAS:
        x = torch.from_numpy(IMAGES[:2] / 127.5 - 1).float() + sigma * noise
        found = network(x, sigma).double()
        assert float((found - denoise_by_definition(x, sigma, IMAGES)).abs().max()) < 5e-5


def test_times_and_noise_levels_are_each_others_inverse():
    for sde in ("vp", "subvp"):
        network = build_network({"class_name": "SDEPrecond", "sde": sde, **TINY})
        assert isinstance(network, SDEPrecond)
        for t in (1e-5, 1e-3, 0.1, 0.5, 1.0):
            a, b = point(sde, t)
            sigma = torch.tensor(t, dtype=torch.float64)
            assert float(network.t(network.sigma(sigma))) == pytest.approx(t, rel=1e-12)
            assert float(network.sigma(sigma)) == pytest.approx(b / a, rel=1e-8)


def test_vp_and_ve_are_edms():
    vp, ve = (
        build_network({"class_name": "SDEPrecond", "sde": sde, "data_range": data_range, **TINY})
        for sde, data_range in (("vp", "-1..1"), ("ve", "0..1"))
    )
    edm_vp, edm_ve = (
        build_network({"class_name": name, **TINY}) for name in ("VPPrecond", "VEPrecond")
    )
    assert isinstance(edm_vp, VPPrecond) and isinstance(edm_ve, VEPrecond)
    assert vp.sigma_max == pytest.approx(edm_vp.sigma_max, rel=1e-5)
    assert (ve.sigma_min, ve.sigma_max) == (edm_ve.sigma_min, edm_ve.sigma_max)
    for ours, edms in ((vp, edm_vp), (ve, edm_ve)):
        edms.load_state_dict(ours.state_dict())
        x = torch.randn(2, 3, 8, 8)
        torch.testing.assert_close(ours.eval()(x, 0.7), edms.eval()(x, 0.7), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sde": "vpsde"}, "sde must be one of vp, subvp, ve"),
        ({"target": "velocity"}, "target must be epsilon, or sample along vp and subvp"),
        ({"sde": "ve", "target": "sample"}, "target must be epsilon"),
        ({"beta_max": 1e6}, "beta_max must be a number"),
        ({"beta_max": 0.05}, "beta_max is 0.05, below beta_min, 0.1"),
        ({"sde": "ve", "sigma_min": 60.0}, "which is not a range"),
    ],
)
def test_what_makes_no_denoiser_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        build_network({"class_name": "SDEPrecond", **TINY} | options)
