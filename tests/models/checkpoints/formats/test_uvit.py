"""U-ViT's files denoise as a plain restatement of U-ViT does."""

import math

import pytest
import torch
from helpers.uvit_network import UViT

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints import convert_checkpoint, inspect_checkpoint, open_checkpoint

SIGMAS = [0.01, 0.1, 0.5, 2.0, 10.0, 80.0]
SIZE = {"size": 8, "patch": 2, "dim": 16, "depth": 4, "heads": 2}


def uvit(**options) -> UViT:
    torch.manual_seed(0)
    model = UViT(**(SIZE | options))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def denoised(model: UViT, x, sigma: float, label=None, target: str = "epsilon") -> torch.Tensor:
    """By the definition of VP: ᾱ = exp(−β₀ t − ½ (β₁ − β₀) t²), t found by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        t = (low + high) / 2
        alpha_bar = math.exp(-0.1 * t - 0.5 * 19.9 * t**2)
        low, high = (t, high) if math.sqrt(1 / alpha_bar - 1) < sigma else (low, t)
    F_x = model(math.sqrt(alpha_bar) * x, torch.full([len(x)], 999 * t), label)
    return F_x if target == "sample" else x - sigma * F_x


@pytest.mark.parametrize(
    "options",
    [{}, {"time_mlp": True, "bias": True, "conv": False, "channels": 1, "patch": 4}],
    ids=["small", "other options"],
)
@torch.no_grad()
def test_an_unconditional_file_denoises_as_uvit(tmp_path, options):
    model = uvit(**options)
    torch.save(model.state_dict(), tmp_path / "cifar10_uvit_small.pth")
    network = open_checkpoint(tmp_path / "cifar10_uvit_small.pth", arch="num_heads=2").network
    for sigma in SIGMAS:
        x = torch.randn(2, model.channels, 8, 8) * max(sigma, 0.5)
        assert relative_error(network(x, torch.tensor(sigma)), denoised(model, x, sigma)) < 1e-5


@torch.no_grad()
def test_a_class_and_the_class_for_none_denoise_as_uvit(tmp_path):
    model = uvit(num_classes=11)
    torch.save(model.state_dict(), tmp_path / "nnet_ema.pth")
    network = open_checkpoint(tmp_path / "nnet_ema.pth", arch="num_heads=2").network
    assert (network.label_dim, network.null_label) == (10, "last")
    labels = torch.eye(11)[[1, 9, 10]][:, :10]
    for sigma in SIGMAS:
        x = torch.randn(3, 3, 8, 8) * max(sigma, 0.5)
        expected = denoised(model, x, sigma, torch.tensor([1, 9, 10]))
        assert relative_error(network(x, torch.tensor(sigma), labels), expected) < 1e-5


@torch.no_grad()
def test_a_table_may_have_no_class_for_none(tmp_path):
    model = uvit(num_classes=3)
    torch.save(model.state_dict(), tmp_path / "nnet_ema.pth")
    checkpoint = open_checkpoint(tmp_path / "nnet_ema.pth", arch="num_heads=2,target=sample")
    assert (checkpoint.network.label_dim, checkpoint.network.null_label) == (3, None)
    x, label = torch.randn(2, 3, 8, 8), torch.tensor([0, 2])
    found = checkpoint.network(x, torch.tensor(1.0), torch.eye(3)[label])
    assert relative_error(found, denoised(model, x, 1.0, label, "sample")) < 1e-5
    last = open_checkpoint(tmp_path / "nnet_ema.pth", arch="num_heads=2,null_label=last")
    assert (last.network.label_dim, last.network.null_label) == (2, "last")


@torch.no_grad()
def test_images_need_not_be_square(tmp_path):
    model = uvit()
    torch.save(model.state_dict(), tmp_path / "nnet_ema.pth")
    arch = "num_heads=2,img_resolution=4x16"
    network = open_checkpoint(tmp_path / "nnet_ema.pth", arch=arch).network
    x = torch.randn(2, 3, 4, 16)
    assert relative_error(network(x, 0.7), denoised(model, x, 0.7)) < 1e-5


@torch.no_grad()
def test_a_training_folder_is_opened_by_its_average(tmp_path):
    folder = tmp_path / "500.ckpt"
    folder.mkdir()
    model = uvit()
    torch.save(model.state_dict(), folder / "nnet_ema.pth")
    torch.save({name: -t for name, t in model.state_dict().items()}, folder / "nnet.pth")
    torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pth")
    x = torch.randn(2, 3, 8, 8)
    network = open_checkpoint(folder, arch="num_heads=2").network
    assert relative_error(network(x, 0.7), denoised(model, x, 0.7)) < 1e-5
    assert inspect_checkpoint(folder, arch="num_heads=2").network.format == "U-ViT"


@torch.no_grad()
def test_it_is_inspected_and_converted(tmp_path):
    torch.save(uvit(num_classes=11).state_dict(), tmp_path / "nnet_ema.pth")
    info = inspect_checkpoint(tmp_path / "nnet_ema.pth")
    assert info.safe and info.problem is None
    assert (info.network.format, info.network.architecture) == ("U-ViT", "UViT")
    assert (info.network.img_resolution, info.network.label_dim) == (8, 10)
    assert {fact.name: fact.value for fact in info.network.facts} == {
        "img_resolution": 8,
        "num_heads": 1,
        "null_label": "last",
        "target": "epsilon",
    }
    native = convert_checkpoint(
        tmp_path / "nnet_ema.pth", tmp_path / "native.safetensors", arch="num_heads=2"
    )
    assert native.config["num_heads"] == 2


def test_heads_follow_from_the_width(tmp_path):
    torch.save(uvit(dim=128, depth=2).state_dict(), tmp_path / "nnet_ema.pth")
    checkpoint = open_checkpoint(tmp_path / "nnet_ema.pth")
    assert checkpoint.config["num_heads"] == 2
    assert any("num_heads = 2" in warning for warning in checkpoint.warnings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("mid_block.attn.proj.bias"), "lacks the tensor 'model.mid_block.attn"),
        (lambda w: w.update({"x.y": torch.ones(1)}), "holds the tensor 'model.x.y'"),
        (
            lambda w: w.update({"pos_embed": torch.ones(1, 16, 16)}),
            "height and width of its images",
        ),
        (lambda w: w.update({"pos_embed": torch.ones(17)}), "3 sizes above 0"),
        (lambda w: w.pop("pos_embed"), "lacks the tensor 'pos_embed'"),
        (lambda w: w.update({"context_embed.weight": torch.ones(2, 2)}), "images from texts"),
        (lambda w: w.pop("out_blocks.1.skip_linear.bias"), "out_blocks.1.skip_linear.bias"),
        (lambda w: w.update({"mid_block.mlp.fc1.weight": torch.ones(0, 16)}), "above 0"),
        (lambda w: w.update({"norm.weight": torch.full([16], float("nan"))}), "16 of 16 values"),
        (
            lambda w: w.update({"patch_embed.proj.weight": torch.ones(16, 4, 2, 2)}),
            "latents of 4 channels",
        ),
        (
            lambda w: w.update({"pos_embed": torch.ones(1, 1 + 200**2, 1)}),
            "40,000 tokens; at most 4,096",
        ),
    ],
)
def test_what_is_not_one_is_refused_by_its_difference(tmp_path, change, message):
    weights = uvit().state_dict()
    change(weights)
    torch.save(weights, tmp_path / "nnet_ema.pth")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "nnet_ema.pth", arch="num_heads=2")


def test_options_are_checked(tmp_path):
    torch.save(uvit().state_dict(), tmp_path / "nnet_ema.pth")
    with pytest.raises(ConfigError, match="no option 'heads'; its options are img_resolution, num"):
        open_checkpoint(tmp_path / "nnet_ema.pth", arch="heads=2")
    with pytest.raises(CheckpointError, match="16 channels do not split into num_heads = 3"):
        open_checkpoint(tmp_path / "nnet_ema.pth", arch="num_heads=3")
    with pytest.raises(CheckpointError, match="16 patches of 2x2, which are not those of .* 8x16"):
        open_checkpoint(tmp_path / "nnet_ema.pth", arch="img_resolution=8x16")
    with pytest.raises(ConfigError, match="null_label is last, but the file shows none"):
        open_checkpoint(tmp_path / "nnet_ema.pth", arch="null_label=last")
