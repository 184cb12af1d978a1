"""State dicts of MONAI's DiffusionModelUNet with two spatial dimensions (Apache-2.0).

Shapes show widths, blocks, levels of attention and classes. The width of attention heads, the
groups of the norms, the schedule, the target and the range of the images are options, with the
defaults of MONAI and of its tutorials. Files of the package GenerativeModels, from which MONAI took
the network, name attention and upsampling otherwise, and open as well.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.checkpoints.containers.raw_file import Contents
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.models.checkpoints.format import AS_PYTHON, FileFormat
from memaudit.models.checkpoints.given import ArchOption, Facts, Given
from memaudit.models.checkpoints.shapes import count, size
from memaudit.models.checkpoints.weights import find_weights, holds_weights
from memaudit.models.config_values import VALUES, Value
from memaudit.models.precond.discrete import DISCRETE_TARGETS
from memaudit.models.precond.targets import DATA_RANGES
from memaudit.wording import shown

NAME = "MONAI DiffusionModelUNet"
ANCHOR = r"conv_in\.conv\.weight"
SCHEDULES = ("linear_beta", "scaled_linear_beta", "sigmoid_beta", "cosine")
"""MONAI's names."""
OPTIONS = (
    ArchOption("img_resolution", "the height and width of its images", VALUES["img_resolution"]),
    ArchOption("data_range", "the range of its data", Value(str, choices=DATA_RANGES), "0..1"),
    ArchOption(
        "num_head_channels",
        "the channels of its attention heads",
        Value(str),
        "8",
        alternatives=("4", "8", "16", "32", "64", "128"),
    ),
    ArchOption(
        "norm_num_groups",
        "the groups of its norms",
        VALUES["norm_num_groups"],
        32,
        alternatives=("4", "8", "16", "32"),
    ),
    ArchOption("target", "what it predicts", Value(str, choices=DISCRETE_TARGETS), "epsilon"),
    ArchOption("schedule", "its noise schedule", Value(str, choices=SCHEDULES), "linear_beta"),
    ArchOption("num_steps", "its number of noise levels", VALUES["num_steps"], 1000),
    ArchOption("beta_start", "the first beta", VALUES["beta_start"], 1e-4),
    ArchOption("beta_end", "the last beta", VALUES["beta_end"], 0.02),
)
OLD_NAMES = (
    (re.compile(r"\.(attentions\.\d+|attention)\.(to_[qkv])\."), r".\1.attn.\2."),
    (re.compile(r"\.(attentions\.\d+|attention)\.proj_attn\."), r".\1.attn.out_proj."),
    (re.compile(r"\.upsampler\.conv\.conv\."), ".upsampler.postconv.conv."),
)
"""Names of GenerativeModels, and what MONAI made of them."""


def recognizes(contents: Contents) -> bool:
    # An anchor of its own for each, since MONAI's autoencoders and diffusers share names with it.
    return all(
        holds_weights(contents.value, anchor) for anchor in (ANCHOR, r"time_embed\.0\.weight")
    )


def read(contents: Contents, given: Given) -> StoredNetwork:
    found = find_weights(contents.value, ANCHOR)
    assert found is not None
    tensors = {_name(name): tensor for name, tensor in found.tensors.items()}
    if len(tensors) != len(found.tensors):
        raise CheckpointError("it holds a tensor twice, under an old and a new name.")
    _check_variant(tensors)
    network = _network(tensors)
    facts = given.resolve(OPTIONS, {})
    config = {
        "class_name": "DiscretePrecond",
        "model_type": "MONAIUNet",
        **{name: facts[name] for name in ("img_resolution", "data_range", "target")},
        "norm_num_groups": facts["norm_num_groups"],
        "head_channels": _head_channels(facts["num_head_channels"], network),
        **_schedule(facts),
        **network,
    }
    return StoredNetwork(
        format=NAME,
        config=config,
        tensors={
            f"model.{name}": tensor for name, tensor in contents.read_tensors(tensors).items()
        },
        provenance={"weights": found.said},
        warnings=(*facts.warnings, *found.warnings),
        facts=facts.facts,
    )


def _name(name: str) -> str:
    """A weight's name as MONAI has it today."""
    for old, new in OLD_NAMES:
        name = old.sub(new, name)
    return name


def _check_variant(tensors: Mapping[str, StoredTensor]) -> None:
    """Refuse by name what MONAIUNet does not compute."""
    num_dims = len(tensors["conv_in.conv.weight"].shape) - 2
    if num_dims != 2:
        problem = f"with {num_dims} spatial dimensions; one of images has 2"
    elif any(".transformer_blocks." in name for name in tensors):
        problem = "with cross-attention (with_conditioning)"
    else:
        return
    raise CheckpointError(f"it holds a DiffusionModelUNet of MONAI {problem}. {AS_PYTHON}")


def _network(tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """What shapes show."""
    num_levels = count(tensors, "down_blocks.")
    if not num_levels:
        raise CheckpointError("it holds a DiffusionModelUNet of MONAI without down_blocks.")
    levels = range(num_levels)
    attention = "middle_block.attention.attn"
    return {
        "img_channels": size(tensors, "conv_in.conv.weight", axis=1),
        "label_dim": size(tensors, name) if (name := "class_embedding.weight") in tensors else 0,
        "channels": [
            size(tensors, f"down_blocks.{level}.resnets.0.conv1.conv.weight") for level in levels
        ],
        "blocks_per_level": [count(tensors, f"down_blocks.{level}.resnets.") for level in levels],
        "has_attention": [
            int(count(tensors, f"down_blocks.{level}.attentions.") > 0) for level in levels
        ],
        "resblock_updown": "down_blocks.0.downsampler.conv1.conv.weight" in tensors,
        "include_fc": f"{attention}.out_proj.weight" in tensors,
        "use_combined_linear": f"{attention}.qkv.weight" in tensors,
    }


def _head_channels(text: str, network: Mapping[str, Any]) -> list[int]:
    """Channels of a head per level: one number for all, or one per level as 0/256/512."""
    numbers = [int(part) if part.isdecimal() and len(part) < 6 else -1 for part in text.split("/")]
    num_levels = len(network["channels"])
    if len(numbers) == 1:
        numbers *= num_levels
    has_attention = [*network["has_attention"][:-1], 1]  # the middle's heads are the last level's
    if len(numbers) != num_levels or any(
        number < int(has) for number, has in zip(numbers, has_attention, strict=True)
    ):
        raise ConfigError(
            f"In {{arch}}, num_head_channels is {shown(text)}; a number is needed, or one for each "
            f"of the {num_levels} levels, such as {'/'.join(map(str, network['channels']))}.",
            field="arch",
        )
    return [number if has else 1 for number, has in zip(numbers, has_attention, strict=True)]


def _schedule(facts: Facts) -> dict[str, Any]:
    """The noise schedule, in the words of DiscretePrecond."""
    ends = {name: facts[name] for name in ("beta_start", "beta_end")}
    name, num_steps = facts["schedule"], facts["num_steps"]
    if name == "sigmoid_beta":  # β, where others' sigmoid is ᾱ
        start, end = ends.values()
        x = np.linspace(-6, 6, num_steps)
        return {"betas": (1 / (1 + np.exp(-x)) * (end - start) + start).tolist()}
    return {"schedule": name.removesuffix("_beta"), "num_steps": num_steps, **ends}


FORMAT = FileFormat(NAME, recognizes, read, options=OPTIONS)
