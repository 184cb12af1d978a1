"""`module:function` runs the user's code, and only where nothing else can be meant."""

import math
import sys

import pytest
import torch

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints import convert_checkpoint, open_checkpoint
from memaudit.models.denoiser import Denoiser

MODULE = """
import torch

class Shrink(torch.nn.Module):
    img_channels, img_resolution = 1, 4
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.25))
    def forward(self, x, sigma, class_labels=None):
        return x * self.scale / (self.scale + sigma.reshape(-1, 1, 1, 1) ** 2)

def shrink():
    return Shrink()

def plain():
    def denoise(x, sigma, class_labels=None):
        return x[:1]
    denoise.img_channels, denoise.img_resolution, denoise.label_dim = 1, 4, 3
    denoise.sigma_min, denoise.sigma_max = 0.1, 10
    denoise.round_sigma = lambda sigma: sigma.round()
    return denoise

def sized(*size):
    denoise = lambda x, sigma, class_labels: x
    denoise.img_channels, denoise.img_resolution = 1, size
    return denoise

def wide():
    return sized(4, 6)

def three_sides():
    return sized(4, 6, 8)

def without_size():
    return lambda x, sigma, class_labels: x

def failing():
    raise KeyError("weights.pt")

def number():
    return 7

constant = 7
made = plain()

def with_levels(low, high):
    denoise = lambda x, sigma, class_labels: x
    denoise.img_channels, denoise.img_resolution = 1, 4
    denoise.sigma_min, denoise.sigma_max = low, high
    return denoise

def text_level():
    return with_levels("low", 1)

def empty_range():
    return with_levels(2, 1)

def no_number():
    return with_levels(float("nan"), 1)
"""


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """Name of a module of the user's in the current folder."""
    name = f"user_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield name
    sys.modules.pop(name, None)


def test_a_users_denoiser_is_one_of_ours(module):
    checkpoint = open_checkpoint(f"{module}:shrink")
    network = checkpoint.network
    assert isinstance(network, Denoiser)
    assert (network.label_dim, network.sigma_min, network.sigma_max) == (0, 0.0, math.inf)
    x, sigma = torch.randn(2, 1, 4, 4), torch.tensor([1.0, 2.0])
    torch.testing.assert_close(
        network(x, sigma), x * 0.25 / (0.25 + sigma[:, None, None, None] ** 2)
    )
    assert torch.equal(network.round_sigma(sigma), sigma)
    assert not any(p.requires_grad for p in network.parameters())
    assert checkpoint.provenance["module"].endswith(f"{module}.py")
    assert "not that of the weights" in checkpoint.warnings[0]


def test_its_images_need_not_be_square(module):
    assert open_checkpoint(f"{module}:wide").network.img_resolution == (4, 6)


def test_it_has_no_native_form(module):
    with pytest.raises(CheckpointError, match="Python denoiser has no native form"):
        convert_checkpoint(f"{module}:shrink", "native.safetensors")


def test_its_attributes_and_rounding_are_the_users(module):
    network = open_checkpoint(f"{module}:plain").network
    assert (network.label_dim, network.sigma_min, network.sigma_max) == (3, 0.1, 10.0)
    assert float(network.round_sigma(torch.tensor(1.2))) == 1
    with pytest.raises(CheckpointError, match=r"returned \[1, 1, 4, 4\] for x of \[2, 1, 4, 4\]"):
        network(torch.zeros(2, 1, 4, 4), 1.0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("absent", "has no function absent"),
        ("constant", "has no function constant"),
        ("made", "made is a denoiser already; name a function without arguments that returns it"),
        ("failing", r"failing\(\) failed with KeyError: 'weights.pt'"),
        ("number", "it returned int; a callable D"),
        ("without_size", "img_channels is None; a number from 1"),
        ("three_sides", r"img_resolution is \(4, 6, 8\); a number from 1 or \(height, width\)"),
    ],
)
def test_a_function_that_gives_no_denoiser_is_refused_by_what_it_gives(module, function, message):
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(f"{module}:{function}")


def test_a_module_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="module no_such_module could not be imported"):
        open_checkpoint("no_such_module:denoiser")


@pytest.mark.parametrize(
    "text", ["a/b:c", "./user:shrink", "user.py:shrink.x", "user", "user:", "1:2"]
)
def test_a_text_that_could_be_a_path_runs_nothing(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user.py").write_text("open('ran', 'w').close()\ndef shrink(): pass\n")
    with pytest.raises(CheckpointError, match="no such file"):
        open_checkpoint(text)
    assert not (tmp_path / "ran").exists()


def test_a_file_of_that_name_is_opened_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user.py").write_text("open('ran', 'w').close()\ndef shrink(): pass\n")
    (tmp_path / "user:shrink").write_bytes(b"\x80\x04N.")
    with pytest.raises(CheckpointError, match="a format that memaudit does not know"):
        open_checkpoint("user:shrink")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("text_level", "sigma_min is 'low'; a number is needed"),
        ("empty_range", "from sigma_min = 2 to sigma_max = 1, which is not a range"),
        ("no_number", "from sigma_min = nan to sigma_max = 1, which is not a range"),
    ],
)
def test_its_noise_levels_are_a_range(module, function, message):
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(f"{module}:{function}")
