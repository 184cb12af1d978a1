"""Every number of every configuration: refused when the file is opened, or a model that works.

What `inspect` says is what every other command says.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_networks import TINY, tiny

from memaudit.errors import CheckpointError
from memaudit.models.build import PRECONDITIONERS, build_network
from memaudit.models.checkpoints import (
    convert_checkpoint,
    inspect_checkpoint,
    open_checkpoint,
    save_checkpoint,
)
from memaudit.models.config_values import SCHEDULER_VALUES, UNET2D_VALUES, VALUES
from memaudit.models.generate import sample
from memaudit.models.sampler_config import SamplerConfig

HOSTILE = [0, -1, 5, 1e300, math.nan, math.inf, 1e-320, "x", [1], True, None, 2**40]
TARGET = {"time_scale": 1, "null_label": None, "data_range": "-1..1", "learned_variance": False}
OPTIONS: dict[str, dict[str, Any]] = {
    "VPPrecond": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5},
    "VEPrecond": {"sigma_min": 0.02, "sigma_max": 100.0},
    "iDDPMPrecond": {"C_1": 0.001, "C_2": 0.008, "M": 1000},
    "EDMPrecond": {"sigma_min": 0.0, "sigma_max": math.inf, "sigma_data": 0.5},
    "Precond": {"sigma_data": 0.5, "logvar_channels": 4},
    "DiscretePrecond": {
        **{"target": "epsilon", "schedule": "linear", "num_steps": 1000, "beta_start": 1e-4},
        **{"beta_end": 0.02, "betas": None, "sigmas": None, **TARGET},
    },
    "FlowPrecond": {"path": "linear", "data_at": 1, **TARGET},
    "SDEPrecond": {
        **{"sde": "vp", "target": "epsilon", "beta_min": 0.1, "beta_max": 20.0},
        **{"sigma_min": 0.01, "sigma_max": 50.0, **TARGET},
    },
}
SONG = {
    **{"model_type": "SongUNet", "augment_dim": 0, "channel_mult_emb": 4, "label_dropout": 0},
    **{"embedding_type": "positional", "channel_mult_noise": 1, "encoder_type": "standard"},
    **{"decoder_type": "standard", "resample_filter": [1, 1], "skip_connections": [1, 1, 1, 1]},
}
EDM2 = {
    **{"channel_mult_noise": None, "channel_mult_emb": None, "label_balance": 0.5},
    **{"concat_balance": 0.5, "channels_per_head": 4, "res_balance": 0.3, "attn_balance": 0.3},
    "clip_act": 256,
}
UVIT = {
    **{"model_type": "UViT", "patch_size": 4, "hidden_channels": 8, "mlp_channels": 8},
    **{"depth": 3, "num_heads": 2, "qkv_bias": False, "time_mlp": False, "final_conv": True},
}
OPENAI = {
    **{"model_type": "OpenAIUNet", "model_channels": 2, "level_channels": [32]},
    **{"stem_channels": 32, "num_blocks": 1, "attn_levels": [0], "num_heads": 2},
    **{"num_head_channels": 16, "use_new_attention_order": False, "dropout": 0.1},
    **{"use_scale_shift_norm": True, "resblock_updown": False, "conv_resample": True},
}
OWN_NETWORKS = {"Precond": EDM2, "SDEPrecond": UVIT, "FlowPrecond": OPENAI}
"""Networks of preconditioners that are not tried with a SongUNet."""
NOT_OPTIONS = {
    "UViT": ("model_channels", "channel_mult", "num_blocks", "dropout", "attn_resolutions"),
    "OpenAIUNet": ("channel_mult", "attn_resolutions"),
}
"""What other networks have, and these do not."""
IMAGES = {"img_resolution": 8, "img_channels": 3}
NETWORKS: dict[str, dict[str, Any]] = {
    "LucidrainsUNet": {
        **{"class_name": "SelfConditionedPrecond", "label_dim": 0, "model_channels": 4},
        **{"channel_mult": [1, 2], "init_channels": 4, "full_attn": [0, 1], "attn_heads": [1, 2]},
        **{"attn_dim_head": [3, 4], "self_condition": True, "fourier_dim": 0, "theta": 10000},
        "norm_groups": 0,
    },
    "MONAIUNet": {
        **{"class_name": "DiscretePrecond", "label_dim": 2, "channels": [4, 8]},
        **{"blocks_per_level": [1, 1], "has_attention": [0, 1], "head_channels": [1, 4]},
        **{"norm_num_groups": 2, "resblock_updown": False, "include_fc": True},
        **{"use_combined_linear": False},
    },
    "DDPMUNet": {
        **{"class_name": "DiscretePrecond", "label_dim": 0, "model_channels": 32},
        **{"channel_mult": [1, 1], "num_blocks": 1, "has_attention": [0, 1], "conv_resample": True},
    },
}
"""Working configurations of other trainers' networks that write their own keywords out."""
COMMON = {"label_dim": 2, "use_fp16": False, "dropout": 0.1, "attn_resolutions": [4]}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Hundreds of files are written that need not outlast a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def configuration(class_name: str) -> dict[str, Any]:
    """A working configuration that writes every keyword out."""
    network = OWN_NETWORKS.get(class_name, SONG)
    config = {"class_name": class_name} | TINY | COMMON | network | OPTIONS[class_name]
    for name in NOT_OPTIONS.get(network.get("model_type"), ()):
        del config[name]
    return config


def test_every_listed_keyword_is_tried():
    same = {"ConsistencyPrecond", "SelfConditionedPrecond"}  # EDMPrecond's, DiscretePrecond's
    assert OPTIONS.keys() == PRECONDITIONERS.keys() - same
    written = {key for name in OPTIONS for key in configuration(name)}
    written |= {key for config in NETWORKS.values() for key in config}
    assert written - {"class_name"} == VALUES.keys()


def outcome(path: Path) -> str | None:
    """What opening says, after a check that all commands say the same; None for a working model."""
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError as error:
        message = str(error)
        assert len(message) < 1500
        problem = inspect_problem(path)
        assert problem is not None and message.endswith(problem)
        with pytest.raises(CheckpointError) as caught:
            convert_checkpoint(path, path.with_name("converted"))
        assert str(caught.value) == message
        return message
    assert inspect_problem(path) is None
    network = checkpoint.network
    if network.sigma_min < 80 and network.sigma_max > 0.002:  # else there is no common range
        noise = torch.randn(1, network.img_channels, 8, 8)
        labels = torch.eye(1, network.label_dim) if network.label_dim else None
        assert sample(network, noise, labels, config=SamplerConfig(num_steps=2)).isfinite().all()
    return None


def inspect_problem(path: Path) -> str | None:
    try:
        info = inspect_checkpoint(path)
    except CheckpointError as error:  # a folder
        return str(error)
    assert (info.network is None) == (info.problem is not None)
    return info.problem


THOROUGH = pytest.mark.parametrize(
    "thorough", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"]
)


def hostile(position: int, thorough: bool) -> list[Any]:
    """The values for the keyword at a position: all, or a third."""
    return HOSTILE if thorough else HOSTILE[position % 3 :: 3]


@THOROUGH
@pytest.mark.parametrize("class_name", OPTIONS)
def test_a_hostile_number_is_refused_or_harmless(tmp_path, class_name, thorough):
    """Each keyword in turn holds hostile values, others for each keyword unless it is thorough."""
    config = configuration(class_name)
    torch.manual_seed(0)
    network = build_network(config).eval()
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network, config)
    assert outcome(path) is None
    own = OPTIONS[class_name] | OWN_NETWORKS.get(class_name, {})
    for position, keyword in enumerate(config if class_name == "EDMPrecond" else own):
        values = hostile(position, thorough)
        for value in values if thorough or keyword not in OPENAI else values[:2]:
            save_checkpoint(path, network, config | {keyword: value})
            said = outcome(path)
            if keyword != "sigma_max" and (value == "x" or value == 2**40):
                assert said is not None and keyword in said, (keyword, value)


@THOROUGH
@pytest.mark.parametrize("model_type", NETWORKS)
def test_a_hostile_number_of_a_network_is_refused_or_harmless(tmp_path, model_type, thorough):
    config = IMAGES | {"model_type": model_type} | NETWORKS[model_type]
    torch.manual_seed(0)
    network = build_network(config).eval()
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network, config)
    assert outcome(path) is None
    for position, keyword in enumerate(NETWORKS[model_type]):
        for value in HOSTILE if thorough else [HOSTILE[position % len(HOSTILE)], "x"]:
            save_checkpoint(path, network, config | {keyword: value})
            said = outcome(path)
            if value == "x" or value == 2**40:
                assert said is not None and keyword in said, (keyword, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma_max": 0.001, "sigma_min": 0.002}, "sigma_min = 0.002 to sigma_max = 0.001"),
        ({"sigma_data": 1e300}, "sigma_data must be a number, at least 1e-06 and at most"),
        ({"dropout": 5}, "dropout must be a number, at least 0 and at most 1, got 5"),
        ({"img_resolution": 1 << 20}, "img_resolution must be an integer, .*at most 1,024"),
        ({"img_resolution": [8, 8, 8]}, "must be an integer, .*, or a height and a width"),
        ({"img_resolution": [8, 0]}, "must be an integer, .*, or a height and a width"),
        ({"num_blocks": 256}, "far more weights than the file has"),
        ({"model_channels": 1 << 14}, "far more weights than the file has"),
        ({"channel_mult": [1] * 4}, "is .* in the file|lacks the tensor"),
    ],
)
def test_a_network_that_the_weights_do_not_fill_is_not_built(tmp_path, change, message):
    path = tmp_path / "model.safetensors"
    config = configuration("EDMPrecond") | {"skip_connections": None}
    save_checkpoint(path, build_network(config), config | change)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_noise_levels_that_the_configuration_does_not_give_are_refused(tmp_path):
    """With `u` near 0 everywhere, images would be sampled from no noise at all."""
    network, path = tiny("iDDPMPrecond"), tmp_path / "model.safetensors"
    network.u.mul_(1e-3)
    save_checkpoint(path, network, {"class_name": "iDDPMPrecond"} | TINY)
    with pytest.raises(CheckpointError, match="'u' is not what its configuration makes of it"):
        open_checkpoint(path)


def test_a_network_that_cannot_denoise_is_told_when_it_is_opened(tmp_path):
    """Three heads do not divide 224 channels: it can be built, but not evaluated."""
    config = {"class_name": "EDMPrecond", "model_type": "DhariwalUNet"} | TINY
    config |= {"model_channels": 224, "channel_mult": [1], "attn_resolutions": [8]}
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, build_network(config), config)
    said = outcome(path)
    assert said is not None and "cannot denoise images of float32 [1, 3, 8, 8]" in said


UNET = {
    **{"_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1},
    **{"center_input_sample": False, "time_embedding_type": "positional", "freq_shift": 0},
    **{"time_embedding_dim": None, "flip_sin_to_cos": True, "mid_block_type": "UNetMidBlock2D"},
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    **{"block_out_channels": [8, 16], "layers_per_block": 1, "mid_block_scale_factor": 1},
    **{"downsample_padding": 1, "downsample_type": "conv", "upsample_type": "conv"},
    **{"dropout": 0.0, "act_fn": "silu", "attention_head_dim": 8, "norm_num_groups": 4},
    **{"attn_norm_num_groups": None, "norm_eps": 1e-5, "resnet_time_scale_shift": "default"},
    **{"add_attention": True, "class_embed_type": None, "num_class_embeds": None},
    "num_train_timesteps": None,
}
DDPM = {
    **{"_class_name": "DDPMScheduler", "prediction_type": "epsilon", "num_train_timesteps": 1000},
    **{"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": None},
    "rescale_betas_zero_snr": False,
}
EULER = {
    **{"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction"},
    **{"timestep_type": "continuous", "predict_epsilon": True, "use_flow_sigmas": False},
    **{"sigma_min": 0.002, "sigma_max": 700.0, "invert_sigmas": False},
}
EDM = {
    **{"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"},
    **{"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0},
}


@pytest.fixture
def folder(tmp_path):
    """Write a diffusers folder with configurations of one's own; the weights are those of UNET."""
    diffusers = pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**{k: v for k, v in UNET.items() if k != "_class_name"})
    unet.save_pretrained(tmp_path)

    def write(unet: dict[str, Any], scheduler: dict[str, Any]) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(unet))
        (tmp_path / "scheduler_config.json").write_text(json.dumps(scheduler))
        return tmp_path

    return write


def test_every_listed_keyword_of_diffusers_is_tried():
    assert UNET.keys() == UNET2D_VALUES.keys()
    assert DDPM.keys() | EDM.keys() | EULER.keys() == SCHEDULER_VALUES.keys()


@THOROUGH
def test_a_hostile_number_of_a_unet2d_is_refused_or_harmless(folder, thorough):
    assert outcome(folder(UNET, DDPM)) is None
    for position, keyword in enumerate(UNET):
        for value in hostile(position, thorough):
            said = outcome(folder(UNET | {keyword: value}, DDPM))
            if value == 2**40 or (
                value == "x" and not keyword.endswith(("mid_block_type", "sample_type"))
            ):
                assert said is not None, (keyword, value)


@pytest.mark.parametrize("scheduler", [DDPM, EDM, EULER], ids=["DDPM", "EDM", "Euler"])
def test_a_hostile_number_of_a_scheduler_is_refused_or_harmless(folder, scheduler):
    assert outcome(folder(UNET, scheduler)) is None
    for keyword in scheduler:
        for value in HOSTILE:
            said = outcome(folder(UNET, scheduler | {keyword: value}))
            if keyword != "sigma_max" and value in ("x", 2**40):
                assert said is not None, (keyword, value)


@pytest.mark.parametrize(
    ("unet", "scheduler", "message"),
    [
        ({"sample_size": 4096}, {}, "sample_size must be an integer, .*at most 1,024"),
        ({"sample_size": 7}, {}, "sample_size is 7, which cannot be halved for its 2 levels"),
        ({"sample_size": True}, {}, "sample_size must be an integer"),
        ({"layers_per_block": 20_000}, {}, "layers_per_block must be .*at most 256"),
        ({"layers_per_block": 256}, {}, "far more weights than the file has"),
        ({"block_out_channels": [8, 16384]}, {}, "far more weights than the file has"),
        ({"downsample_padding": 3}, {}, "cannot denoise images of float32"),
        ({}, {"num_train_timesteps": 0}, "num_train_timesteps must be an integer, at least 1"),
        ({}, {"trained_betas": [1] * 4}, "at least two must be finite"),
        ({}, {"trained_betas": [-0.1] * 4}, "trained_betas must be a list of numbers, each more"),
        ({}, {"trained_betas": []}, "at least two must be finite|cannot be built"),
    ],
)
def test_a_folder_that_does_not_work_is_refused(folder, unet, scheduler, message):
    said = outcome(folder(UNET | unet, DDPM | scheduler))
    assert said is not None
    with pytest.raises(CheckpointError, match=message):
        raise CheckpointError(said)


def test_a_list_of_a_thousand_trained_betas_opens(folder):
    betas = torch.linspace(0.0001, 0.02, 1000).tolist()
    assert outcome(folder(UNET, DDPM | {"trained_betas": betas})) is None
