"""OpenAI's ADM state dicts (guided-diffusion, consistency_models) as DhariwalUNet.

EDM's DhariwalUNet computes what OpenAI's UNetModel does where that has scale-shift norms and
residual up- and downsampling. Only names and three layouts differ: class embeddings are a table
(here a matrix, its transpose), attention layers are one-dimensional convolutions, and the output
channels of the q, k, v layer are in another order:

    "head first"  head, then q/k/v, then channel   guided-diffusion, by default
    "qkv first"   q/k/v, then head, then channel   guided-diffusion with use_new_attention_order;
                                                   consistency_models with flash attention
    DhariwalUNet  head, then channel, then q/k/v

Shapes do not tell the first two apart, and the wrong one gives a network that does not denoise, so
the user says which.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints.assembly import build_uninitialized
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.checkpoints.containers.raw_file import Contents
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.models.checkpoints.format import FileFormat
from memaudit.models.checkpoints.given import Given
from memaudit.models.checkpoints.weights import find_tensors
from memaudit.models.networks.dhariwal import CHANNELS_PER_HEAD
from memaudit.models.published_networks import OPENAI_PRESETS
from memaudit.wording import listed, shown

NAME = "OpenAI ADM state dict"
QKV_ORDERS = ("head first", "qkv first")
MIN_CHANNELS = 128
"""OpenAI's norms always have 32 groups; DhariwalUNet's have fewer below this."""

TOP = {
    "map_layer0": "time_embed.0",
    "map_layer1": "time_embed.2",
    "map_label": "label_emb",
    "out_norm": "out.0",
    "out_conv": "out.2",
}
BLOCK = {
    "norm0": "in_layers.0",
    "conv0": "in_layers.2",
    "affine": "emb_layers.1",
    "norm1": "out_layers.0",
    "conv1": "out_layers.3",
    "skip": "skip_connection",
}
ATTENTION = {"norm2": "norm", "qkv": "qkv", "proj": "proj_out"}
"""Modules of a DhariwalUNet, and what OpenAI calls them."""


def recognizes(contents: Contents) -> bool:
    tensors, _ = find_tensors(contents.value)
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"} <= tensors.keys()


def read(contents: Contents, given: Given) -> StoredNetwork:
    tensors, _ = find_tensors(contents.value)
    _check_variant(tensors)
    config = given.config
    if config is None:
        raise CheckpointError(
            "it holds an ADM network of OpenAI's without a configuration. Name the preset that it "
            f"was trained as with {{arch}}: {', '.join(p.name for p in OPENAI_PRESETS)}. "
            "docs/checkpoints.md says how to tell the order of its attention layers.",
            field="arch",
        )
    options = dict(config)
    order = options.pop("qkv_order", None)
    if order not in QKV_ORDERS:
        raise ConfigError(
            f"qkv_order is {order!r}; a network of OpenAI's needs one of {', '.join(QKV_ORDERS)}."
        )
    network = build_uninitialized(options, present=tensors)
    weights = contents.read_tensors(tensors)
    return StoredNetwork(
        format=NAME,
        config=options,
        tensors=_converted(network, weights, order),
        warnings=(
            f"The user says that its attention layers are ordered {order!r}; the file does not.",
        ),
    )


def _check_variant(tensors: Mapping[str, StoredTensor]) -> None:
    """Refuse networks whose arithmetic a DhariwalUNet does not have."""
    model_channels = _outputs(tensors, "input_blocks.0.0")
    if model_channels < MIN_CHANNELS:
        problem = f"norms of 32 groups on {model_channels} channels"
    elif any(name.endswith((".op.weight", ".conv.weight")) for name in tensors):
        problem = "up- and downsampling outside residual blocks (resblock_updown is off)"
    elif _outputs(tensors, "input_blocks.1.0.emb_layers.1") == model_channels:
        problem = "norms without scale and shift (use_scale_shift_norm is off, as for LSUN)"
    else:
        return
    raise CheckpointError(
        f"it holds an ADM network of OpenAI's with {problem}, which EDM's DhariwalUNet lacks. "
        "Give it to memaudit as a Python denoiser (module:function)."
    )


def _outputs(tensors: Mapping[str, StoredTensor], module: str) -> int:
    """Output channels of a module; 0 if it has no such weight."""
    tensor = tensors.get(f"{module}.weight")
    return tensor.shape[0] if tensor is not None and tensor.shape else 0


def _converted(network: nn.Module, weights: Mapping[str, Tensor], order: str) -> dict[str, Tensor]:
    """The weights by EDM's names and in its layouts."""
    places = dict(_places(network))
    left = dict(weights)
    converted = {}
    for name, expected in network.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module not in places or kind == "resample_filter":
            converted[name] = expected  # A filter or the noise levels, which are not weights.
            continue
        theirs = f"{places[module]}.{kind}"
        if theirs not in left:
            raise CheckpointError(f"it lacks the tensor {shown(theirs)}, which ADM calls for.")
        tensor = left.pop(theirs)
        if module == "model.map_label" and tensor.ndim == 2:
            tensor = tensor.T.contiguous()
        elif tensor.ndim == 3:
            tensor = tensor[..., None]
        if module.endswith(".qkv") and tensor.shape == expected.shape:
            tensor = _reordered(tensor, order)
        converted[name] = tensor
    if left:
        raise CheckpointError(f"it holds the tensor {listed(left)}, which its configuration lacks.")
    return converted


def _reordered(tensor: Tensor, order: str) -> Tensor:
    """q, k, v channels [3C, ...] in DhariwalUNet's order."""
    d = CHANNELS_PER_HEAD
    if order == "head first":
        parts = tensor.reshape(-1, 3, d, *tensor.shape[1:]).transpose(1, 2)  # [heads, d, 3, ...]
    else:
        parts = tensor.reshape(3, -1, d, *tensor.shape[1:]).movedim(0, 2)
    return parts.reshape(tensor.shape)


def _places(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Modules with weights in `network`, and where OpenAI keeps them."""
    unet: Any = network.model
    for ours, theirs in TOP.items():
        yield f"model.{ours}", theirs
    for i, name in enumerate(unet.enc):
        if name.endswith("_conv"):
            yield f"model.enc.{name}", "input_blocks.0.0"
        else:
            yield from _block(f"model.enc.{name}", f"input_blocks.{i}", 0)
    i, last = -1, 0
    for name, block in unet.dec.items():
        if name.endswith("_in0"):
            yield from _block(f"model.dec.{name}", "middle_block", 0)
        elif name.endswith("_in1"):
            yield from _block(f"model.dec.{name}", "middle_block", 2)
        elif name.endswith("_up"):  # The last part of the level's last group.
            yield from _block(f"model.dec.{name}", f"output_blocks.{i}", last)
        else:
            i += 1
            yield from _block(f"model.dec.{name}", f"output_blocks.{i}", 0)
            last = 2 if block.num_heads else 1


def _block(ours: str, group: str, position: int) -> Iterator[tuple[str, str]]:
    for module, theirs in BLOCK.items():
        yield f"{ours}.{module}", f"{group}.{position}.{theirs}"
    for module, theirs in ATTENTION.items():
        yield f"{ours}.{module}", f"{group}.{position + 1}.{theirs}"


FORMAT = FileFormat(NAME, recognizes, read, takes_config=True)
