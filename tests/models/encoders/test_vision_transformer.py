"""DINOv2 and CLIP from files of several programs, against the programs themselves."""

import random
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from memaudit.errors import CheckpointError
from memaudit.models.encoders.vision_transformer import open_clip, open_dinov2

SIZES = {"embed_dim": 128, "depth": 2, "num_heads": 2}
NAMED = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


def randomized(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval().requires_grad_(False)


def images(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def assert_equal(found: nn.Module, expected: torch.Tensor, x: torch.Tensor) -> None:
    assert (expected[0] - expected[1]).abs().max() > 1e-2
    with torch.no_grad():
        torch.testing.assert_close(found(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_is_timms(tmp_path: Path, registers: int):
    vision_transformer = pytest.importorskip("timm.models.vision_transformer")
    network = randomized(
        vision_transformer.VisionTransformer(
            img_size=224,
            patch_size=14,
            init_values=1e-5,
            num_classes=0,
            reg_tokens=registers,
            no_embed_class=registers > 0,
            **SIZES,
        )
    )
    torch.save({**network.state_dict(), "mask_token": torch.ones(1, 128)}, tmp_path / "w.pth")
    opened = open_dinov2(tmp_path / "w.pth")
    assert opened.side == 224
    assert_equal(opened.network, network(images(224)), images(224))


def test_positions_of_other_sizes_are_resampled_as_timm_does(tmp_path: Path):
    layers = pytest.importorskip("timm.layers")
    vision_transformer = pytest.importorskip("timm.models.vision_transformer")
    network = randomized(
        vision_transformer.VisionTransformer(
            img_size=308, patch_size=14, init_values=1e-5, num_classes=0, **SIZES
        )
    )
    torch.save(network.state_dict(), tmp_path / "w.pth")
    positions = layers.resample_abs_pos_embed(network.pos_embed, [16, 16], num_prefix_tokens=1)
    found = open_dinov2(tmp_path / "w.pth").network
    torch.testing.assert_close(found.pos_embed, positions)
    assert found(images(224)).shape == (2, 128)


@pytest.mark.parametrize("kind", ["plain", "gated", "registers"])
def test_dinov2_is_that_of_transformers(tmp_path: Path, kind: str):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("timm")
    name = "Dinov2WithRegisters" if kind == "registers" else "Dinov2"
    config = getattr(transformers, f"{name}Config")(
        image_size=224, patch_size=14, use_swiglu_ffn=kind == "gated", **NAMED
    )
    network = randomized(getattr(transformers, f"{name}Model")(config))
    network.save_pretrained(tmp_path)
    opened = open_dinov2(tmp_path / "model.safetensors")
    assert_equal(opened.network, network(images(224)).pooler_output, images(224))


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_clip_is_that_of_open_clip_and_transformers(tmp_path: Path, activation: str):
    model = pytest.importorskip("open_clip.model")
    pytest.importorskip("timm")
    network = randomized(
        model.CLIP(
            32,
            model.CLIPVisionCfg(layers=2, width=128, head_width=64, patch_size=16, image_size=64),
            model.CLIPTextCfg(layers=1, width=64, heads=1, context_length=8, vocab_size=100),
            quick_gelu=activation == "quick_gelu",
        )
    )
    torch.save(network.state_dict(), tmp_path / "w.pt")
    opened = open_clip(tmp_path / "w.pt", activation=activation)
    assert opened.side == 64
    assert_equal(opened.network, network.encode_image(images(64)), images(64))
    torch.save(opened.network.state_dict(), tmp_path / "timm.pt")
    again = open_clip(tmp_path / "timm.pt", activation=activation)
    assert_equal(again.network, network.encode_image(images(64)), images(64))

    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        intermediate_size=512,
        projection_dim=32,
        image_size=64,
        patch_size=16,
        hidden_act=activation,
        **NAMED,
    )
    network = randomized(transformers.CLIPVisionModelWithProjection(config))
    network.save_pretrained(tmp_path)
    opened = open_clip(tmp_path / "model.safetensors", activation=activation)
    assert_equal(opened.network, network(images(64)).image_embeds, images(64))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": torch.ones(2)}, "does not hold the weights .*dinov2_vitb14_pretrain.pth"),
        ({"blocks.0.ls1.gamma": torch.ones(8)}, "lacks the tensor 'patch_embed.proj.weight'"),
    ],
)
def test_other_weights_are_refused(tmp_path: Path, weights, message):
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=message):
        open_dinov2(tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="CLIP's weights are needed"):
        open_clip(tmp_path / "w.pt", activation="gelu")


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        ((100, 3, 14, 14), "1 blocks of width 100; 1 to 128 blocks"),
        ((64, 1, 14, 14), "images of 1 channels; 3 are needed"),
        ((64, 3, 1, 1), "divides an image into 50,176 patches; 1 to 4,096"),
        ((64, 3, 300, 300), "divides an image into 0 patches"),
    ],
)
def test_sizes_that_no_network_has_are_refused(
    tmp_path: Path, patches: tuple[int, ...], message: str
):
    weights = {
        "patch_embed.proj.weight": torch.ones(patches),
        "blocks.0.ls1.gamma": torch.ones(64),
        "blocks.0.mlp.fc1.weight": torch.ones(256, 64),
        "blocks.0.mlp.fc2.weight": torch.ones(64, 256),
    }
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=message):
        open_dinov2(tmp_path / "w.pt")


def test_what_to_install_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.layers", None)
    weights = {
        "patch_embed.proj.weight": torch.ones(64, 3, 14, 14),
        "pos_embed": torch.ones(1, 5, 64),
        "blocks.0.ls1.gamma": torch.ones(64),
        "blocks.0.mlp.fc1.weight": torch.ones(256, 64),
        "blocks.0.mlp.fc2.weight": torch.ones(64, 256),
    }
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"network is timm's, .* pip install timm"):
        open_dinov2(tmp_path / "w.pt")


def mutated(rng: random.Random, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Some tensors missing, of another shape, or by another's name."""
    weights = dict(weights)
    for name in rng.sample(sorted(weights), rng.randint(1, 3)):
        tensor = weights.pop(name)
        kind = rng.randrange(4)
        if kind == 1:
            weights[name] = tensor[: len(tensor) // 2]
        elif kind == 2:
            weights[name] = tensor[None]
        elif kind == 3:
            weights[rng.choice(sorted(weights))] = tensor
    return weights


def test_mutated_weights_are_read_or_refused(tmp_path: Path):
    vision_transformer = pytest.importorskip("timm.models.vision_transformer")
    sizes = {"embed_dim": 64, "depth": 1, "num_heads": 1, "img_size": 28, "patch_size": 14}
    kinds = {
        "dinov2": {"init_values": 1e-5, "num_classes": 0, "reg_tokens": 2, "no_embed_class": True},
        "clip": {"pre_norm": True, "num_classes": 8},
    }
    rng = random.Random(0)
    refused = 0
    for kind, options in kinds.items():
        network = vision_transformer.VisionTransformer(**sizes, **options)
        for _ in range(60):
            torch.save(mutated(rng, network.state_dict()), tmp_path / "w.pt")
            try:
                if kind == "clip":
                    open_clip(tmp_path / "w.pt", activation="gelu")
                else:
                    open_dinov2(tmp_path / "w.pt")
            except CheckpointError:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("reg_token", (4,), "tensor 'reg_token' is .*3 sizes above 0"),
        ("reg_token", (1, 1000, 64), "1,000 registers"),
        ("blocks.0.mlp.fc1.weight", (4096, 64), "4,096 hidden channels"),
        ("pos_embed", (1, 1 + 60**2, 64), "images of 1,920 x 1,920 pixels"),
    ],
)
def test_sizes_that_would_fill_memory_are_refused(tmp_path: Path, name, shape, message):
    """A small file could ask for activations of any size."""
    is_clip = name == "pos_embed"
    sizes = {
        "patch_embed.proj.weight": (64, 3, 32, 32),
        "norm_pre.weight" if is_clip else "blocks.0.ls1.gamma": (64,),
        "blocks.0.mlp.fc1.weight": (256, 64),
        "blocks.0.mlp.fc2.weight": (64, 256),
        "pos_embed": (1, 50, 64),
        name: shape,
    }
    weights = {key: torch.zeros(size) for key, size in sizes.items()}
    torch.save(weights | {"blocks.0.norm1.weight": torch.zeros(64)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=message):
        if is_clip:
            open_clip(tmp_path / "w.pt", activation="gelu")
        else:
            open_dinov2(tmp_path / "w.pt")
