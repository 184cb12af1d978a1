"""OpenAI's U-Net, in the files of every program that trains it, denoises as a plain restatement.

`test_openai_reference.py` compares it with the programs' own package.
"""

import math
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.openai_unet import UNetModel, make_unet
from torch import Tensor

from memaudit.errors import CheckpointError, ConfigError, MemauditError
from memaudit.models.checkpoints import convert_checkpoint, inspect_checkpoint, open_checkpoint

SIGMAS = (0.02, 0.5, 70.0)
LINEAR = np.linspace(1e-4, 0.02, 1000)
LABELS = torch.tensor([1, 4])


def sigmas_of(betas) -> Tensor:
    alpha_bar = np.cumprod(1 - np.asarray(betas, dtype=np.float64))
    return torch.from_numpy(np.sqrt((1 - alpha_bar) / alpha_bar))


def cosine(T: int) -> np.ndarray:
    def alpha_bar(s: float) -> float:
        return np.cos((s + 0.008) / 1.008 * np.pi / 2) ** 2

    return np.array([min(1 - alpha_bar((i + 1) / T) / alpha_bar(i / T), 0.999) for i in range(T)])


def epsilon(model: UNetModel, x: Tensor, sigma: float, t: float, labels=None) -> Tensor:
    """What a model of the noise denoises x to, by DDPM's formulas."""
    F_x = model(x / (1 + sigma**2) ** 0.5, torch.full((len(x),), t), labels)
    return x - sigma * F_x[:, : x.shape[1]]


def flow(model: UNetModel, x: Tensor, sigma: float, labels=None) -> Tensor:
    """What a model of the velocity y − n denoises x = x_t / t to."""
    t = 1 / (1 + sigma)
    return t * x + (1 - t) * model(t * x, torch.full((len(x),), t), labels)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def noisy(sigma: float) -> Tensor:
    torch.manual_seed(3)
    return torch.rand(2, 3, 8, 8) * 2 - 1 + sigma * torch.randn(2, 3, 8, 8)


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


VARIANTS = {
    "improved": {},
    "guided": {"updown": True, "new_order": True},
    "no scale and shift": {"scale_shift": False},
    "without convolutions": {"conv_resample": False},
    "pooling and new order": {"conv_resample": False, "new_order": True, "num_heads": 1},
    "three levels, two blocks": {"channel_mult": (1, 2, 3), "num_blocks": 2, "attention": (0, 2)},
    "wide first": {"channel_mult": (2, 1), "attention": (0, 1), "num_heads": 2},
    "no attention but the middle's": {"attention": ()},
    "one level": {"channel_mult": (1,), "attention": (0,), "num_blocks": 2},
    "gray": {"in_channels": 1, "out_channels": 1},
    "learned variance": {"out_channels": 6},
}


@pytest.mark.parametrize(
    ("variant", "num_classes"), [(variant, 5 * (i % 2)) for i, variant in enumerate(VARIANTS)]
)
@torch.no_grad()
def test_every_variant_denoises_as_the_restatement(tmp_path, variant, num_classes):
    options = VARIANTS[variant]
    model = make_unet(num_classes=num_classes, **options)
    path = saved(tmp_path / "ema_0.9999_000100.pt", model.state_dict())
    heads = options.get("num_heads")
    arch = f"img_resolution=8,num_heads={heads}" if heads else "img_resolution=8"
    arch = f"guided-diffusion,{arch}" + ("" if heads else ",num_head_channels=16")
    arch += ",use_new_attention_order=on" if options.get("new_order") else ""
    network = open_checkpoint(path, arch=arch).network
    labels = LABELS if num_classes else None
    one_hot = torch.eye(5)[LABELS] if num_classes else None
    levels = sigmas_of(LINEAR)
    for t in (0, 400, 999):
        sigma = float(levels[t])
        x = noisy(sigma)[:, : options.get("in_channels", 3)]
        found = network(x, torch.tensor(sigma), one_hot)
        assert relative_error(found, epsilon(model, x, sigma, t, labels)) < 1e-5


@torch.no_grad()
def test_improved_diffusion_rescales_time(tmp_path):
    model = make_unet(out_channels=6, num_heads=4)
    path = saved(tmp_path / "ema_0.9999_000100.pt", model.state_dict())
    arch = "improved-diffusion,img_resolution=8,schedule=cosine,num_steps=4000"
    checkpoint = open_checkpoint(path, arch=arch)
    assert checkpoint.format == "OpenAI U-Net (improved-diffusion)"
    levels = sigmas_of(cosine(4000))
    for t in (3, 1000, 3900):
        sigma = float(levels[t])
        x = noisy(sigma)
        found = checkpoint.network(x, torch.tensor(sigma))
        assert relative_error(found, epsilon(model, x, sigma, t / 4)) < 1e-5
    between = float(levels[400] * 0.4 + levels[401] * 0.6)
    assert float(checkpoint.network.round_sigma(torch.tensor(between))) == pytest.approx(
        float(levels[401]), rel=1e-6
    )


@pytest.mark.parametrize("prefix", ["", "module."])
@torch.no_grad()
def test_torchcfms_average_is_a_flow(tmp_path, prefix):
    ema, training = (
        make_unet(seed, channel_mult=(1, 2, 2, 2), head_channels=64, scale_shift=False)
        for seed in (0, 1)
    )
    weights = {f"{prefix}{name}": tensor for name, tensor in ema.state_dict().items()}
    value = {"net_model": training.state_dict(), "ema_model": weights, "step": 400000}
    path = saved(tmp_path / "otcfm_cifar10_weights_step_400000.pt", value | {"sched": {}})
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "OpenAI U-Net (torchcfm)"
    assert checkpoint.config["img_resolution"] == 32
    assert "moving average" in checkpoint.provenance["weights"]
    for sigma in SIGMAS:
        x = noisy(sigma)
        found = checkpoint.network(x, torch.tensor(sigma))
        assert relative_error(found, flow(ema, x, sigma)) < 1e-5


@torch.no_grad()
def test_flow_matchings_average_lies_in_a_list_and_its_last_class_is_none(tmp_path):
    options = {"num_heads": 1, "new_order": True, "conv_resample": False, "num_classes": 6}
    ema, training = (make_unet(seed, **options) for seed in (0, 1))
    model = {f"model.{name}": tensor for name, tensor in training.state_dict().items()}
    model |= {f"shadow_params.{i}": p.detach() for i, p in enumerate(ema.parameters())}
    model |= {"num_updates": torch.tensor(7)}
    value = {"model": model, "optimizer": {}, "lr_schedule": {}, "epoch": 3, "scaler": {}}
    path = saved(tmp_path / "checkpoint-3.pth", value)
    checkpoint = open_checkpoint(path, arch="flow-matching,img_resolution=8")
    network: Any = checkpoint.network
    assert network.label_dim == 5 and network.null_label == "last"
    for sigma in SIGMAS:
        x = noisy(sigma)
        found = network(x, torch.tensor(sigma), torch.eye(5)[LABELS])
        assert relative_error(found, flow(ema, x, sigma, LABELS)) < 1e-5
        found = network(x, torch.tensor(sigma), None)
        assert relative_error(found, flow(ema, x, sigma, torch.tensor([5, 5]))) < 1e-5
    assert open_checkpoint(path, arch="img_resolution=8").format == checkpoint.format


def compvis(betas, **others):
    ema, training = (make_unet(seed, head_channels=32) for seed in (0, 1))
    weights = {f"model.diffusion_model.{n}": t for n, t in training.state_dict().items()}
    weights |= {
        f"model_ema.diffusion_model{name.replace('.', '')}": tensor
        for name, tensor in ema.state_dict().items()
    }
    weights |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}
    weights |= {"betas": torch.as_tensor(betas, dtype=torch.float32)} | others
    return ema, {"pytorch-lightning_version": "1.4.2", "epoch": 1, "state_dict": weights}


@pytest.mark.parametrize(
    ("betas", "named"),
    [
        (np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2, "scaled_linear"),
        (LINEAR, "linear"),
        (cosine(1000), "cosine"),
        (np.linspace(1e-3, 0.02, 500) ** 1.1, "as stored"),
    ],
)
@torch.no_grad()
def test_compvis_keeps_its_schedule_and_an_average_without_dots(tmp_path, betas, named):
    ema, value = compvis(betas)
    path = saved(tmp_path / "last.ckpt", value)
    checkpoint = open_checkpoint(path, arch="img_resolution=8")
    assert checkpoint.format == "OpenAI U-Net (compvis)"
    levels = sigmas_of(betas)
    for t in np.linspace(2, len(betas) - 2, 2).astype(int).tolist():
        sigma = float(levels[t])
        x = noisy(sigma)
        found = checkpoint.network(x, torch.tensor(sigma))
        assert relative_error(found, epsilon(ema, x, sigma, t)) < 1e-5
    info = inspect_checkpoint(path, arch="img_resolution=8")
    facts = {fact.name: (fact.value, fact.origin) for fact in info.network.facts}
    assert facts["schedule"] == (named, "file") and facts["num_steps"] == (len(betas), "file")
    with pytest.raises(ConfigError, match="schedule is sigmoid, but the file shows"):
        open_checkpoint(path, arch="img_resolution=8,schedule=sigmoid")


def test_a_latent_model_is_refused_by_what_it_is(tmp_path):
    _, value = compvis(LINEAR, **{"first_stage_model.encoder.conv_in.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match="denoises the latents of the first_stage_model"):
        open_checkpoint(saved(tmp_path / "model.ckpt", value))


@pytest.mark.parametrize("new_order", [False, True])
@torch.no_grad()
def test_a_consistency_models_teacher_denoises_with_edms_scalings(tmp_path, new_order):
    model = make_unet(head_channels=64, num_classes=5, updown=True, new_order=new_order)
    path = saved(tmp_path / "edm_ema.pt", model.state_dict())
    order = "on" if new_order else "off"
    arch = f"consistency-models,img_resolution=8,use_new_attention_order={order}"
    checkpoint = open_checkpoint(path, arch=arch)
    assert (checkpoint.network.sigma_min, checkpoint.network.sigma_max) == (0.002, 80)
    for sigma in SIGMAS:
        x = noisy(sigma)
        variance = sigma**2 + 0.25
        t = torch.full([2], 250 * torch.log(torch.tensor(sigma)))
        F_x = model(x / variance**0.5, t, LABELS)
        D_x = 0.25 / variance * x + sigma * 0.5 / variance**0.5 * F_x
        found = checkpoint.network(x, torch.tensor(sigma), torch.eye(5)[LABELS])
        assert relative_error(found, D_x) < 1e-5
    with pytest.raises(CheckpointError, match="does not say whether q, k, v come before heads"):
        open_checkpoint(path, arch="consistency-models,img_resolution=8")


@pytest.mark.parametrize("other", ["num_heads=2", "use_new_attention_order=on", "schedule=cosine"])
@torch.no_grad()
def test_what_shapes_do_not_show_makes_another_network(tmp_path, other):
    path = saved(tmp_path / "ema.pt", make_unet(num_heads=4).state_dict())
    x, sigma = noisy(1.0), torch.tensor(1.0)
    first, second = (
        open_checkpoint(path, arch=f"img_resolution=8{more}").network(x, sigma)
        for more in ("", f",{other}")
    )
    assert relative_error(first, second) > 1e-4


def test_what_was_assumed_is_told(tmp_path):
    path = saved(tmp_path / "model000100.pt", make_unet(num_heads=4).state_dict())
    info = inspect_checkpoint(path, arch="img_resolution=8,num_heads=2")
    facts = {fact.name: (fact.value, fact.origin) for fact in info.network.facts}
    assert facts["num_heads"] == (2, "user")
    assert facts["use_new_attention_order"] == (False, "default")
    told = " ".join(info.network.warnings)
    assert "that of the network in training" in told
    assert "taken for a file of improved-diffusion" in told
    assert "The user says, and the file does not show: img_resolution = 8, num_heads = 2" in told
    assert "schedule = linear, num_steps = 1000, rescale_timesteps = on" in told


@torch.no_grad()
def test_it_is_converted_to_a_native_file_that_needs_no_option(tmp_path):
    model = make_unet(num_heads=4, num_classes=5, out_channels=6)
    path = saved(tmp_path / "ema.pt", model.state_dict())
    arch = "img_resolution=8,schedule=cosine,null_label=last,data_range=0..1"
    native = convert_checkpoint(path, tmp_path / "native.safetensors", arch=arch)
    again = open_checkpoint(tmp_path / "native.safetensors")
    assert again.config == native.config and again.network.label_dim == 4
    assert "Assumed by default" in " ".join(again.warnings)
    x, labels = noisy(1.0), torch.eye(4)[[1, 2]]
    found = open_checkpoint(path, arch=arch).network(x, torch.tensor(1.0), labels)
    assert torch.equal(again.network(x, torch.tensor(1.0), labels), found)
    # The configuration in full may be given as well.
    whole = open_checkpoint(path, config=native.config)
    assert torch.equal(whole.network(x, torch.tensor(1.0), labels), found)


def without(name):
    return lambda weights: weights.pop(name)


def with_(name, *shape):
    return lambda weights: weights.update({name: torch.ones(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("middle_block.1.qkv.bias"), "lacks the tensor 'model.middle_block.1.qkv.bias'"),
        (without("input_blocks.1.0.out_layers.3.weight"), "has no input_blocks.1.0.out_layers.3"),
        (without("time_embed.0.weight"), "has no time_embed.0.weight"),
        (with_("input_blocks.9.0", 1), "levels of different numbers of blocks"),
        (with_("output_blocks.9.0", 1), "levels of different numbers of blocks"),
        (with_("input_blocks.1.1.transformer_blocks.0", 1), "cross-attention to a condition"),
        (with_("input_blocks.0.0.weight"), r"a input_blocks.0.0.weight of shape \[\]"),
        (with_("input_blocks.0.0.weight", 64, 3, 3, 3), "lacks the tensor"),
        (with_("input_blocks.0.0.weight", 32, 6, 3, 3), "given 6 channels and returns 3"),
        (with_("out.2.weight", 4, 32, 3, 3), "given 3 channels and returns 4"),
        (with_("label_emb.weight", 2), "label_emb.weight' is|tensor"),
        (with_("time_embed.0.weight", 0, 0), "model_channels must be|in the file"),
    ],
)
def test_another_network_is_refused_by_its_difference(tmp_path, change, message):
    weights = make_unet(num_heads=4).state_dict()
    change(weights)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(saved(tmp_path / "ema.pt", weights), arch="img_resolution=8")


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (None, "does not say the height and width of its images: say it with arch"),
        ("img_resolution=9", "img_resolution"),
        ("img_resolution=8,num_heads=3", "do not split into 3 heads"),
        ("img_resolution=8,num_heads=2,num_head_channels=16", "no option 'num_head_channels'"),
        ("img_resolution=8,path=gvp", "no option 'path'; its options are img_resolution"),
        ("torchcfm,img_resolution=8,schedule=linear", "A network of torchcfm has no option"),
        ("img_resolution=8,null_label=last", "has no option 'null_label'"),
        ("stylegan", "no preset 'stylegan'. The presets are improved-diffusion"),
        ("cifar10-ddpmpp-edm", "far more weights than the file has"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(tmp_path, arch, message):
    path = saved(tmp_path / "ema.pt", make_unet(num_heads=4).state_dict())
    with pytest.raises((CheckpointError, ConfigError), match=message):
        open_checkpoint(path, arch=arch)


@pytest.mark.parametrize(
    "betas", [[], [0.1], [0.0, 0.1], [0.1, 2.0], [0.1, float("nan")], [[0.1, 0.2]], [1.0, 1.0]]
)
def test_betas_that_are_no_schedule_are_refused(tmp_path, betas):
    _, value = compvis(LINEAR)
    value["state_dict"]["betas"] = torch.tensor(betas)
    path = saved(tmp_path / "last.ckpt", value)
    if betas and isinstance(betas[0], list):  # they are not taken for any
        assert open_checkpoint(path, arch="img_resolution=8").config["schedule"] == "scaled_linear"
    else:
        with pytest.raises(CheckpointError, match="betas are|must ascend"):
            open_checkpoint(path, arch="img_resolution=8")


def mutated(chance: random.Random, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names and shapes that are no longer those of one network."""
    found = dict(weights)
    for _ in range(chance.randint(1, 4)):
        name = chance.choice(list(found))
        tensor = found.pop(name)
        kind = chance.randrange(6)
        if kind == 0:  # another index, of any size
            index = chance.choice(["0", "1", "7", "999", "9999", "99999", "00", "-1", "x"])
            found[re.sub(r"\d+", index, name, count=chance.randint(1, 2))] = tensor
        elif kind == 1:  # another shape
            shape = chance.choices([0, 1, 2, 3, 31, 32, 64, 1000], k=chance.randint(0, 4))
            found[name] = torch.zeros(shape if math.prod(shape) < 1 << 20 else [1])
        elif kind == 2:
            found[name] = tensor.transpose(0, -1).contiguous() if tensor.ndim else tensor
        elif kind == 3:
            found[name] = tensor.to(chance.choice([torch.int64, torch.float16, torch.bool]))
        elif kind == 4:
            found[chance.choice(["", "module.", "model.", "ema."]) + name] = tensor
        # else it is gone
    return found


@pytest.mark.parametrize("rounds", [20, pytest.param(600, marks=pytest.mark.slow)])
def test_names_and_shapes_of_no_network_are_refused(tmp_path, monkeypatch, rounds):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    chance = random.Random(0)
    _, value = compvis(LINEAR)
    whole = make_unet(num_heads=4, num_classes=3, channel_mult=(1,)).state_dict()
    for i in range(rounds):
        if i % 4 == 0:
            mutant: Any = {"state_dict": mutated(chance, value["state_dict"])}
        else:
            mutant = mutated(chance, whole)
        path = saved(tmp_path / "mutant.pt", mutant)
        arch = chance.choice([None, "img_resolution=8", "flow-matching,img_resolution=8"])
        try:
            open_checkpoint(path, arch=arch)
        except MemauditError as error:
            assert 0 < len(str(error)) < 3000
