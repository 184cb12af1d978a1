"""The options of an OpenAIUNet that the names and shapes of its weights show."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

INDEX = re.compile(r"^(input|output)_blocks\.(\d{1,4})\.")
STANDARD_SIZES: Mapping[tuple[float, ...], int] = {
    (1, 2, 2): 28,
    (1, 2, 2, 2): 32,
    (2, 2, 2): 32,
    (1, 2, 3, 4): 64,
    (1, 1, 2, 3, 4): 128,
    (1, 1, 2, 2, 4, 4): 256,
    (0.5, 1, 1, 2, 2, 4, 4): 512,
}
"""Multipliers of the levels' channels → the size of images for which programs choose them."""


class OtherNetworkError(ValueError):
    """Names and shapes are not those of an OpenAIUNet; says what is."""


def unet_options(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """What the names and shapes of a U-Net's weights show.

    Args:
        shapes: by OpenAI's names, such as `input_blocks.0.0.weight`.

    Returns:
        The constructor's keywords, less num_heads, num_head_channels, use_new_attention_order and
        img_resolution, which are not shown; label_dim counts all rows of the class embedding.

    Raises:
        OtherNetworkError: they are those of another network.
    """
    if any(".transformer_blocks." in name for name in shapes):
        raise OtherNetworkError(
            "cross-attention to a condition (spatial transformers), as text-to-image models have"
        )
    inputs, outputs = (_indices(shapes, kind) for kind in ("input", "output"))
    num_blocks, change = _blocks_per_level(shapes, inputs, outputs)
    num_levels, rest = divmod(len(outputs), num_blocks + 1)
    if rest or outputs != set(range(len(outputs))) or max(inputs) >= num_levels * (num_blocks + 1):
        raise OtherNetworkError("levels of different numbers of blocks")
    first = [f"input_blocks.{1 + level * (num_blocks + 1)}" for level in range(num_levels)]
    channels = [_outputs(shapes, f"{block}.0.out_layers.3") for block in first]
    return {
        "in_channels": _shape(shapes, "input_blocks.0.0.weight", 4)[1],
        "out_channels": _outputs(shapes, "out.2"),
        "label_dim": _outputs(shapes, "label_emb") if "label_emb.weight" in shapes else 0,
        "model_channels": _shape(shapes, "time_embed.0.weight", 2)[1],
        "level_channels": channels,
        "stem_channels": _outputs(shapes, "input_blocks.0.0"),
        "num_blocks": num_blocks,
        "attn_levels": [
            level for level, block in enumerate(first) if f"{block}.1.qkv.weight" in shapes
        ],
        "use_scale_shift_norm": _outputs(shapes, f"{first[0]}.0.emb_layers.1") == 2 * channels[0],
        "resblock_updown": change == "block",
        "conv_resample": change != "none",
    }


def standard_size(options: Mapping[str, Any]) -> int | None:
    """The size of images that programs choose these levels for; None if that is not known."""
    base = max(options["model_channels"], 1)
    return STANDARD_SIZES.get(tuple(channels / base for channels in options["level_channels"]))


def _blocks_per_level(
    shapes: Mapping[str, Sequence[int]], inputs: set[int], outputs: set[int]
) -> tuple[int, str]:
    """num_blocks, and what changes the resolution: a `conv`, a `block`, or `none` with weights."""
    for j in sorted(outputs):
        for part in (1, 2):
            if f"output_blocks.{j}.{part}.conv.weight" in shapes:
                return j, "conv"
            if f"output_blocks.{j}.{part}.in_layers.0.weight" in shapes:
                return j, "block"
    # Layers without weights leave out an index.
    left_out = set(range(max(inputs))) - inputs
    if left_out:
        return max(min(left_out) - 1, 0), "none"
    return len(outputs) - 1, "conv"


def _indices(shapes: Mapping[str, Sequence[int]], kind: str) -> set[int]:
    matches = (INDEX.match(name) for name in shapes)
    indices = {int(match[2]) for match in matches if match and match[1] == kind}
    if not indices or len(indices) > len(shapes):
        raise OtherNetworkError(f"no {kind}_blocks")
    return indices


def _outputs(shapes: Mapping[str, Sequence[int]], module: str) -> int:
    """Output channels of a module."""
    return _shape(shapes, f"{module}.weight", 1)[0]


def _shape(shapes: Mapping[str, Sequence[int]], name: str, least: int) -> Sequence[int]:
    shape = shapes.get(name)
    if shape is None or len(shape) < least:
        raise OtherNetworkError(
            f"no {name}" if shape is None else f"a {name} of shape {list(shape)}"
        )
    return shape
