"""Checkpoints of score_sde_pytorch denoise as a plain restatement of its networks does."""

import math

import pytest
import torch
from helpers.score_sde_unet import NCSNpp, checkpoint
from torch import nn

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.build import build_network
from memaudit.models.checkpoints import convert_checkpoint, inspect_checkpoint, open_checkpoint

SIGMAS = [0.02, 0.1, 0.5, 2.0, 10.0, 80.0]
SIZE = {"size": 8, "nf": 16, "mult": [1, 2], "num_blocks": 1, "attention": [4]}
NETWORKS = {
    "ddpm++": {},
    "ncsn++": {"fourier": True, "fir": True, "progressive_input": "residual", "centered": False},
    "ncsn++ with skips": {
        **{"fourier": True, "fir": True, "centered": False},
        **{"progressive_input": "input_skip", "progressive": "output_skip"},
    },
    "deep, attention in two levels": {"num_blocks": 2, "attention": [8, 4], "mult": [2, 2]},
    "grayscale with fir": {"fir": True, "channels": 1, "progressive_input": "residual"},
}


def saved(path, name: str = "ddpm++") -> NCSNpp:
    """A checkpoint of a network, and the network of its moving average."""
    torch.manual_seed(0)
    model = NCSNpp(**(SIZE | NETWORKS[name]))
    file, average = checkpoint(model)
    torch.save(file, path)
    model.load_state_dict(average)
    return model.eval()


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def denoised(model: NCSNpp, x: torch.Tensor, sigma: float, sde: str = "vp") -> torch.Tensor:
    """x + σ²·score, with the score as score_sde_pytorch takes it from the network."""
    if sde == "ve":  # of images in [0, 1]
        score = model((x + 1) / 2, torch.full([len(x)], sigma / 2))
        return 2 * ((x + 1) / 2 + (sigma / 2) ** 2 * score) - 1
    low, high = 0.0, 1.0
    for _ in range(60):
        t = (low + high) / 2
        log_mean = -0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1
        variance = 1 - math.exp(2 * log_mean)
        std = math.sqrt(variance) if sde == "vp" else variance
        mean = math.exp(log_mean)
        low, high = (t, high) if std / mean < sigma else (low, t)
    score = -model(mean * x, torch.full([len(x)], 999 * t)) / std
    return (mean * x + std**2 * score) / mean


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_checkpoint_denoises_as_its_average(tmp_path, name):
    model = saved(tmp_path / "checkpoint_7.pth", name)
    network = open_checkpoint(tmp_path / "checkpoint_7.pth", arch="img_resolution=8").network
    for sigma in SIGMAS:
        x = torch.randn(2, network.img_channels, 8, 8) * max(sigma, 0.5)
        expected = denoised(model, x, sigma, "ve" if model.fourier else "vp")
        assert relative_error(network(x, torch.tensor(sigma)), expected) < 1e-5


@torch.no_grad()
def test_sub_vp_is_named_by_the_user(tmp_path):
    model = saved(tmp_path / "checkpoint_7.pth")
    network = open_checkpoint(
        tmp_path / "checkpoint_7.pth", arch="img_resolution=8,sde=subvp"
    ).network
    for sigma in SIGMAS:
        x = torch.randn(2, 3, 8, 8) * max(sigma, 0.5)
        expected = denoised(model, x, sigma, "subvp")
        assert relative_error(network(x, torch.tensor(sigma)), expected) < 1e-5


@torch.no_grad()
def test_vp_at_discrete_times_is_ddpm(tmp_path):
    model = saved(tmp_path / "checkpoint_7.pth")
    arch = "img_resolution=8,sde=vp-discrete"
    network = open_checkpoint(tmp_path / "checkpoint_7.pth", arch=arch).network
    betas = torch.linspace(0.1 / 1000, 20 / 1000, 1000, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    for t in (0, 20, 300, 700, 900, 999):
        sigma = float((1 / alpha_bar[t] - 1).sqrt())
        x = torch.randn(2, 3, 8, 8) * max(sigma, 0.5)
        eps = model(x / math.sqrt(1 + sigma**2), torch.full([2], float(t)))
        assert relative_error(network(x, sigma), x - sigma * eps) < 1e-5


@torch.no_grad()
def test_images_in_0_1_are_centered_by_the_network(tmp_path):
    model = saved(tmp_path / "checkpoint_7.pth")
    network = open_checkpoint(
        tmp_path / "checkpoint_7.pth", arch="img_resolution=8,data_range=0..1"
    ).network
    model.centered = False
    for sigma in SIGMAS:
        x = torch.randn(2, 3, 8, 8) * max(sigma, 0.5)
        expected = 2 * denoised(model, (x + 1) / 2, sigma / 2) - 1
        assert relative_error(network(x, sigma), expected) < 1e-5


def test_it_says_what_it_holds_and_what_was_assumed(tmp_path):
    saved(tmp_path / "checkpoint_7.pth", "ncsn++")
    info = inspect_checkpoint(tmp_path / "checkpoint_7.pth")
    assert info.safe and info.problem is None
    assert info.network.format == "score_sde_pytorch"
    assert (info.network.preconditioning, info.network.architecture) == ("SDEPrecond", "SongUNet")
    # Attention at 16x16 is assumed.
    assert (info.network.img_resolution, info.network.img_channels) == (32, 3)
    assert (info.network.sigma_min, info.network.sigma_max) == (0.02, 100)
    assert info.network.provenance["beside_the_weights"] == {"step": 7}
    facts = {fact.name: (fact.value, fact.origin) for fact in info.network.facts}
    assert facts == {
        "sde": ("ve", "file"),
        "data_range": ("0..1", "default"),
        "img_resolution": (32, "default"),
        "fir": (True, "file"),
    }


@torch.no_grad()
def test_it_is_converted_to_a_native_file(tmp_path):
    saved(tmp_path / "checkpoint_7.pth", "ncsn++ with skips")
    native = convert_checkpoint(
        tmp_path / "checkpoint_7.pth", tmp_path / "native.safetensors", arch="img_resolution=8"
    )
    assert native.config["encoder_type"] == native.config["decoder_type"] == "skip"


@torch.no_grad()
def test_a_song_unet_in_their_names_comes_back(tmp_path):
    """Round trip of the network that other tests compare with published numbers."""
    from memaudit.models.checkpoints.all_modules import BLOCK, places_in

    torch.manual_seed(0)
    ours = build_network(
        {"class_name": "VPPrecond", "img_resolution": 8, "img_channels": 3, "model_channels": 16}
        | {"channel_mult": [1, 2, 2], "num_blocks": 2, "attn_resolutions": [4], "dropout": 0}
    ).eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.2)
    unet, weights = ours.model, {}
    for index, (kind, place) in enumerate(places_in(unet)):
        module, start = unet.get_submodule(place), f"module.all_modules.{index}"
        if kind == "attention":
            C = module.out_channels
            q_k_v = module.qkv.weight.reshape(C, 3, C), module.qkv.bias.reshape(C, 3)
            for i in range(3):
                weights[f"{start}.NIN_{i}.W"] = q_k_v[0][:, i].T
                weights[f"{start}.NIN_{i}.b"] = q_k_v[1][:, i]
            weights[f"{start}.NIN_3.W"] = module.proj.weight[:, :, 0, 0].T
            weights[f"{start}.NIN_3.b"] = module.proj.bias
            names = {"norm2": "GroupNorm_0"}
        elif kind == "block":
            names = dict(BLOCK) | ({} if module.skip is None else {"skip": "Conv_2"})
        else:
            names = {"": ""}
        for our, their in names.items():
            for part, tensor in module.get_submodule(our).named_parameters():
                weights[f"{start}.{their}.{part}".replace("..", ".")] = tensor
    torch.save({name: tensor.detach().clone() for name, tensor in weights.items()}, tmp_path / "m")
    found = open_checkpoint(tmp_path / "m", arch="img_resolution=8").network
    x = torch.randn(2, 3, 8, 8)
    for sigma in SIGMAS:
        assert relative_error(found(x, sigma), ours(x, sigma)) < 1e-5


def shortened(file):
    file["ema"]["shadow_params"].pop()


def without(part: str):
    def change(file):
        del file["ema"]
        file["model"] = {name: t for name, t in file["model"].items() if part not in name}

    return change


def renamed(old: str, new: str):
    def change(file):
        del file["ema"]
        file["model"] = {name.replace(old, new): t for name, t in file["model"].items()}

    return change


def with_weight(name: str, tensor: torch.Tensor):
    def change(file):
        del file["ema"]
        file["model"][f"module.{name}"] = tensor

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shortened, "shadow_params. has 153 tensors, but its network 154"),
        (without("NIN_2"), "lacks the tensor 'all_modules.6.NIN_2.W'"),
        (without(".all_modules.5."), "entries without weights.*resblock_type `ddpm`"),
        (renamed("Conv_2", "NIN_0"), "not a part of DDPM"),
        (renamed("all_modules.1.", "all_modules.99."), "entries without weights"),
        (with_weight("logit.weight", torch.ones(2)), "'logit.weight', which no U-Net of score_sde"),
        (with_weight("all_modules.2.weight", torch.ones(16)), "does not begin with"),
        (with_weight("all_modules.2.weight", torch.ones(0, 3, 3, 3)), "the middle|no middle"),
        (with_weight("all_modules.3.Conv_0.weight", torch.ones(2)), "entry 3"),
        (with_weight("all_modules.4.extra", torch.ones(2)), "'4.extra' of all_modules, for which"),
        (
            with_weight("all_modules.0.weight", torch.full([64, 16], math.inf)),
            "1,024 of 1,024 values",
        ),
    ],
)
def test_what_is_not_one_is_refused_by_its_difference(tmp_path, change, message):
    torch.manual_seed(0)
    file, _ = checkpoint(NCSNpp(**SIZE))
    change(file)
    torch.save(file, tmp_path / "checkpoint_7.pth")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "checkpoint_7.pth", arch="img_resolution=8")


def test_options_are_checked(tmp_path):
    saved(tmp_path / "ddpm.pth")
    saved(tmp_path / "ncsn.pth", "ncsn++")
    with pytest.raises(ConfigError, match="the SDE is ve, but the noise level is embedded by"):
        open_checkpoint(tmp_path / "ddpm.pth", arch="sde=ve")
    with pytest.raises(ConfigError, match="sde is vp, but the file shows ve"):
        open_checkpoint(tmp_path / "ncsn.pth", arch="sde=vp")
    with pytest.raises(CheckpointError, match="img_resolution 9 cannot be halved"):
        open_checkpoint(tmp_path / "ddpm.pth", arch="img_resolution=9")
