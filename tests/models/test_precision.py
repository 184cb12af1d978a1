"""Networks in another number format: what is cast, how close they are, and what is refused."""

from typing import Any

import pytest
import torch
from helpers.formula_weights import set_formula_weights
from helpers.tiny_networks import tiny
from torch import nn

from memaudit.errors import ConfigError
from memaudit.models.build import build_network
from memaudit.models.denoiser import image_shape
from memaudit.models.execution import Execution
from memaudit.models.networks.registry import NETWORKS
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.models.precision import in_format, resolve_precision, takes_formats

FAMILIES: dict[str, dict[str, Any]] = {
    "SongUNet": {"class_name": "EDMPrecond", "model_channels": 8, "channel_mult": [1, 2]},
    "NCSN++": {
        "class_name": "EDMPrecond",
        "model_type": "SongUNet",
        "model_channels": 8,
        "channel_mult": [1, 2],
        "embedding_type": "fourier",
        "encoder_type": "residual",
        "resample_filter": [1, 3, 3, 1],
    },
    "DhariwalUNet": {"class_name": "EDMPrecond", "model_channels": 8, "channel_mult": [1, 2]},
    "EDM2UNet": {
        "class_name": "Precond",
        "model_channels": 8,
        "channel_mult": [1, 2],
        "channels_per_head": 8,
        "attn_resolutions": [4],
    },
    "OpenAIUNet": {
        "class_name": "DiscretePrecond",
        "model_channels": 32,
        "level_channels": [32, 32],
        "attn_levels": [1],
    },
    "LucidrainsUNet": {
        "class_name": "DiscretePrecond",
        "label_dim": 0,
        "model_channels": 8,
        "init_channels": 8,
        "channel_mult": [1, 2],
        "full_attn": [0, 1],
        "attn_heads": [2, 2],
        "attn_dim_head": [4, 4],
    },
    "self-conditioned": {
        "class_name": "SelfConditionedPrecond",
        "model_type": "LucidrainsUNet",
        "label_dim": 0,
        "self_condition": True,
        "model_channels": 8,
        "init_channels": 8,
        "channel_mult": [1, 2],
        "full_attn": [0, 1],
        "attn_heads": [2, 2],
        "attn_dim_head": [4, 4],
    },
    "MONAIUNet": {
        "class_name": "DiscretePrecond",
        "channels": [8, 16],
        "blocks_per_level": [1, 1],
        "has_attention": [0, 1],
        "head_channels": [8, 8],
        "norm_num_groups": 4,
    },
    "DDPMUNet": {
        "class_name": "DiscretePrecond",
        "label_dim": 0,
        "model_channels": 32,
        "channel_mult": [1, 1],
        "has_attention": [0, 1],
    },
    "UViT": {"class_name": "DiscretePrecond", "hidden_channels": 16, "depth": 3, "num_heads": 2},
    "DiT": {"class_name": "DiscretePrecond", "hidden_channels": 16, "depth": 2, "num_heads": 2},
}
"""A tiny denoiser of every family that checkpoints hold."""


def network_of(family: str) -> Any:
    config = {"img_resolution": 8, "img_channels": 3, "label_dim": 2, **FAMILIES[family]}
    if config["class_name"] != "Precond":
        config.setdefault("model_type", family)
    if config["model_type" if "model_type" in config else "class_name"] in ("SongUNet",):
        config.setdefault("attn_resolutions", [4])
    network = build_network(config).eval().requires_grad_(False)
    set_formula_weights(network, seed=1)
    return network


def inputs_of(network: Any) -> tuple[torch.Tensor, ...]:
    x = torch.randn(4, *image_shape(network), generator=torch.Generator().manual_seed(0))
    labels = torch.eye(network.label_dim)[[0, 1, 0, 1]] if network.label_dim else None
    return x, torch.tensor([0.05, 0.5, 2.0, 20.0]), labels  # type: ignore[return-value]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_every_family_is_tried():
    built = {type(network_of(family).model).__name__ for family in FAMILIES}
    assert built == {*NETWORKS, "EDM2UNet"}


@pytest.mark.parametrize(("precision", "error"), [("fp16", 5e-3), ("bf16", 4e-2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_in_a_format_is_close_and_its_own_is_as_it_was(family, precision, error):
    network = network_of(family)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    cast: Any = in_format(network, precision)
    seen = []
    for module in cast.model.modules():
        if isinstance(module, nn.Conv2d | nn.GroupNorm | nn.LayerNorm):
            module.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    with torch.inference_mode():
        found, expected = cast(*inputs_of(network)), network(*inputs_of(network))
    assert found.dtype == torch.float32
    assert 1e-6 < relative_error(found, expected) < error
    assert set(seen) <= {cast.network_dtype}  # nothing on the way fell back to float32
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_on_features_are_cast_once_and_those_of_embeddings_stay(family):
    cast: Any = in_format(network_of(family), "fp16")
    dtypes = {name: weight.dtype for name, weight in cast.model.named_parameters()}
    if family == "EDM2UNet":  # what its layers use is not the stored weight
        dtypes = {name: buffer.dtype for name, buffer in cast.model.named_buffers()}
        assert dtypes["emb_noise._fixed"] == torch.float32
    half = [name for name, dtype in dtypes.items() if dtype == torch.float16]
    full = [name for name, dtype in dtypes.items() if dtype == torch.float32]
    embeddings = (
        "map_", "affine", "emb", "time", "temb", "mlp.1", "label", "freqs", "phases", "adaLN",
        "gain", "weights",
    )  # fmt: skip
    assert half
    assert [name for name in full if not any(part in name for part in embeddings)] == []


def test_the_copy_is_kept_and_follows_the_weights():
    network: Any = tiny("EDMPrecond")
    cast = in_format(network, "fp16")
    assert in_format(network, "fp16") is cast and in_format(network, "bf16") is not cast
    assert in_format(network, "fp32") is network and in_format(network, "tf32") is network
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    assert in_format(network, "fp16") is not cast


def test_edm2_weights_fixed_once_give_equal_bits_and_follow_new_ones():
    network = network_of("EDM2UNet")
    inputs = inputs_of(network)
    with torch.inference_mode():
        expected = network(*inputs)
        network.model.fix_weights(torch.float32)
        assert torch.equal(network(*inputs), expected)
        network.model.load_state_dict({k: 2 + v for k, v in network.model.state_dict().items()})
        assert not torch.equal(network(*inputs), expected)
    network.model.fix_weights(torch.float32)
    network.train()
    assert not [b for name, b in network.named_buffers() if name.endswith("_fixed")]


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_edm2_is_evaluated_in_fp32_with_weights_that_are_normalized_once(precision):
    network = network_of("EDM2UNet")
    copy = in_format(network, precision)
    assert copy is not network
    assert copy is in_format(network, precision)
    assert torch.equal(copy(*inputs_of(network)), network(*inputs_of(network)))


def test_edm2_as_it_is_opened_is_not_copied():
    network = network_of("EDM2UNet")
    network.model.fix_weights(torch.float32)
    assert in_format(network, "fp32") is network and in_format(network, "tf32") is network
    assert in_format(network, "fp16") is not network


def test_what_cannot_be_cast_is_refused():
    optimum = ClosedFormOptimum(torch.zeros(3, 1, 4, 4, dtype=torch.uint8).numpy())
    assert not takes_formats(optimum)
    with pytest.raises(ConfigError, match="ClosedFormOptimum is evaluated as it is"):
        resolve_precision(optimum, Execution(precision="fp16"))
    with pytest.raises(ConfigError, match="tf32, which NVIDIA's GPUs have .*; cpu has not"):
        resolve_precision(tiny("EDMPrecond"), Execution(precision="tf32"))
    assert resolve_precision(optimum, Execution(precision="auto")) == "fp32"


def test_a_network_that_cannot_be_evaluated_in_a_format_is_refused_by_name():
    network: Any = tiny("EDMPrecond")
    network.model.map_layer0.forward = None
    with pytest.raises(ConfigError, match="bfloat16, in which this network cannot be evaluated"):
        in_format(network, "bf16")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_on_a_cpu_a_format_is_taken_when_asked_for(precision):
    network = tiny("EDMPrecond", use_fp16=True)
    assert resolve_precision(network, Execution(precision=precision)) == precision
    assert resolve_precision(network, Execution()) == "fp32"


@pytest.mark.parametrize(
    "options", [{}, {"num_class_embeds": 2}, {"time_embedding_type": "fourier"}]
)
def test_a_unet2d_is_cast_as_diffusers_does(options):
    diffusers = pytest.importorskip("diffusers")
    from helpers.diffusers_models import tiny_unet

    from memaudit.models.checkpoints.diffusers.network import DiffusersDenoiser
    from memaudit.models.checkpoints.diffusers.schedule import read_schedule

    schedule = read_schedule({"_class_name": "DDPMScheduler", **diffusers.DDPMScheduler().config})
    classes = options.get("num_class_embeds", 0)
    network: Any = DiffusersDenoiser(tiny_unet(**options), schedule, label_dim=classes).eval()
    for precision, error in (("fp16", 1e-2), ("bf16", 8e-2)):
        cast = in_format(network, precision)
        with torch.inference_mode():
            found, expected = cast(*inputs_of(network)), network(*inputs_of(network))
        assert found.dtype == torch.float32
        assert 1e-6 < relative_error(found, expected) < error
