"""DiT, SiT and REPA on pixels denoise as a plain restatement of DiT does with their weights."""

import argparse
import math

import pytest
import torch
from helpers.dit_network import DiT, as_diffusers

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints import convert_checkpoint, inspect_checkpoint, open_checkpoint

SIGMAS = [0.02, 0.1, 0.5, 2.0, 10.0, 80.0]
HEADS = "num_heads=2"


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def labels(indices: list[int], label_dim: int = 5) -> torch.Tensor:
    """One-hot rows; the index after the last class is a row of zeros, for no class."""
    return torch.eye(label_dim + 1)[indices][:, :label_dim]


def training_file(weights, **args):
    """What the trainers save: the average is another network than the one in training."""
    return {
        "model": {f"module.{name}": torch.zeros_like(t) for name, t in weights.items()},
        "ema": weights,
        "opt": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "args": argparse.Namespace(**args),
    }


@torch.no_grad()
def test_a_dit_denoises_as_ddpm_at_its_noise_levels(tmp_path):
    model = DiT(out_channels=6)
    torch.save(model.state_dict(), tmp_path / "DiT.pt")
    network = open_checkpoint(tmp_path / "DiT.pt", arch=f"dit,{HEADS}").network
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    levels = (1 / alpha_bar - 1).sqrt()
    for sigma in SIGMAS:
        t = int((levels - sigma).abs().argmin())
        assert float(network.round_sigma(torch.tensor(sigma))) == pytest.approx(float(levels[t]))
        x, index = torch.randn(3, 3, 8, 8) * max(sigma, 0.5), [0, 4, 5]
        F_x = model(x / math.sqrt(1 + sigma**2), torch.full([3], float(t)), torch.tensor(index))[
            :, :3
        ]
        found = network(x, torch.tensor(sigma), labels(index))
        assert relative_error(found, x - sigma * F_x) < 1e-5


@pytest.mark.parametrize("path", ["Linear", "GVP"])
@torch.no_grad()
def test_a_sit_denoises_as_its_velocity(tmp_path, path):
    model = DiT(out_channels=6)
    args = {"model": "SiT-S/2", "image_size": 8, "num_classes": 5, "prediction": "velocity"}
    file = training_file(model.state_dict(), path_type=path, **args)
    torch.save(file, tmp_path / "0000100.pt")
    network = open_checkpoint(tmp_path / "0000100.pt", arch=HEADS).network
    for sigma in SIGMAS:
        # x_t = a y + b n, v = ȧ y + ḃ n: two equations for y.
        if path == "Linear":
            t = 1 / (1 + sigma)
            a, b, a_dot, b_dot = t, 1 - t, 1.0, -1.0
        else:
            t = 2 / math.pi * math.atan(1 / sigma)
            a, b = math.sin(math.pi / 2 * t), math.cos(math.pi / 2 * t)
            a_dot, b_dot = math.pi / 2 * b, -math.pi / 2 * a
        x, index = torch.randn(3, 3, 8, 8) * max(sigma, 0.5), [1, 3, 5]
        v = model(a * x, torch.full([3], t), torch.tensor(index))[:, :3]
        expected = (b_dot * a * x - b * v) / (a * b_dot - b * a_dot)
        found = network(x, torch.tensor(sigma), labels(index))
        assert relative_error(found, expected) < 1e-5


@torch.no_grad()
def test_a_repa_denoises_as_its_velocity_towards_noise(tmp_path):
    model = DiT()
    weights = model.state_dict() | {"projectors.0.0.weight": torch.ones(4, 16)}
    args = {"model": "SiT-S/2", "resolution": 8, "num_classes": 5, "proj_coeff": 0.5}
    file = training_file(weights, path_type="linear", **args) | {"steps": 100}
    torch.save(file, tmp_path / "0000100.pt")
    checkpoint = open_checkpoint(tmp_path / "0000100.pt", arch=HEADS)
    assert checkpoint.format == "REPA"
    assert checkpoint.provenance["beside_the_weights"]["steps"] == 100
    for sigma in SIGMAS:
        t = sigma / (1 + sigma)
        x, index = torch.randn(3, 3, 8, 8) * max(sigma, 0.5), [1, 3, 5]
        v = model((1 - t) * x, torch.full([3], t), torch.tensor(index))
        found = checkpoint.network(x, torch.tensor(sigma), labels(index))
        assert relative_error(found, (x - sigma * v) / (1 + sigma)) < 1e-5


@pytest.mark.slow
@torch.no_grad()
def test_the_network_is_the_dit_of_diffusers(tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
    plain = DiT(out_channels=6)
    theirs = as_diffusers(plain, diffusers)
    torch.save(plain.state_dict(), tmp_path / "DiT.pt")
    ours = open_checkpoint(tmp_path / "DiT.pt", arch=f"dit,{HEADS}").network.model
    x, index = torch.randn(3, 3, 8, 8), torch.tensor([0, 4, 5])
    for t in (0, 1, 10, 100, 500, 999):
        expected = theirs(x, torch.full([3], t), index).sample
        times = torch.full([3], float(t))
        assert relative_error(plain(x, times, index), expected) < 1e-5
        assert relative_error(ours(x, times, torch.eye(6)[index]), expected) < 1e-5


@torch.no_grad()
def test_a_training_file_says_what_it_is_and_is_converted(tmp_path):
    model = DiT(out_channels=6)
    args = {"model": "DiT-S/2", "image_size": 8, "num_classes": 5, "global_seed": 0}
    torch.save(training_file(model.state_dict(), **args), tmp_path / "0000100.pt")
    info = inspect_checkpoint(tmp_path / "0000100.pt", arch=HEADS)
    assert info.safe and info.problem is None and info.globals
    assert (info.network.format, info.network.preconditioning) == ("DiT", "DiscretePrecond")
    assert (info.network.architecture, info.network.label_dim) == ("DiT", 5)
    assert info.network.provenance["beside_the_weights"]["args"]["num_classes"] == 5
    assert "EMA" in info.network.provenance["weights"]
    facts = {fact.name: (fact.value, fact.origin) for fact in info.network.facts}
    assert facts["null_label"] == ("last", "file")
    assert facts["num_heads"] == (2, "user")
    native = convert_checkpoint(
        tmp_path / "0000100.pt", tmp_path / "native.safetensors", arch=HEADS
    )
    assert native.network.null_label == "last"


def test_the_weights_alone_do_not_say_how_they_were_trained(tmp_path):
    torch.save(DiT(out_channels=6).state_dict(), tmp_path / "DiT.pt")
    with pytest.raises(CheckpointError, match="do not show how it was trained. Name it .*dit, sit"):
        open_checkpoint(tmp_path / "DiT.pt")
    assert open_checkpoint(tmp_path / "DiT.pt", arch="sit").format == "SiT"
    with pytest.raises(ConfigError, match="network of dit has no option 'path'; its options are"):
        open_checkpoint(tmp_path / "DiT.pt", arch="dit,path=gvp")


def test_what_the_arguments_show_cannot_be_said_otherwise(tmp_path):
    weights = DiT().state_dict()
    torch.save(training_file(weights, path_type="Linear", num_classes=6), tmp_path / "1.pt")
    checkpoint = open_checkpoint(tmp_path / "1.pt")
    assert (checkpoint.network.label_dim, checkpoint.network.null_label) == (6, None)
    with pytest.raises(ConfigError, match="says repa, but the file shows sit"):
        open_checkpoint(tmp_path / "1.pt", arch="repa")
    with pytest.raises(ConfigError, match="null_label is last, but the file shows none"):
        open_checkpoint(tmp_path / "1.pt", arch="null_label=last")


@pytest.mark.parametrize(("width", "heads"), [(384, 6), (1152, 16), (128, 2), (16, 1)])
def test_heads_follow_from_the_width(width, heads):
    from memaudit.models.checkpoints.formats.dit import default_heads

    assert default_heads(width) == heads


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"path_type": "VP"}, "path 'VP'; memaudit knows linear and GVP"),
        ({"path_type": "Linear", "prediction": "score"}, "trained to predict 'score'"),
        ({"path_type": "Linear", "image_size": 64}, "denoises latents of 3 channels"),
        ({"path_type": "Linear", "resolution": 64}, "denoises latents of 3 channels"),
        ({"path_type": "Linear", "image_size": 16}, "image_size is 16, but .* 8x8"),
    ],
)
def test_arguments_of_another_kind_are_refused(tmp_path, args, message):
    torch.save(training_file(DiT().state_dict(), **args), tmp_path / "1.pt")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "1.pt", arch=HEADS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("blocks.1.attn.proj.bias"), "lacks the tensor 'model.blocks.1.attn"),
        (lambda w: w.update({"x.y": torch.ones(1)}), "holds the tensor 'model.x.y'"),
        (
            lambda w: w.update({"pos_embed": torch.ones(1, 15, 16)}),
            "height and width of its images",
        ),
        (lambda w: w.pop("pos_embed"), "lacks the tensor 'pos_embed'"),
        (lambda w: w.pop("x_embedder.proj.weight"), "lacks the tensor 'x_embedder.proj.weight'"),
        (lambda w: w.update({"final_layer.linear.weight": torch.ones(13, 16)}), "13 values per"),
        (lambda w: w.pop("blocks.0.mlp.fc1.weight"), "another kind, such as LightningDiT"),
        (lambda w: w["pos_embed"].fill_(math.inf), "256 of 256 values"),
        (
            lambda w: w.update({"x_embedder.proj.weight": torch.ones(16, 4, 2, 2)}),
            "latents of 4 channels",
        ),
        (
            lambda w: w.update({"y_embedder.embedding_table.weight": torch.ones(1, 16)}),
            "has 1 row; one more is needed",
        ),
        (
            lambda w: w.update({"pos_embed": torch.ones(1, 200**2, 1)}),
            "40,000 tokens; at most 4,096",
        ),
    ],
)
def test_what_is_not_one_is_refused_by_its_difference(tmp_path, change, message):
    weights = DiT().state_dict()
    change(weights)
    torch.save(weights, tmp_path / "dit.pt")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "dit.pt", arch=f"sit,{HEADS}")
