"""The losses against those of EDM."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from memaudit.models.build import build_network
from memaudit.training.loss import LOSSES, DenoisingLoss, EDMLoss, VELoss, VPLoss

NETS = [
    "ddpmpp_vp",
    "ddpmpp_ve",
    "ddpmpp_edm",
    "ncsnpp_ve",
    "ncsnpp_edm",
    "adm_vp",
    "adm_edm",
]
TOLERANCE = 5e-5


def relative_error(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("net", NETS)
def test_losses_and_their_gradients_are_edms(golden: Path, net: str):
    truth = load_file(golden / "losses.safetensors")
    truth = {key.split(".", 1)[1]: t for key, t in truth.items() if key.startswith(f"{net}.")}
    with safe_open(golden / "losses.safetensors", "pt") as file:
        grad_names = json.loads(file.metadata()[net])["grad_names"]
    with safe_open(golden / "nets" / f"{net}.safetensors", "pt") as file:
        network = build_network(json.loads(file.metadata()["config"])).eval()
        weights = {k[3:]: file.get_tensor(k) for k in file.keys() if k.startswith("sd.")}
    network.load_state_dict(weights)
    loss = LOSSES[net.split("_")[1]]()

    def denoiser(x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return network(x, sigma, class_labels, augment_labels=truth["augment_labels"])

    sigma = loss.sigma(truth["draw"])
    assert relative_error(sigma, truth["sigma"]) < TOLERANCE
    assert relative_error(loss.weight(sigma), truth["weight"]) < TOLERANCE
    value = loss.at(denoiser, truth["y"], sigma, truth["unit_noise"], truth["class_labels"])
    assert relative_error(value.detach(), truth["loss"]) < TOLERANCE

    (value.sum() / len(value)).backward()
    parameters = dict(network.named_parameters())
    norms = torch.stack([parameters[name].grad.double().norm() for name in grad_names])
    assert relative_error(norms, truth["grad_l2"]) < TOLERANCE


def exact_denoiser(x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
    """For y ~ N(0, 0.25), D(x; sigma) = 0.25 x / (0.25 + sigma²)."""
    variance = 0.25
    return x * variance / (variance + sigma.view(-1, 1, 1, 1) ** 2)


def test_edms_weight_makes_the_loss_of_an_exact_denoiser_the_same_at_every_sigma():
    """E (D - y)² = σ² σ_data² / (σ² + σ_data²) for Gaussian data, the inverse of EDM's weight."""
    loss = EDMLoss()
    generator = torch.Generator().manual_seed(0)
    y = 0.5 * torch.randn(1000, 1, 8, 8, generator=generator)
    for sigma in [0.02, 0.5, 10.0]:
        noise = torch.randn(y.shape, generator=generator)
        value = loss.at(exact_denoiser, y, torch.full([1000], sigma), noise)
        assert float(value.mean()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("loss", "low", "median", "high"),
    [
        (VPLoss(), 0.0009, VPLoss().sigma(torch.tensor(0.5)).item(), 152.2),
        (VELoss(), 0.02, (0.02 * 100) ** 0.5, 100.0),
        (EDMLoss(), 0.0, torch.tensor(-1.2).exp().item(), float("inf")),
    ],
)
def test_noise_levels_fill_their_range(loss: DenoisingLoss, low: float, median: float, high: float):
    seen = []

    def spy(x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        seen.append(sigma)
        return x

    loss(spy, torch.zeros(20_000, 1, 1, 1), generator=torch.Generator().manual_seed(0))
    sigma = seen[0]
    assert sigma.shape == (20_000,)
    assert low <= sigma.min() and sigma.max() <= high
    assert sigma.median().item() == pytest.approx(median, rel=0.1)


@pytest.mark.parametrize("name", LOSSES)
def test_a_generator_fixes_the_loss(name: str):
    y = torch.zeros(4, 1, 2, 2)
    first, second = (
        LOSSES[name]()(exact_denoiser, y, generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert torch.equal(first, second)
    assert first.shape == y.shape
