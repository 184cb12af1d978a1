"""Weights alone, by EDM's parameter names: .pt, .pth, .pkl or .safetensors without a configuration.

The file holds the tensors by name, or a dict with them under a usual key. Names may be those of a
denoiser (`model.enc...`) or of its U-Net alone (`enc...`), behind the prefixes that torch's
wrappers add. The configuration comes from the user, by a preset's name or in full.
"""

import re
from collections.abc import Mapping
from typing import Any

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.assembly import build_uninitialized
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.checkpoints.containers.raw_file import Contents
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.models.checkpoints.format import FileFormat
from memaudit.models.checkpoints.given import Given
from memaudit.models.checkpoints.weight_names import ANCHOR, by_precond_names, within_unet
from memaudit.models.checkpoints.weights import find_weights, holds_weights
from memaudit.models.published_networks import PRESETS

NAME = "state dict"
BLOCK_PART = re.compile(r"^enc\.(?P<res>\d{1,5})x(?P=res)_block(?P<block>\d{1,3})\.")
MAX_LEVELS = 10


def recognizes(contents: Contents) -> bool:
    return holds_weights(contents.value, ANCHOR)


def read(contents: Contents, given: Given) -> StoredNetwork:
    found = find_weights(contents.value, ANCHOR)
    assert found is not None
    tensors = by_precond_names(found.tensors)
    config = given.config
    if config is None:
        raise CheckpointError(
            f"it holds weights without a configuration. {_hint(tensors)}", field="arch"
        )
    weights = contents.read_tensors(tensors)
    if config.get("class_name") == "iDDPMPrecond":
        weights.setdefault(
            "u", build_uninitialized(config, present=weights).get_buffer("u")
        )  # Not part of the U-Net.
    return StoredNetwork(
        NAME,
        config,
        weights,
        provenance={"weights": found.said},
        warnings=(
            "The configuration is the user's: the file has none, only names and shapes fit.",
            *found.warnings,
        ),
    )


def _hint(tensors: Mapping[str, StoredTensor]) -> str:
    """The presets that the names and shapes allow, for a user who must choose."""
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    fitting = [preset.name for preset in PRESETS if _fits(preset.config, shapes)]
    if fitting:
        return (
            f"Names and shapes fit the presets {', '.join(fitting)}, which differ in what shapes "
            "do not show: name the one that it was trained as with {arch}."
        )
    return (
        f"Names and shapes fit no preset. They show {_facts(shapes)}. Pass the whole "
        "configuration: class_name and the constructor's keywords."
    )


def _fits(config: Mapping[str, Any], shapes: Mapping[str, list[int]]) -> bool:
    # Most presets differ in width already, which spares laying them out.
    if shapes.get("model.map_layer0.bias") != [4 * config["model_channels"]]:
        return False
    expected = {name: list(t.shape) for name, t in build_uninitialized(config).state_dict().items()}
    expected.pop("u", None)
    return expected == {name: shape for name, shape in shapes.items() if name != "u"}


def _facts(shapes: Mapping[str, list[int]]) -> str:
    """Options of the constructors that names and shapes reveal, as keyword = value."""
    inner = {within_unet(name): shape for name, shape in shapes.items()}
    blocks = [match for name in inner if (match := BLOCK_PART.match(name))]
    levels = sorted({int(match["res"]) for match in blocks}, reverse=True)[:MAX_LEVELS]
    facts = {
        "model_type": "DhariwalUNet" if "out_conv.weight" in inner else "SongUNet",
        "levels": [f"{res}x{res}" for res in levels],
        "channels": [inner.get(f"enc.{res}x{res}_block0.norm1.bias") for res in levels],
        "num_blocks": len({match["block"] for match in blocks}),
        "attn_resolutions": [
            res for res in levels if f"enc.{res}x{res}_block0.qkv.weight" in inner
        ],
        "label_dim": (inner.get("map_label.weight") or [0])[-1],
        "augment_dim": (inner.get("map_augment.weight") or [0])[-1],
    }
    return ", ".join(f"{option} = {value}" for option, value in facts.items())


FORMAT = FileFormat(NAME, recognizes, read, takes_config=True)
