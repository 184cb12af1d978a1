"""MONAI's DiffusionModelUNet denoises as MONAI computes it, in the range that it was trained on."""

import pytest
import torch
from helpers.formula_weights import formula_tensor

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints import convert_checkpoint, inspect_checkpoint, open_checkpoint
from memaudit.models.networks.monai import MONAIUNet

SIZED = "img_resolution=8,norm_num_groups=2"
PLAIN = {
    **{"channels": [4, 8], "blocks_per_level": [1, 1], "has_attention": [0, 1]},
    **{"head_channels": [1, 4], "norm_num_groups": 2},
}
CLASSES = {
    **{"channels": [4, 8], "blocks_per_level": [1, 2], "has_attention": [1, 0]},
    **{"head_channels": [2, 8], "norm_num_groups": 2, "label_dim": 3},
    **{"resblock_updown": True, "use_combined_linear": True},
}

# D for images in [0, 1] at time steps 30, 500 and 999, for x = linspace(0, 1) (1 + σ), every
# 21·C-th number: MONAI 1.6.1 with torch 2.15, DDPMScheduler of 1000 steps, weights as below.
GOLDEN = {
    "plain": (
        PLAIN,
        "num_head_channels=4",
        {
            0.11154648661613464: [-0.024144, 0.27951, 0.799564, 1.078852],
            3.442967414855957: [-0.918925, 1.114713, 3.99406, 4.219528],
            157.4072723388672: [-23.787443, -28.373837, 249.083511, 113.964874],
        },
    ),
    "classes, v, scaled_linear_beta": (
        CLASSES,
        "num_head_channels=2/8,target=v_prediction,schedule=scaled_linear_beta,"
        "beta_start=0.0015,beta_end=0.0195",
        {
            0.22707058489322662: [0.0037, 0.39747, 0.701531, 1.144344],
            2.77516770362854: [0.142867, 0.053948, 0.016544, 0.260368],
            83.82252502441406: [-0.139277, 0.031498, 0.167775, 0.395004],
        },
    ),
}


def weights(num_channels=1, **size):
    network = MONAIUNet(8, num_channels, num_channels, **(size or PLAIN))
    return {
        name: formula_tensor(name, tensor.shape, 1) for name, tensor in network.state_dict().items()
    }


@pytest.mark.parametrize("name", GOLDEN)
@torch.no_grad()
def test_denoised_images_are_those_of_monai(tmp_path, name):
    size, arch, expected = GOLDEN[name]
    C = 3 if "label_dim" in size else 1
    torch.save(weights(C, **size), tmp_path / "unet.pth")
    network = open_checkpoint(tmp_path / "unet.pth", arch=f"{SIZED},{arch}").network
    labels = torch.eye(3)[2:] if network.label_dim else None
    for sigma, values in expected.items():
        x = torch.linspace(0, 1, C * 64).reshape(1, C, 8, 8) * (1 + sigma)
        D = (network(2 * x - 1, torch.tensor(2 * sigma), labels) + 1) / 2
        found, truth = D.flatten()[:: C * 21], torch.tensor(values)
        assert float((found - truth).abs().max() / truth.abs().max()) < 1e-5


def test_what_is_assumed_is_said(tmp_path):
    torch.save(weights(), tmp_path / "unet.pth")
    info = inspect_checkpoint(tmp_path / "unet.pth", arch=f"{SIZED},num_head_channels=4")
    (said, assumed) = info.network.warnings
    assert "img_resolution = 8, num_head_channels = 4, norm_num_groups = 2" in said
    assert "data_range = 0..1" in assumed and "schedule = linear_beta" in assumed
    assert info.network.sigma_min == pytest.approx(0.02, rel=1e-3)  # twice that of [0, 1]


def test_a_converted_file_denoises_to_the_same_bits(tmp_path):
    torch.save({"model": weights(), "ema": weights()}, tmp_path / "checkpoint.pt")
    arch = f"{SIZED},num_head_channels=4,schedule=sigmoid_beta"
    found = open_checkpoint(tmp_path / "checkpoint.pt", arch=arch)
    assert found.provenance["weights"] == "the moving average (EMA), under 'ema'"
    native = convert_checkpoint(
        tmp_path / "checkpoint.pt", tmp_path / "native.safetensors", arch=arch
    )
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 9.0])
    assert torch.equal(native.network(x, sigma), found.network(x, sigma))


@torch.no_grad()
def test_files_of_generative_models_open_by_their_older_names(tmp_path):
    new = weights()
    old = {
        name.replace(".attn.out_proj.", ".proj_attn.")
        .replace(".attn.", ".")
        .replace("upsampler.postconv", "upsampler.conv"): tensor
        for name, tensor in new.items()
    }
    assert old.keys() != new.keys()
    x, sigma = torch.randn(1, 1, 8, 8), torch.tensor(1.0)
    outputs = []
    for state in (new, old):
        torch.save(state, tmp_path / "unet.pth")
        arch = f"{SIZED},num_head_channels=4"
        outputs.append(open_checkpoint(tmp_path / "unet.pth", arch=arch).network(x, sigma))
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.update({"conv_in.conv.weight": torch.ones(4, 1, 3, 3, 3)}),
            "with 3 spatial dimensions",
        ),
        (
            lambda s: s.update(
                {"down_blocks.1.attentions.0.transformer_blocks.0.x": s["out.0.bias"]}
            ),
            "with cross-attention",
        ),
        (lambda s: s.pop("down_blocks.0.resnets.0.conv1.conv.weight"), "lacks the tensor 'down"),
        (lambda s: s.pop("middle_block.resnet_2.norm1.bias"), "lacks the tensor .*resnet_2.norm1"),
        (lambda s: s.update({"class_embedding.weight": torch.ones(3, 5)}), "is .* in the file"),
        (lambda s: s.update({"extra": torch.ones(1)}), "for which its configuration has no place"),
        (
            lambda s: [s.pop(name) for name in list(s) if name.startswith("down_blocks")],
            "without down_blocks",
        ),
    ],
)
def test_another_network_or_a_part_of_one_is_refused(tmp_path, change, message):
    state = weights()
    change(state)
    torch.save(state, tmp_path / "unet.pth")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "unet.pth", arch=f"{SIZED},num_head_channels=4")


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("img_resolution=8", "4 channels, which must be a multiple of 32|divisible by num_groups"),
        (f"{SIZED},num_head_channels=3", "into which 8 channels do not split"),
        (f"{SIZED},num_head_channels=1/2/3", "one for each of the 2 levels, such as 4/8"),
        (f"{SIZED},num_head_channels=x", "num_head_channels is 'x'; a number is needed"),
        (f"{SIZED},schedule=linear", "schedule must be one of linear_beta, scaled_linear_beta"),
    ],
)
def test_an_option_that_cannot_be_is_refused(tmp_path, arch, message):
    torch.save(weights(), tmp_path / "unet.pth")
    with pytest.raises((ConfigError, CheckpointError), match=message):
        open_checkpoint(tmp_path / "unet.pth", arch=arch)


VARIANTS = [
    {"channels": (8, 16, 16), "num_res_blocks": 1, "attention_levels": (False, True, True)},
    {
        **{"channels": (8, 16, 12), "num_res_blocks": (1, 2, 1), "num_class_embeds": 3},
        **{"attention_levels": (True, False, True), "num_head_channels": (8, 4, 6)},
        **{"resblock_updown": True, "use_combined_linear": True},
    },
    {"channels": (8, 16), "num_res_blocks": 1, "attention_levels": (0, 1), "include_fc": False},
]


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize(
    "schedule", ["linear_beta", "scaled_linear_beta", "sigmoid_beta", "cosine"]
)
@pytest.mark.parametrize("target", ["epsilon", "sample", "v_prediction"])
@torch.no_grad()
def test_monais_own_network_and_scheduler(tmp_path, options, schedule, target):
    nets = pytest.importorskip("monai.networks.nets", reason="needs the package monai")
    schedulers = pytest.importorskip("monai.networks.schedulers")
    torch.manual_seed(0)
    options = {"num_head_channels": 4, **options}
    unet = nets.DiffusionModelUNet(
        spatial_dims=2, in_channels=1, out_channels=1, norm_num_groups=4, **options
    ).eval()
    for parameter in unet.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    torch.save(unet.state_dict(), tmp_path / "unet.pth")
    heads = options["num_head_channels"]
    heads = str(heads) if isinstance(heads, int) else "/".join(map(str, heads))
    network = open_checkpoint(
        tmp_path / "unet.pth",
        arch=f"img_resolution=16,norm_num_groups=4,num_head_channels={heads},"
        f"schedule={schedule},target={target}",
    ).network
    classes = torch.tensor([0, 2]) if network.label_dim else None
    labels = torch.eye(3)[classes] if network.label_dim else None
    alpha_bar = schedulers.DDPMScheduler(1000, schedule=schedule).alphas_cumprod
    for t in (0, 30, 250, 500, 750, 950):
        a, b = alpha_bar[t].sqrt(), (1 - alpha_bar[t]).sqrt()
        x_t = a * torch.rand(2, 1, 16, 16) + b * torch.randn(2, 1, 16, 16)
        F = unet(x_t, torch.tensor([t, t]), class_labels=classes)
        D = {"epsilon": (x_t - b * F) / a, "sample": F, "v_prediction": a * x_t - b * F}[target]
        sigma = b / a
        found = (network(2 * x_t / a - 1, 2 * sigma, labels) + 1) / 2
        assert float((found - D).abs().max() / D.abs().max()) < 1e-5
