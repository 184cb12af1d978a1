"""OpenAI's state dicts denoise as a plain restatement of ADM does."""

import pytest
import torch
from helpers.openai_unet import UNetModel

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints import convert_checkpoint, open_checkpoint
from memaudit.models.precond import iDDPMPrecond

SIZE = {
    "model_channels": 128,
    "channel_mult": [1, 2],
    "num_blocks": 1,
}
CONFIG = {
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 5,
    "model_type": "DhariwalUNet",
    "attn_resolutions": [4],
    **SIZE,
}
EDM = {**CONFIG, "class_name": "ConsistencyPrecond", "sigma_min": 0.002, "sigma_max": 80.0}
IDDPM = {**CONFIG, "class_name": "iDDPMPrecond"}


def unet(order: str, out_channels: int = 3) -> UNetModel:
    torch.manual_seed(0)
    model = UNetModel(
        size=8, out_channels=out_channels, attention=[4], num_classes=5, order=order, **SIZE
    )
    return model.eval()


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("order", ["head first", "qkv first"])
@pytest.mark.parametrize("sigma", [0.01, 1.0, 50.0])
@torch.no_grad()
def test_a_consistency_models_teacher_denoises_as_adm(tmp_path, order, sigma):
    model = unet(order)
    torch.save(model.state_dict(), tmp_path / "edm_ema.pt")
    checkpoint = open_checkpoint(tmp_path / "edm_ema.pt", config=EDM | {"qkv_order": order})
    x, label = torch.randn(2, 3, 8, 8) * sigma, torch.tensor([1, 4])
    variance = sigma**2 + 0.25
    t = torch.full([2], 250 * torch.log(torch.tensor(sigma)))
    F_x = model(x / variance**0.5, t, label)
    D_x = 0.25 / variance * x + sigma * 0.5 / variance**0.5 * F_x
    found = checkpoint.network(x, torch.tensor(sigma), torch.eye(5)[label])
    assert relative_error(found, D_x) < 2e-5


@torch.no_grad()
def test_the_other_order_of_attention_is_another_network(tmp_path):
    torch.save(unet("head first").state_dict(), tmp_path / "ema.pt")
    x, labels = torch.randn(1, 3, 8, 8), torch.eye(5)[:1]
    first, second = (
        open_checkpoint(tmp_path / "ema.pt", config=EDM | {"qkv_order": order}).network
        for order in ("head first", "qkv first")
    )
    sigma = torch.tensor(1.0)
    assert relative_error(first(x, sigma, labels), second(x, sigma, labels)) > 1e-3


@torch.no_grad()
def test_guided_diffusion_with_learned_variance_is_iddpm(tmp_path):
    model = unet("qkv first", out_channels=6)
    torch.save(model.state_dict(), tmp_path / "64x64_diffusion.pt")
    config = IDDPM | {"qkv_order": "qkv first"}
    checkpoint = open_checkpoint(tmp_path / "64x64_diffusion.pt", config=config)
    u = iDDPMPrecond(**CONFIG).u
    sigma = u[600]
    x, label = torch.randn(1, 3, 8, 8) * sigma, torch.tensor([2])
    F_x = model(x / (sigma**2 + 1) ** 0.5, torch.tensor([999.0 - 600]), label)[:, :3]
    found = checkpoint.network(x, sigma, torch.eye(5)[label])
    assert relative_error(found, x - sigma * F_x) < 2e-5
    native = convert_checkpoint(
        tmp_path / "64x64_diffusion.pt", tmp_path / "native.safetensors", config=config
    )
    assert torch.equal(native.network(x, sigma, torch.eye(5)[label]), found)


def test_without_a_configuration_the_message_lists_the_presets(tmp_path):
    torch.save(unet("head first").state_dict(), tmp_path / "ema.pt")
    with pytest.raises(CheckpointError, match="openai-imagenet64-edm-head-first, openai-imagenet"):
        open_checkpoint(tmp_path / "ema.pt")
    with pytest.raises(ConfigError, match="needs one of head first, qkv first"):
        open_checkpoint(tmp_path / "ema.pt", config=EDM)
    with pytest.raises(CheckpointError, match="unknown keyword|unexpected keyword"):
        open_checkpoint(tmp_path / "ema.pt", config=EDM | {"qkv_order": "head first", "depth": 3})


def test_it_is_converted_to_a_native_file_that_needs_no_preset(tmp_path):
    torch.save(unet("head first").state_dict(), tmp_path / "ema.pt")
    native = convert_checkpoint(
        tmp_path / "ema.pt",
        tmp_path / "native.safetensors",
        config=EDM | {"qkv_order": "head first"},
    )
    assert native.config["class_name"] == "ConsistencyPrecond"
    assert open_checkpoint(tmp_path / "native.safetensors").config == native.config


def lsun(weights):
    weights["input_blocks.1.0.emb_layers.1.weight"] = torch.zeros(128, 512)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lsun, "use_scale_shift_norm is off, as for LSUN"),
        (lambda w: w.update({"input_blocks.2.0.op.weight": torch.ones(1)}), "resblock_updown"),
        (lambda w: w.update({"input_blocks.0.0.weight": torch.ones(64, 3, 3, 3)}), "32 groups"),
        (lambda w: w.pop("middle_block.1.qkv.bias"), "lacks the tensor 'middle_block.1.qkv.bias'"),
        (lambda w: w.update({"input_blocks.9.0": torch.ones(1)}), "tensor 'input_blocks.9.0'"),
        (lambda w: w.update({"input_blocks.0.0.weight": torch.ones([])}), "on 0 channels"),
        (lambda w: w.update({"label_emb.weight": torch.ones(2)}), r"map_label.weight' is \[2\]"),
        (lambda w: w.update({"out.2.bias": torch.ones(4)}), r"'model.out_conv.bias' is \[4\]"),
    ],
)
def test_a_variant_that_has_no_counterpart_is_refused_by_its_difference(tmp_path, change, message):
    weights = unet("head first").state_dict()
    change(weights)
    torch.save(weights, tmp_path / "ema.pt")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "ema.pt", config=EDM | {"qkv_order": "head first"})
