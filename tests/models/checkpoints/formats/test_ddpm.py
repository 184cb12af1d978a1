"""DDPM's port denoises as diffusers does with the same weights, which were converted from it."""

import re

import pytest
import torch
from helpers.formula_weights import formula_tensor

from memaudit.audit.augmentation import augmentation_of
from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints import convert_checkpoint, inspect_checkpoint, open_checkpoint
from memaudit.models.networks.ddpm import DDPMUNet

SIZE = {"model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "has_attention": [0, 1]}


def weights(seed=1, returned=3, **size):
    network = DDPMUNet(8, 3, returned, **{**SIZE, **size})
    return {
        name: formula_tensor(name, tensor.shape, seed)
        for name, tensor in network.state_dict().items()
    }


RENAMED = (
    (r"^time_embedding\.linear_1", "temb.dense.0"),
    (r"^time_embedding\.linear_2", "temb.dense.1"),
    (r"^conv_norm_out", "norm_out"),
    (r"^mid_block\.resnets\.0", "mid.block_1"),
    (r"^mid_block\.resnets\.1", "mid.block_2"),
    (r"^mid_block\.attentions\.0", "mid.attn_1"),
    (r"^down_blocks", "down"),
    ("resnets", "block"),
    ("attentions", "attn"),
    (r"downsamplers\.0", "downsample"),
    (r"upsamplers\.0", "upsample"),
    ("time_emb_proj", "temb_proj"),
    ("conv_shortcut", "nin_shortcut"),
    ("group_norm", "norm"),
    (r"to_out\.0", "proj_out"),
    (r"to_([qkv])", r"\1"),
)
"""Names of diffusers' UNet2DModel, and the port's."""


def ported(name: str, num_levels: int) -> str:
    for theirs, port in RENAMED:
        name = re.sub(theirs, port, name)
    return re.sub(r"^up_blocks\.(\d)", lambda m: f"up.{num_levels - 1 - int(m[1])}", name)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
@pytest.mark.parametrize("attention", [(0, 1, 0), (1, 0, 1)])
@torch.no_grad()
def test_denoised_images_are_those_of_diffusers(tmp_path, attention, schedule):
    diffusers = pytest.importorskip("diffusers", reason="needs the package diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64, 64),
        down_block_types=["AttnDownBlock2D" if has else "DownBlock2D" for has in attention],
        up_block_types=["AttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)],
        layers_per_block=2,
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
    ).eval()
    for parameter in unet.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    state = {}
    for theirs, tensor in unet.state_dict().items():
        name = ported(theirs, 3)
        is_pointwise = re.search(r"attn.*\.(q|k|v|proj_out)\.weight$", name)
        state[f"module.{name}"] = tensor[..., None, None] if is_pointwise else tensor
    torch.save(state, tmp_path / "ckpt.pth")
    checkpoint = open_checkpoint(
        tmp_path / "ckpt.pth", arch=f"img_resolution=16,schedule={schedule}"
    )
    alpha_bar = diffusers.DDPMScheduler(beta_schedule=schedule).alphas_cumprod
    for t in (0, 20, 250, 500, 750, 999):
        a, b = alpha_bar[t].sqrt(), (1 - alpha_bar[t]).sqrt()
        x_t = a * torch.rand(2, 3, 16, 16) + b * torch.randn(2, 3, 16, 16)
        D = (x_t - b * unet(x_t, t).sample) / a
        found = checkpoint.network(x_t / a, b / a)
        assert float((found - D).abs().max() / D.abs().max()) < 1e-5


@torch.no_grad()
def test_the_trainers_list_holds_the_average(tmp_path):
    online = {f"module.{name}": tensor for name, tensor in weights(2).items()}
    optimizer = {"state": {0: {"step": 3}}, "param_groups": [{"lr": 2e-4}]}
    torch.save([online, optimizer, 7, 3000, weights(1)], tmp_path / "ckpt.pth")
    torch.save(weights(1), tmp_path / "ema.pth")
    torch.save([online, optimizer, 7, 3000], tmp_path / "online.pth")
    arch = "img_resolution=8"
    average, alone, trained = (
        open_checkpoint(tmp_path / name, arch=arch)
        for name in ("ckpt.pth", "ema.pth", "online.pth")
    )
    x, sigma = torch.randn(1, 3, 8, 8), torch.tensor(1.0)
    assert torch.equal(average.network(x, sigma), alone.network(x, sigma))
    assert not torch.equal(average.network(x, sigma), trained.network(x, sigma))
    assert average.provenance["weights"] == "the moving average (EMA), under 'ema'"
    assert any("those of the network in training" in warning for warning in trained.warnings)
    native = convert_checkpoint(tmp_path / "ckpt.pth", tmp_path / "native.safetensors", arch=arch)
    assert torch.equal(native.network(x, sigma), average.network(x, sigma))


def test_what_is_assumed_is_said(tmp_path):
    torch.save(weights(returned=6, conv_resample=False), tmp_path / "ckpt.pth")
    info = inspect_checkpoint(tmp_path / "ckpt.pth", arch="img_resolution=8")
    assert info.network.config["learned_variance"] and not info.network.config["conv_resample"]
    assumed = info.network.warnings[1]
    assert "schedule = linear, num_steps = 1000, beta_start = 0.0001, beta_end = 0.02" in assumed
    said = augmentation_of(info.network.config, info.network.provenance)
    assert said.mirrored and said.is_assumed
    with pytest.raises(CheckpointError, match="does not say the height and width of its images"):
        open_checkpoint(tmp_path / "ckpt.pth")
    with pytest.raises(ConfigError, match="no option 'heads'"):
        open_checkpoint(tmp_path / "ckpt.pth", arch="heads=1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"conv_in.weight": torch.ones(30, 3, 3, 3)}), "norms of this family"),
        (lambda s: s.update({"conv_in.weight": torch.ones([])}), "has 0 channels"),
        (lambda s: s.pop("conv_in.weight"), "lacks the tensor 'conv_in.weight'"),
        (
            lambda s: s.update({"down.1.block.0.conv1.weight": torch.ones(48, 32, 3, 3)}),
            "multiples",
        ),
        (lambda s: s.pop("mid.attn_1.k.bias"), "lacks the tensor 'model.mid.attn_1.k.bias'"),
        (lambda s: s.update({"extra": torch.ones(1)}), "for which its configuration has no place"),
        (lambda s: [s.pop(n) for n in list(s) if n.startswith("down.")], "without its levels"),
        (
            lambda s: (
                [s.update({f"encoder.{n}": s.pop(n)}) for n in list(s) if "temb" not in n]
                and [s.pop(n) for n in list(s) if "temb" in n]
            ),
            "an autoencoder of latent diffusion",
        ),
    ],
)
def test_another_network_or_a_part_of_one_is_refused(tmp_path, change, message):
    state = weights()
    change(state)
    torch.save(state, tmp_path / "ckpt.pth")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "ckpt.pth", arch="img_resolution=8")
