"""Preconditioners against the published implementation's numbers."""

import json
import math
from pathlib import Path

import pytest
import torch
from helpers.tiny_networks import tiny
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from memaudit.models.denoiser import Denoiser

CLASSES = {"vp": "VPPrecond", "ve": "VEPrecond", "iddpm": "iDDPMPrecond", "edm": "EDMPrecond"}


@pytest.fixture(scope="module")
def table(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "precond.safetensors")


@pytest.mark.parametrize("name", CLASSES)
def test_scalings_agree_with_the_reference(table: dict[str, Tensor], name: str):
    scalings = tiny(CLASSES[name]).scalings(table["sigma"])
    for symbol in ("c_skip", "c_in", "c_noise"):
        # VP's label is 999 (√(0.01 + …) − 0.1) / 19.9: a bit of the root, 7.5e-9, is 3.7e-7 there.
        atol = 1e-6 if (name, symbol) == ("vp", "c_noise") else 1e-7
        torch.testing.assert_close(
            getattr(scalings, symbol), table[f"{name}.{symbol}"], rtol=1e-5, atol=atol
        )
    D_at_F1 = scalings.c_skip + scalings.c_out
    torch.testing.assert_close(D_at_F1, table[f"{name}.D_at_F1"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", CLASSES)
def test_noise_range_is_the_published_one(golden: Path, name: str):
    with safe_open(golden / "precond.safetensors", "pt") as file:
        about = json.loads(file.metadata()[name])
    network = tiny(CLASSES[name])
    # The reference's iddpm levels hold the rounding of its processor's float32 roots.
    rel = 1e-6 if name == "iddpm" else 0
    assert network.sigma_min == pytest.approx(float(about["sigma_min"]), rel=rel, abs=0)
    assert network.sigma_max == pytest.approx(float(about["sigma_max"]), rel=rel, abs=0)


def test_vp_time_and_noise_level_agree_with_the_reference(table: dict[str, Tensor]):
    network = tiny("VPPrecond")
    t = torch.linspace(1e-5, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(network.sigma(t), table["vp.sigma_of_t"], rtol=1e-9, atol=0)
    sigma = table["sigma"].double()
    torch.testing.assert_close(network.t(sigma), table["vp.t_of_sigma"], rtol=1e-9, atol=0)
    torch.testing.assert_close(network.t(network.sigma(t)), t, rtol=1e-9, atol=1e-12)


def test_vp_label_is_the_closed_form_of_the_rounded_sum(table: dict[str, Tensor]):
    """The published label has the rounding of 1 + σ² to float32; all else is exact to a bit."""
    sigma = table["sigma"]
    root = (0.1**2 + 2 * 19.9 * (1 + sigma**2).double().log()).sqrt()
    exact = 999 * (root - 0.1) / 19.9
    ours = tiny("VPPrecond").scalings(sigma).c_noise.double()
    bound = 2**-23 * (999 * root / 19.9 + exact)  # a bit of the root and of the label
    assert ((ours - exact).abs() <= bound).all()


def test_iddpm_levels_agree_with_the_reference_and_the_closed_form(table: dict[str, Tensor]):
    """u_j² + 1 = ᾱ_M / ᾱ_j below the clipped steps, so that a bit of ᾱ is (1 + 1/u²) / 2 of u.

    The reference's levels hold the rounding of one processor's float32 sines and roots.
    """
    ours = tiny("iDDPMPrecond").u.double()
    u, levels, exact = ours[:-1], table["iddpm.u"].double()[:-1], table["iddpm.u_f64"][:-1]
    assert ours[-1] == 0
    bound = 6 * 2**-23 * (1 + exact**-2)
    assert ((u / levels - 1).abs() < bound).all()
    assert ((u / exact - 1).abs() < bound).all()
    alpha_bar = (torch.arange(1001, dtype=torch.float64) * math.pi / 2 / 1000 / 1.008).sin() ** 2
    closed_form = (alpha_bar[-1] / alpha_bar[1:-1] - 1).sqrt()
    torch.testing.assert_close(exact[1:], closed_form, rtol=1e-12, atol=0)


def test_iddpm_rounds_to_the_nearest_level(table: dict[str, Tensor]):
    network, sigma = tiny("iDDPMPrecond"), table["sigma"]
    network.u.copy_(table["iddpm.u"])  # as from a checkpoint
    assert torch.equal(network.nearest_level(sigma), table["iddpm.round_index"])
    assert torch.equal(network.round_sigma(sigma), table["iddpm.round_sigma_f32"])
    assert torch.equal(network.round_sigma(sigma.double()), table["iddpm.round_sigma_f64"])


@pytest.mark.parametrize("class_name", ["VPPrecond", "VEPrecond", "EDMPrecond", "Precond"])
def test_continuous_models_take_any_noise_level(class_name: str):
    sigma = torch.tensor([0.0123, 7.5], dtype=torch.float64)
    assert torch.equal(tiny(class_name).round_sigma(sigma), sigma)


@pytest.mark.parametrize("class_name", [*CLASSES.values(), "Precond"])
def test_every_model_is_a_denoiser(class_name: str):
    network = tiny(class_name)
    assert isinstance(network, Denoiser)
    assert (network.img_channels, network.img_resolution, network.label_dim) == (3, 8, 0)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        out = network(x, torch.tensor(1.0, dtype=torch.float64), torch.eye(10)[:2])
    assert out.shape == x.shape and out.dtype == torch.float32


def test_denoised_is_c_skip_x_plus_c_out_F():
    """With a U-Net that returns what it is given, D(x) = (c_skip + c_out c_in) x."""

    class Echo(nn.Module):
        def forward(self, x: Tensor, noise_labels: Tensor, class_labels: None) -> Tensor:
            return torch.cat([x, torch.full_like(x, torch.nan)], dim=1)  # the variance is ignored

    network = tiny("EDMPrecond", sigma_data=0.7)
    network.model = Echo()
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 5.0])
    factor = (0.7**2 + 0.7 * sigma) / (sigma**2 + 0.7**2)
    torch.testing.assert_close(network(x, sigma), factor[:, None, None, None] * x)


def test_labels_of_another_width_are_refused():
    network = tiny("EDMPrecond", label_dim=10)
    with pytest.raises(ValueError, match=r"label_dim 10, got \[2, 5\]"):
        network(torch.randn(2, 3, 8, 8), torch.tensor(1.0), torch.eye(5)[:2])
