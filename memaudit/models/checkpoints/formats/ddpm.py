"""DDPM's PyTorch port, as DDIM, DDRM and their relatives save it (`temb.dense.0`).

A file holds the weights by name, or is the list of those repositories' trainer: the network in
training, its optimizer, epoch, step, and the moving average if there is one. Shapes show the whole
network but the size of its images; the schedule is an option, with DDPM's as its default.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.checkpoints.containers.raw_file import Contents
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.models.checkpoints.format import FileFormat
from memaudit.models.checkpoints.given import ArchOption, Given
from memaudit.models.checkpoints.shapes import count, multiples, size
from memaudit.models.checkpoints.weights import find_weights, holds_weights
from memaudit.models.config_values import VALUES, Value
from memaudit.models.networks.ddpm import NUM_GROUPS
from memaudit.models.precond.discrete import DISCRETE_TARGETS
from memaudit.models.precond.schedules import SCHEDULES
from memaudit.models.precond.targets import DATA_RANGES

NAME = "DDPM PyTorch port"
ANCHOR = r"temb\.dense\.0\.weight"
AUTOENCODER = r"encoder\.mid\.attn_1\.q\.weight"
"""A name of latent diffusion's autoencoders, whose other names are DDPM's."""
TRAINER_LIST = ("in training", "optimizer", "epoch", "step", "ema")
"""What the trainer's list holds, in order; the last one may be missing."""
OPTIONS = (
    ArchOption("img_resolution", "the height and width of its images", VALUES["img_resolution"]),
    ArchOption("target", "what it predicts", Value(str, choices=DISCRETE_TARGETS), "epsilon"),
    ArchOption("schedule", "its noise schedule", Value(str, choices=SCHEDULES), "linear"),
    ArchOption("num_steps", "its number of noise levels", VALUES["num_steps"], 1000),
    ArchOption("beta_start", "the first beta", VALUES["beta_start"], 1e-4),
    ArchOption("beta_end", "the last beta", VALUES["beta_end"], 0.02),
    ArchOption("data_range", "the range of its data", Value(str, choices=DATA_RANGES), "-1..1"),
)


def recognizes(contents: Contents) -> bool:
    value = _by_name(contents.value)
    return holds_weights(value, ANCHOR) or holds_weights(value, AUTOENCODER)


def read(contents: Contents, given: Given) -> StoredNetwork:
    found = find_weights(_by_name(contents.value), ANCHOR)
    if found is None:
        raise CheckpointError(
            "it holds an autoencoder of latent diffusion (CompVis), which does not denoise. Its "
            "names are those of DDPM's U-Net, but it has no embedding of time (temb.dense)."
        )
    if found.is_ema is None and isinstance(contents.value, list):
        found = replace(found, is_ema=False)
    tensors = found.tensors
    network = _network(tensors)
    facts = given.resolve(OPTIONS, {})
    return StoredNetwork(
        format=NAME,
        config={
            "class_name": "DiscretePrecond",
            "model_type": "DDPMUNet",
            "label_dim": 0,
            **{option.name: facts[option.name] for option in OPTIONS},
            **network,
        },
        tensors={
            f"model.{name}": tensor for name, tensor in contents.read_tensors(tensors).items()
        },
        # The default of these trainers' configurations, which are not in the file.
        provenance={"weights": found.said, "assumed": {"xflip": True}},
        warnings=(
            *facts.warnings,
            *found.warnings,
            "The file does not say whether its training images were mirrored; the trainers of this "
            "family do so unless they are told otherwise, so mirrored copies are searched, too.",
        ),
        facts=facts.facts,
    )


def _by_name(value: Any) -> Any:
    """The trainer's list as a dict; any other value as it is."""
    if isinstance(value, list) and 2 <= len(value) <= len(TRAINER_LIST):
        return dict(zip(TRAINER_LIST, value, strict=False))
    return value


def _network(tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """What shapes show."""
    levels = range(count(tensors, "down."))
    if not levels:
        raise CheckpointError("it holds a DDPM U-Net without its levels (down.0, down.1, …).")
    model_channels = size(tensors, "conv_in.weight")
    if not model_channels or model_channels % NUM_GROUPS:
        raise CheckpointError(
            f"its first convolution has {model_channels} channels; the norms of this family have "
            f"{NUM_GROUPS} groups."
        )
    widths = [size(tensors, f"down.{level}.block.0.conv1.weight") for level in levels]
    img_channels = size(tensors, "conv_in.weight", axis=1)
    return {
        "img_channels": img_channels,
        "learned_variance": size(tensors, "conv_out.weight") == 2 * img_channels,
        "model_channels": model_channels,
        "channel_mult": multiples(widths, model_channels),
        "num_blocks": count(tensors, "down.0.block."),
        "has_attention": [int(count(tensors, f"down.{level}.attn.") > 0) for level in levels],
        "conv_resample": len(levels) == 1 or "down.0.downsample.conv.weight" in tensors,
    }


FORMAT = FileFormat(NAME, recognizes, read, options=OPTIONS)
