"""lucidrains' denoising-diffusion-pytorch (MIT): files of its Trainer, and state dicts.

    Trainer's model-N.pt       step, model, opt, ema, scaler, version
    `ema`                      initted, step, online_model.…, ema_model.…
    GaussianDiffusion          betas, alphas_cumprod, …, loss_weight and the Unet under model.…

The buffers of GaussianDiffusion say how the network is preconditioned: the noise levels, and by the
weights of the loss what the network predicts. With s = ᾱ/(1 − ᾱ) and m = s, or m = min(s, γ) with
`min_snr_loss_weight`,

    pred_noise   loss_weight = m/s
    pred_x0      loss_weight = m
    pred_v       loss_weight = m/(s + 1)

A network with a learned variance was trained on the noise whatever its loss_weight says
(LearnedGaussianDiffusion). One that is self-conditioned is run twice, as in its training.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.checkpoints.containers.raw_file import Contents
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.models.checkpoints.format import AS_PYTHON, FileFormat
from memaudit.models.checkpoints.given import ArchOption, Given
from memaudit.models.checkpoints.shapes import count, multiples, size
from memaudit.models.checkpoints.weights import Weights, find_weights, holds_weights
from memaudit.models.config_values import MAX_LEVELS, VALUES, Value
from memaudit.models.precond.schedules import schedule_betas, sigmas_of
from memaudit.models.precond.targets import DATA_RANGES

NAME = "lucidrains denoising-diffusion-pytorch"
PACKAGE = "lucidrains' denoising-diffusion-pytorch"
TRAINER = {"step", "model", "opt", "ema"}
"""Keys of its Trainer's files."""
PLACES = ("model.", "net.", "denoise_fn.", "")
"""Where GaussianDiffusion, ElucidatedDiffusion and GaussianDiffusion before 2022 keep the Unet."""
ANCHOR = r"(?:model\.|net\.|denoise_fn\.)?downs\.0\..+"
PARTS = tuple(
    re.compile(rf"(?:model\.|net\.|denoise_fn\.)?{part}")
    for part in (r"ups\.0\.", r"(?:time_mlp|to_time_emb)\.", r"(?:final_conv|output_block)\.")
)
"""Names that only Unets of this package have, all of them."""
BUFFERS = ("betas", "alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "loss_weight")
TOLERANCE = 1e-2
"""Largest relative difference between what two buffers say; half precision has 1e-3."""
SAME_SCHEDULE = 1e-5
"""Largest relative difference of noise levels that are those of a named schedule."""
OWN_SCHEDULE = "in numbers"
SCHEDULES = ("sigmoid", "cosine", "linear")
TARGETS = {"epsilon": "pred_noise", "sample": "pred_x0", "v_prediction": "pred_v"}
"""Our names of what a network predicts, and the package's."""

OPTIONS = (
    ArchOption("img_resolution", "the height and width of its images", VALUES["img_resolution"]),
    ArchOption("target", "what it predicts", Value(str, choices=tuple(TARGETS))),
    ArchOption("schedule", "its noise schedule", Value(str, choices=SCHEDULES)),
    ArchOption("num_steps", "its number of noise levels", VALUES["num_steps"], 1000),
    ArchOption("norm_groups", "its resnet_block_groups", VALUES["norm_groups"], 8),
    ArchOption(
        "theta", "sinusoidal_pos_emb_theta of its Unet", VALUES["theta"], 10000, is_told=False
    ),
    ArchOption(
        "data_range",
        "the range of its data",
        Value(str, choices=DATA_RANGES),
        "-1..1",
        is_told=False,
    ),
)

VARIANTS = (
    (
        re.compile(r"(?:^|\.)input_block\.weight$"),
        "a KarrasUnet, whose arithmetic is another",
    ),
    (re.compile(r"(?:^|\.)null_classes_emb$"), "the Unet of classifier_free_guidance.py"),
    (re.compile(r"\.ds_conv\.weight$"), "a Unet with ConvNeXt blocks, of January to May 2022"),
    (
        re.compile(r"\.block1\.block\.\d+\.weight$"),
        "a Unet with GroupNorm, of before August 2022",
    ),
    (re.compile(r"\.fn\.fn\.to_qkv\.weight$"), "a Unet with PreNorm, of before June 2023"),
)
"""Names of weights that other Unets of the package have, and what those are."""


def recognizes(contents: Contents) -> bool:
    if not holds_weights(contents.value, ANCHOR):
        return False
    found = find_weights(contents.value, ANCHOR)
    return found is not None and all(
        any(part.match(name) for name in found.tensors) for part in PARTS
    )


def read(contents: Contents, given: Given) -> StoredNetwork:
    found = find_weights(contents.value, ANCHOR)
    assert found is not None
    if found.is_ema is None and contents.value.keys() >= TRAINER:
        found = replace(found, is_ema=False)
    unet = _unet(found)
    network = _network(unet)
    facts_of_file = _schedule(contents, found)
    betas = facts_of_file.pop("betas", None)
    if network["learned_variance"]:
        facts_of_file["target"] = "epsilon"
    if network["fourier_dim"]:
        facts_of_file["theta"] = 10000  # not used
    if "mid_block1.block1.norm.g" in unet:
        facts_of_file["norm_groups"] = 0
    facts = given.resolve(OPTIONS, facts_of_file)

    config = {
        "class_name": "SelfConditionedPrecond" if network["self_condition"] else "DiscretePrecond",
        "model_type": "LucidrainsUNet",
        "label_dim": 0,
        **{
            name: facts[name]
            for name in ("img_resolution", "target", "theta", "norm_groups", "data_range")
        },
        **network,
    }
    if facts["schedule"] == OWN_SCHEDULE:
        config["betas"] = betas
    else:
        config |= {"schedule": facts["schedule"], "num_steps": facts["num_steps"]}
    return StoredNetwork(
        format=NAME,
        config=config,
        tensors={f"model.{name}": tensor for name, tensor in contents.read_tensors(unet).items()},
        # The Trainer's default; its augment_horizontal_flip is not in the file.
        provenance={"weights": found.said, "assumed": {"xflip": True}},
        warnings=(*facts.warnings, *found.warnings, *_warnings(contents, network)),
        facts=facts.facts,
    )


def _unet(found: Weights) -> dict[str, StoredTensor]:
    """The weights of the Unet by its names; other networks of the package are refused by name."""
    for pattern, what in VARIANTS:
        if any(pattern.search(name) for name in found.tensors):
            raise CheckpointError(
                f"it holds {what}, of {PACKAGE}; memaudit knows its Unet since October 2023. "
                f"{AS_PYTHON}"
            )
    place = next(
        place
        for place in PLACES
        if any(name.startswith(f"{place}downs.") for name in found.tensors)
    )
    if place == "net.":
        raise CheckpointError(f"it holds an ElucidatedDiffusion of {PACKAGE}. {AS_PYTHON}")
    unet = {
        name.removeprefix(place): tensor
        for name, tensor in found.tensors.items()
        if name.startswith(place)
    }
    first = unet.get("init_conv.weight")
    if first is not None and len(first.shape) != 4:
        raise CheckpointError(
            f"it holds a Unet of {PACKAGE} whose first convolution has {len(first.shape) - 2} "
            "dimensions; one of images has 2."
        )
    if "mid_attn.mem_kv" not in unet:
        raise CheckpointError(
            f"it holds a Unet of {PACKAGE} without mem_kv, of before October 2023 (1.9.0); "
            f"memaudit knows it since then. {AS_PYTHON}"
        )
    if "time_mlp.0.weights" in unet and "betas" not in found.tensors:
        raise CheckpointError(
            f"it holds a Unet of {PACKAGE} with a Fourier embedding of time and without betas: one "
            "of continuous time (ContinuousTimeGaussianDiffusion or ElucidatedDiffusion), whose "
            f"noise levels it does not say. {AS_PYTHON}"
        )
    return unet


def _network(unet: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """What shapes show."""
    num_levels = count(unet, "downs.")
    if not num_levels or "time_mlp.1.weight" not in unet:
        raise CheckpointError(f"it holds a part of a Unet of {PACKAGE}, and not all of it.")
    model_channels = size(unet, "time_mlp.1.weight") // 4
    in_channels = size(unet, "init_conv.weight", axis=1)
    out_channels = size(unet, "final_conv.weight")
    if out_channels == 2 * in_channels + 2:
        raise CheckpointError(
            f"it holds a WeightedObjectiveGaussianDiffusion of {PACKAGE}: it returns "
            f"{out_channels} channels for {in_channels}. {AS_PYTHON}"
        )
    if in_channels not in (out_channels, 2 * out_channels) and out_channels != 2 * in_channels:
        raise CheckpointError(
            f"its Unet takes {in_channels} channels and returns {out_channels}; as many, half as "
            "many (self-conditioning) or twice as many (a learned variance) are known."
        )
    self_condition = in_channels == 2 * out_channels

    widths, full_attn, heads, dim_heads = [], [], [], []
    for level in range(num_levels):
        down = f"downs.{level}"
        is_last = level == num_levels - 1
        widths.append(size(unet, f"{down}.3.weight" if is_last else f"{down}.3.1.weight"))
        is_full = f"{down}.2.to_out.weight" in unet
        full_attn.append(int(is_full))
        heads.append(size(unet, f"{down}.2.mem_kv", axis=1))
        dim_heads.append(size(unet, f"{down}.2.mem_kv", axis=3 if is_full else 2))
    frequencies = "time_mlp.0.weights"
    return {
        "img_channels": out_channels if self_condition else in_channels,
        "learned_variance": out_channels == 2 * in_channels,
        "self_condition": self_condition,
        "model_channels": model_channels,
        "channel_mult": multiples(widths, model_channels),
        "init_channels": size(unet, "init_conv.weight"),
        "full_attn": full_attn,
        "attn_heads": heads,
        "attn_dim_head": dim_heads,
        "fourier_dim": 2 * size(unet, frequencies) if frequencies in unet else 0,
    }


def _schedule(contents: Contents, found: Weights) -> dict[str, Any]:
    """What the buffers say of noise levels and target; nothing if the Unet was saved alone.

    Raises:
        CheckpointError: they contradict each other.
    """
    stored = {name: found.tensors[name] for name in BUFFERS if name in found.tensors}
    if "betas" not in stored:
        return {}
    num_steps = size(stored, "betas")
    if any(tensor.shape != (num_steps,) for tensor in stored.values()):
        raise CheckpointError("its noise schedule has buffers of different lengths.")
    if not 2 <= num_steps <= MAX_LEVELS:
        raise CheckpointError(
            f"its noise schedule has {num_steps:,} levels; from 2 to {MAX_LEVELS:,} are known."
        )
    buffers: dict[str, NDArray[np.float64]] = {
        name: tensor.double().numpy() for name, tensor in contents.read_tensors(stored).items()
    }
    betas = buffers["betas"]
    if not ((betas > 0) & (betas <= 1)).all():
        raise CheckpointError("its noise schedule has betas that are not in (0, 1].")
    sigmas = sigmas_of(betas)
    with np.errstate(divide="ignore"):
        said = {
            "alphas_cumprod": 1 / (1 + sigmas**2),
            "sqrt_recipm1_alphas_cumprod": sigmas,
        }
    for name, expected in said.items():
        if name in buffers and not _close(buffers[name], expected):
            raise CheckpointError(
                f"its {name} is not what its betas make of it: the file was altered, or it is "
                "another package's."
            )
    shown_by_file: dict[str, Any] = {
        "num_steps": num_steps,
        "schedule": OWN_SCHEDULE,
        "betas": betas.tolist(),
    }
    for name in ("linear", "cosine", "sigmoid"):
        named = schedule_betas(name, num_steps)
        if (named <= 1).all() and _close(sigmas_of(named), sigmas, tolerance=SAME_SCHEDULE):
            shown_by_file["schedule"] = name
    if "loss_weight" in buffers:
        shown_by_file["target"] = _target(buffers["loss_weight"], sigmas)
    return shown_by_file


def _target(loss_weight: NDArray[np.float64], sigmas: NDArray[np.float64]) -> str:
    """What the network predicts, by the weights of its loss at each noise level."""
    finite = np.isfinite(sigmas)
    snr = 1 / sigmas[finite] ** 2
    factors = {"epsilon": snr, "sample": np.ones_like(snr), "v_prediction": snr + 1}
    fitting = []
    for target, factor in factors.items():
        clipped = loss_weight[finite] * factor  # m, which min_snr_gamma bounds, if anything
        if _close(clipped, np.minimum(snr, clipped.max())):
            fitting.append(target)
    if len(fitting) != 1:
        raise CheckpointError(
            "its loss_weight is not what the package makes of its noise schedule for pred_noise, "
            "pred_x0 or pred_v, so that the file does not say what its network predicts."
        )
    return fitting[0]


def _close(
    found: NDArray[np.float64], expected: NDArray[np.float64], tolerance: float = TOLERANCE
) -> bool:
    return bool(np.allclose(found, expected, rtol=tolerance, atol=0, equal_nan=False))


def _warnings(contents: Contents, network: Mapping[str, Any]) -> tuple[str, ...]:
    warnings = [
        "The file does not say whether its training images were mirrored; the package's Trainer "
        "does so unless it is told otherwise, so mirrored copies are searched, too."
    ]
    average = contents.value.get("ema")
    begun = average.get("initted") if isinstance(average, dict) else None
    if isinstance(begun, StoredTensor) and begun.num_elements == 1:
        if not contents.read_tensors({"initted": begun})["initted"].item():
            warnings.append(
                "The moving average had not begun when the file was written (its `initted` is "
                "false), so that it was not taken: the training was at an early step."
            )
    if network["self_condition"]:
        warnings.append(
            "The network is self-conditioned. It is run twice for each noise level, the second "
            "time with its first estimate, cut to [-1, 1]; the package's sampler gives it the "
            "estimate of the noise level before, which comes close to it with many steps."
        )
    if network["learned_variance"]:
        warnings.append(
            "The network returns a variance, too, which is left out. The package trains such a "
            "network on the noise, whatever its loss_weight says."
        )
    return tuple(warnings)


FORMAT = FileFormat(NAME, recognizes, read, options=OPTIONS)
