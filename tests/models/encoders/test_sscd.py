"""SSCD's network, read from weights as they are published, against torchvision's own ResNet-50."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torchvision.models import resnet50

from memaudit.errors import CheckpointError, UnsafeCheckpointError
from memaudit.models.encoders.sscd import GeneralizedMean, open_sscd


class GeM(nn.Module):
    """The generalized mean, written in another way than ours."""

    def forward(self, x: Tensor) -> Tensor:
        return avg_pool2d(torch.clip(x, 1e-6) ** 3.0, x.shape[-2:]) ** (1 / 3)


@pytest.fixture(scope="module")
def published() -> nn.Module:
    """A ResNet-50 of random weights whose normalizations have seen something."""
    torch.manual_seed(0)
    network = resnet50(num_classes=512).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return network


@pytest.fixture
def saved(tmp_path: Path):
    def save(weights: object) -> Path:
        torch.save(weights, tmp_path / "sscd_disc_mixup.torchvision.pt")
        return tmp_path / "sscd_disc_mixup.torchvision.pt"

    return save


@pytest.mark.parametrize("prefix", ["backbone.", pytest.param("", marks=pytest.mark.slow)])
def test_it_equals_torchvisions_network_with_its_pooling(published, saved, prefix):
    path = saved({f"{prefix}{name}": t for name, t in published.state_dict().items()})
    opened = open_sscd(path)
    assert opened.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    x = torch.randn(2, 3, 72, 96, generator=torch.Generator().manual_seed(1))
    average, published.avgpool = published.avgpool, GeM()
    try:
        with torch.no_grad():
            features = published(x).double()
            found = opened.network(x)
    finally:
        published.avgpool = average
    expected = features / features.square().sum(1, keepdim=True).sqrt()
    assert found.shape == (2, 512) and (found[0] - found[1]).abs().max() > 1e-3
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


def test_the_pooling_is_a_mean_of_cubes():
    x = torch.tensor([[[[1.0, 2.0], [3.0, -4.0]]]])
    expected = ((1 + 8 + 27 + 1e-18) / 4) ** (1 / 3)
    assert float(GeneralizedMean()(x)) == pytest.approx(expected)


ANCHOR = {"layer4.2.conv3.weight": torch.ones(1)}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({**ANCHOR, "fc.weight": torch.ones(1000, 2048)}, r"\[1000, 2048\].*of a classifier"),
        (ANCHOR, "with no last layer"),
        ({**ANCHOR, "fc.weight": torch.ones(512, 2048)}, "far more weights than the file has"),
        ({"weight": torch.ones(2)}, r"does not hold the weights .*sscd_disc_mixup.torchvision.pt"),
    ],
)
def test_weights_of_another_network_are_refused(saved, tmp_path, weights, message):
    with pytest.raises(CheckpointError, match=rf"{tmp_path}.*{message}"):
        open_sscd(saved(weights))


@pytest.mark.slow
def test_weights_that_were_altered_are_refused(published, saved):
    weights = published.state_dict()
    for wrong, message in (
        ({n: t for n, t in weights.items() if n != "bn1.weight"}, "lacks the tensor .*bn1.weight"),
        ({**weights, "more": torch.ones(1)}, "for which its configuration has no place"),
        ({**weights, "conv1.weight": torch.ones(64, 3, 3, 3)}, r"conv1.weight' is \[64, 3, 3, 3\]"),
        ({**weights, "bn1.bias": torch.full((64,), np.nan)}, "64 of 64 values that are NaN"),
    ):
        with pytest.raises(CheckpointError, match=message):
            open_sscd(saved(wrong))


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="none.pt: there is no such file"):
        open_sscd(tmp_path / "none.pt")


def test_nothing_in_the_file_runs(saved, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    with pytest.raises(UnsafeCheckpointError):
        open_sscd(saved({"layer4.2.conv3.weight": Evil()}))
    assert not (tmp_path / "ran").exists()


def test_its_program_is_refused_and_the_weights_named(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(nn.Flatten()).save(str(tmp_path / "sscd.torchscript.pt"))
    with pytest.raises(CheckpointError, match=r"sscd_disc_mixup.torchvision.pt .* is a program"):
        open_sscd(tmp_path / "sscd.torchscript.pt")
