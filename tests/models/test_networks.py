"""The U-Nets against the published implementations' numbers, and what training relies on."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.formula_weights import formula_tensor, set_formula_weights, uniform
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from memaudit.models.build import build_network
from memaudit.models.networks.layers import (
    FourierEmbedding,
    PositionalEmbedding,
    attention,
    drop_labels,
)
from memaudit.models.precision import in_format
from memaudit.models.precond import Preconditioner

NETS = [f"{a}_{p}" for a in ("ddpmpp", "ncsnpp", "adm") for p in ("vp", "ve", "iddpm", "edm")]
VARIANTS = {"cond_aug": (), "cond": ("aug",), "uncond_aug": ("label",), "uncond": ("label", "aug")}
FORMULA_NETS = [
    *(
        f"song_{encoder}_{decoder}_{taps}"
        for encoder in ("standard", "skip", "residual")
        for decoder in ("standard", "skip")
        for taps in ("11", "1331")
    ),
    *("song_defaults", "song_emb_mult", "song_fp16_flag"),
    *("song_sigma_data", "song_vp_consts", "song_iddpm_consts"),
    *("adm_defaults_small", "adm_two_heads", "adm_four_levels"),
]
TINY: dict[str, dict[str, Any]] = {
    "ddpmpp": {
        "class_name": "VPPrecond",
        "model_type": "SongUNet",
    },
    "ncsnpp": {
        "class_name": "VEPrecond",
        "model_type": "SongUNet",
        "embedding_type": "fourier",
        "encoder_type": "residual",
        "channel_mult_noise": 2,
        "resample_filter": [1, 3, 3, 1],
    },
    "adm": {"class_name": "EDMPrecond", "model_type": "DhariwalUNet"},
    "edm2": {"class_name": "Precond", "channels_per_head": 16},
}


def tiny(name: str, **options: Any) -> Preconditioner:
    config = {
        "img_resolution": 8,
        "img_channels": 3,
        "label_dim": 10,
        "model_channels": 64 if name == "adm" else 16,  # 64 is ADM's first number with a head
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [4],
    }
    torch.manual_seed(0)
    return build_network(config | TINY[name] | options)


def batch() -> list[Tensor]:
    """Noisy images, noise levels and labels for a tiny network."""
    return [torch.randn(2, 3, 8, 8), torch.tensor([0.7, 2.0]), torch.eye(10)[:2]]


def relative_error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return float((ours - reference).abs().max() / reference.abs().max())


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


@torch.no_grad()
def denoise(
    network: Preconditioner,
    x: Tensor,
    sigma: Tensor,
    class_labels: Tensor | None = None,
    augment_labels: Tensor | None = None,
) -> Tensor:
    """[levels, B, C, H, W] at the noise levels [levels]."""
    inputs = {} if augment_labels is None else {"augment_labels": augment_labels}
    return torch.stack(
        [network(x_, s, class_labels, **inputs) for x_, s in zip(x, sigma, strict=True)]
    )


def check_formula_network(path: Path, name: str) -> Preconditioner:
    """Build the network that `name` describes in the reference file, and compare its outputs."""
    about, tensors = json.loads(metadata(path)[name]), load_file(path)
    network = build_network(about["config"]).eval()
    assert sum(p.numel() for p in network.parameters()) == about["params"]
    if "state_dict" in about:
        shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
        assert list(shapes.items()) == list(about["state_dict"].items())
    set_formula_weights(network, about["weight_seed"])
    out = denoise(
        network,
        tensors[f"{name}.x"],
        tensors[f"{name}.sigma"],
        tensors.get(f"{name}.class_labels"),
        tensors.get(f"{name}.augment_labels"),
    )
    assert relative_error(out, tensors[f"{name}.out"]) < 2e-5
    return network


def test_formula_weights_are_those_of_the_references(golden: Path):
    first = [0.18481320142745972, -0.11490553617477417, 0.016391098499298096, -0.7066791653633118]
    assert uniform("model.enc.8x8_conv.weight", 4, seed=1).tolist() == first
    path = golden / "nets" / "ncsnpp_edm.safetensors"
    seed = int(metadata(path)["weight_seed"])
    for key, tensor in load_file(path).items():
        name = key.removeprefix("sd.")
        if name != key and not name.endswith("resample_filter"):
            assert torch.equal(tensor, formula_tensor(name, tensor.shape, seed)), name


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_network_gives_the_published_denoised_images(golden: Path, net: str, variant: str):
    path = golden / "nets" / f"{net}.safetensors"
    config, tensors = json.loads(metadata(path)["config"]), load_file(path)
    without = VARIANTS[variant]
    state = {key.removeprefix("sd."): t for key, t in tensors.items() if key.startswith("sd.")}
    if "label" in without:
        config["label_dim"] = 0
        state = {key: t for key, t in state.items() if "map_label" not in key}
    if "aug" in without:
        del config["augment_dim"]
        state = {key: t for key, t in state.items() if "map_augment" not in key}
    network = build_network(config).eval()
    network.load_state_dict(state)

    x, sigma = tensors["in.x"], tensors["in.sigma"]
    labels = None if "label" in without else tensors["in.class_labels"]
    augment = None if "aug" in without else tensors["in.augment_labels"]
    outputs = {
        "": denoise(network, x, sigma, labels, augment),
        "_persample": denoise(
            network, x[1:2], tensors["in.sigma_persample"][None], labels, augment
        )[0],
    }
    if labels is not None:
        outputs["_nolabel"] = denoise(network, x, sigma, None, augment)
    if augment is not None:
        outputs["_noaug"] = denoise(network, x, sigma, labels, None)
    # Fourier features of labels up to 999 turn by 2π·16 radians per unit of the label, whose last
    # bit is 6e-5 there and depends on the reference's processor.
    tolerance = 5e-4 if net == "ncsnpp_vp" else 2e-5
    for suffix, out in outputs.items():
        assert relative_error(out, tensors[f"out.{variant}{suffix}"]) < tolerance, suffix


@pytest.mark.parametrize("net", NETS)
def test_unet_agrees_with_the_reference_on_its_own_noise_label(golden: Path, net: str):
    path = golden / "nets" / f"{net}.safetensors"
    tensors = load_file(path)
    network = build_network(json.loads(metadata(path)["config"])).eval()
    network.load_state_dict(
        {key.removeprefix("sd."): t for key, t in tensors.items() if key.startswith("sd.")}
    )
    with torch.no_grad():
        F_x = network.model(
            tensors["raw.x_in"],
            tensors["raw.noise_labels"],
            class_labels=tensors["in.class_labels"],
            augment_labels=tensors["in.augment_labels"],
        )
    assert relative_error(F_x, tensors["raw.F"]) < 2e-5


@pytest.mark.parametrize("name", FORMULA_NETS)
def test_every_option_agrees_with_the_reference(golden: Path, name: str):
    check_formula_network(golden / "formula_nets.safetensors", name)


def test_no_reference_network_is_left_out(golden: Path):
    assert sorted(FORMULA_NETS) == sorted(metadata(golden / "formula_nets.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cifar10_uncond_vp", "cifar10_cond_ve", "ffhq64_uncond_vp", "imagenet64_cond_adm"]
)
def test_networks_of_published_size_agree_with_the_reference(golden: Path, name: str):
    check_formula_network(golden / "full_size.safetensors", name)


@pytest.mark.parametrize("name", ["edm2_uncond", "edm2_cond"])
def test_edm2_agrees_with_the_reference(golden: Path, name: str):
    network = check_formula_network(golden / "edm2_nets.safetensors", name)
    tensors = load_file(golden / "edm2_nets.safetensors")
    with torch.no_grad():
        logvar = network.logvar(tensors[f"{name}.sigma"])
    assert relative_error(logvar, tensors[f"{name}.logvar"].flatten()) < 2e-5


@pytest.mark.parametrize("name", ["ddpmpp", "ncsnpp"])
def test_skip_masks_agree_with_the_paper(golden: Path, name: str):
    path = golden / "skip_ablation.safetensors"
    about, tensors = json.loads(metadata(path)[name]), load_file(path)
    for mask, reference in zip(tensors["masks"], tensors[f"{name}.out"], strict=True):
        network = build_network(about["config"] | {"skip_connections": mask.tolist()}).eval()
        set_formula_weights(network, about["weight_seed"])
        out = denoise(network, tensors[f"{name}.x"], tensors[f"{name}.sigma"])
        assert relative_error(out, reference) < 2e-5, mask.tolist()


@pytest.mark.parametrize("name", ["ddpmpp", "ncsnpp"])
def test_keeping_all_skips_changes_no_bit(name: str):
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor(0.7)
    plain, masked = tiny(name).eval(), tiny(name, skip_connections=[1, 1, 1, 1]).eval()
    assert torch.equal(plain(x, sigma), masked(x, sigma))


@pytest.mark.parametrize("channels", [16, 32, 128, 192, 256])
@pytest.mark.parametrize("endpoint", [True, False])
def test_positional_embedding_agrees_with_the_reference(
    golden: Path, channels: int, endpoint: bool
):
    tensors = load_file(golden / "embeddings.safetensors")
    ours = PositionalEmbedding(channels, endpoint=endpoint)(tensors["noise_labels"])
    reference = tensors[f"positional.{channels}.{'endpoint' if endpoint else 'plain'}"]
    assert (ours - reference).abs().max() < 1e-4


@pytest.mark.parametrize("channels", [16, 256])
def test_fourier_embedding_agrees_with_the_reference(golden: Path, channels: int):
    tensors = load_file(golden / "embeddings.safetensors")
    embedding = FourierEmbedding(channels)
    embedding.freqs.copy_(tensors[f"fourier.{channels}.freqs"])
    labels = tensors["noise_labels"]
    error = (embedding(labels) - tensors[f"fourier.{channels}"]).abs().amax(dim=1)
    assert (error < torch.where(labels.abs() < 5, 5e-5, 1e-2)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_takes_its_softmax_in_float32(dtype: torch.dtype):
    """Against float64 on the same rounded inputs, with logits up to 100 where half would be off."""
    B, heads, c, H, W = 2, 3, 8, 4, 5
    qkv = (torch.randn(B, 3 * heads * c, H, W, generator=torch.manual_seed(0)) * 6).to(dtype)
    q, k, v = qkv.double().reshape(B, heads, c, 3, H * W).unbind(3)
    weights = torch.einsum("nhcq,nhck->nhqk", q, k / math.sqrt(c)).softmax(dim=3)
    exact = torch.einsum("nhqk,nhck->nhcq", weights, v).reshape(B, -1, H, W)
    assert relative_error(attention(qkv, heads).double(), exact) < 3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", TINY)
def test_new_network_predicts_nothing_yet(name: str):
    """The last layer starts at (nearly) zero, so D(x) is c_skip x for every x."""
    network = tiny(name).eval()
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.5, 3.0])
    out = denoise(network, x[None], sigma[None], torch.eye(10)[:2])[0]
    c_skip = network.scalings(sigma).c_skip[:, None, None, None]
    assert (out - c_skip * x).abs().max() < 1e-3


@pytest.mark.parametrize("name", TINY)
def test_gradient_reaches_every_parameter(name: str):
    edm2 = name == "edm2"
    network = tiny(name) if edm2 else tiny(name, augment_dim=9)
    if name in ("adm", "edm2"):  # their zeros stop most gradients in the first step
        set_formula_weights(network, seed=1)
    inputs = {} if edm2 else {"augment_labels": torch.randn(2, 9)}
    sigma = torch.tensor([0.5, 3.0])
    loss = network(torch.randn(2, 3, 8, 8), sigma, torch.eye(10)[:2], **inputs).square().sum()
    if edm2:
        loss = loss + network.logvar(sigma).sum()
    loss.backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_ddpmpp_weights_start_as_the_paper_draws_them():
    network = tiny("ddpmpp", model_channels=64).requires_grad_(False)
    block = network.model.enc["4x4_block0"]
    fan_sum = 9 * (64 + 128)
    assert block.conv0.weight.std() == pytest.approx(math.sqrt(2 / fan_sum), rel=0.02)
    assert block.conv0.weight.abs().max() <= math.sqrt(6 / fan_sum)
    assert block.conv1.weight.abs().max() <= 1e-5 * math.sqrt(6 / (9 * 256))
    # q, k and v each: variance 0.1 / channels.
    assert block.qkv.weight.std() == pytest.approx(math.sqrt(0.1 / 128), rel=0.02)
    assert not any(p.any() for n, p in network.named_parameters() if n.endswith("conv0.bias"))


def test_adm_weights_start_as_the_paper_draws_them():
    network = tiny("adm").requires_grad_(False)
    block = network.model.enc["4x4_block0"]
    for parameter in (block.conv0.weight, block.conv0.bias):
        assert parameter.std() == pytest.approx(math.sqrt(1 / 3 / (9 * 64)), rel=0.15)
        assert parameter.abs().max() <= math.sqrt(1 / (9 * 64))
    for layer in (block.conv1, block.proj, network.model.out_conv):
        assert not layer.weight.any() and not layer.bias.any()
    assert network.model.map_label.weight.std() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("name", TINY)
def test_features_are_dropped_in_training_only(name: str):
    network = tiny(name, dropout=0.5)
    set_formula_weights(network, seed=1)
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor(0.7)
    assert not torch.equal(network(x, sigma), network(x, sigma))
    network.eval()
    assert torch.equal(network(x, sigma), network(x, sigma))


@pytest.mark.parametrize("name", ["ddpmpp", "adm"])
def test_labels_are_dropped_in_training_only(name: str):
    network = tiny(name, dropout=0.0, label_dropout=1.0)
    set_formula_weights(network, seed=1)
    x, sigma, labels = torch.randn(2, 3, 8, 8), torch.tensor(0.7), torch.eye(10)[3:4]
    assert torch.equal(network(x, sigma, labels), network(x, sigma))
    network.eval()
    assert not torch.equal(network(x, sigma, labels), network(x, sigma))


def test_labels_are_dropped_image_by_image():
    dropped = drop_labels(torch.eye(10)[:1], 0.25, batch_size=4000)
    assert dropped.shape == (4000, 10)
    assert dropped[:, 0].mean() == pytest.approx(0.75, abs=4 * math.sqrt(0.25 * 0.75 / 4000))


def test_edm2_normalizes_its_weights_in_training_only():
    network = tiny("edm2")
    set_formula_weights(network, seed=1)
    weight = network.unet.enc["8x8_block0"].conv_res0.weight
    before = weight.detach().clone()
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor(0.7)
    network.eval()(x, sigma)
    assert torch.equal(weight, before)
    network.train()(x, sigma)
    rms = weight.detach().square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(rms, torch.ones(16), rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", TINY)
def test_channels_last_keeps_the_result(name: str):
    network, inputs = tiny(name).eval(), batch()
    set_formula_weights(network, seed=1)
    with torch.no_grad():
        plain = network(*inputs)
        network.to(memory_format=torch.channels_last)
        channels_last = network(inputs[0].to(memory_format=torch.channels_last), *inputs[1:])
    assert relative_error(channels_last, plain) < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_network_compiles_in_one_piece(name: str):
    network, inputs = tiny(name).eval(), batch()
    set_formula_weights(network, seed=1)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert relative_error(compiled(*inputs), network(*inputs)) < 2e-5


@pytest.mark.gpu
@pytest.mark.parametrize("name", TINY)
def test_half_precision_on_cuda_is_close_and_only_where_asked_for(name: str):
    network, inputs = tiny(name, use_fp16=True).eval(), batch()
    set_formula_weights(network, seed=1)
    with torch.no_grad():
        plain = network(*inputs)
        network, inputs = network.cuda(), [tensor.cuda() for tensor in inputs]
        half = in_format(network, "fp16")(*inputs).cpu()
        full = network(*inputs).cpu()
    assert 1e-5 < relative_error(half, plain) < 2e-2
    assert relative_error(full, plain) < 2e-3  # TF32 convolutions


@pytest.mark.parametrize("name", TINY)
def test_a_network_for_images_that_are_not_square_is_the_same_turned(name: str):
    """With kernels transposed, images transposed are denoised to the same, transposed."""
    wide, high = tiny(name, img_resolution=[8, 12]), tiny(name, img_resolution=(12, 8))
    assert (wide.img_resolution, high.img_resolution) == ((8, 12), (12, 8))
    set_formula_weights(wide, seed=1)
    wide.eval(), high.eval()
    assert all(("8x12" in key) or ("4x6" in key) for key in wide.state_dict() if ".enc." in key)
    turned = {}
    for key, value in wide.state_dict().items():
        key = key.replace("8x12", "12x8").replace("4x6", "6x4")
        turned[key] = value.transpose(2, 3) if value.ndim == 4 else value
    high.load_state_dict(turned)
    _, sigma, labels = batch()
    x = torch.randn(2, 3, 8, 12)
    with torch.no_grad():
        expected = wide(x, sigma, labels)
        found = high(x.transpose(2, 3), sigma, labels).transpose(2, 3)
    assert relative_error(found, expected) < 1e-5
    assert relative_error(expected, x) > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_resolution": [8, 6], "channel_mult": [1, 2, 2]}, "8x6 .* each side must be .* 4"),
        ({"img_resolution": 6, "channel_mult": [1, 2, 2]}, "img_resolution 6 cannot be halved"),
        ({"model_channels": 6}, "18 channels do not split into equal groups"),
        ({"encoder_type": "unet"}, "encoder_type must be one of standard, skip, residual; got"),
        ({"resample_filter": [1, 2, 1]}, "resample_filter needs an even number of taps"),
        ({"skip_connections": [1, 1]}, r"must be 4 zeros or ones .* got \[1, 1\]"),
        ({"skip_connections": [1, 1, 1, 2]}, "at least 0 and at most 1, got the entry 2"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], message: str):
    with pytest.raises(Exception, match=message):
        tiny("ddpmpp", **options)
