"""The list `all_modules` of score_sde_pytorch's U-Nets, in the order of execution, as a SongUNet.

    [Fourier W], linear, linear, conv 3×3
    per level    {block [, attention]} × num_blocks, [block that halves the resolution [, pyramid]]
    middle       block, attention, block
    per level    block × (num_blocks + 1) [, attention] [, norm, conv] [, block that doubles it]
    [norm, conv]

A block is GroupNorm_0, Conv_0, Dense_0, GroupNorm_1, Conv_1 and, where its shortcut has weights,
Conv_2; an attention layer is GroupNorm_0 and NIN_0 … NIN_3 for q, k, v and the output, each W [in,
out] and b.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.wording import listed, shown

ENTRY = re.compile(r"^all_modules\.(?P<index>\d{1,4})\.(?P<name>[\w.]{1,40})$", re.ASCII)
BLOCK = {
    "norm0": "GroupNorm_0",
    "conv0": "Conv_0",
    "affine": "Dense_0",
    "norm1": "GroupNorm_1",
    "conv1": "Conv_1",
}
"""Modules of a UNetBlock, and what score_sde_pytorch calls them; its `skip` is Conv_2."""
ATTENTION = ("GroupNorm_0", "NIN_0", "NIN_1", "NIN_2", "NIN_3")


@dataclass(frozen=True)
class Entry:
    """An entry of all_modules: what it is, and how many channels it takes and returns."""

    kind: str
    inputs: int
    outputs: int
    has_shortcut: bool = False
    """Whether a block's shortcut has weights."""


def entries_of(tensors: Mapping[str, StoredTensor]) -> list[Entry]:
    """What the entries of all_modules are, in order.

    Raises:
        CheckpointError: one is not of DDPM++ or NCSN++.
    """
    shapes: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        if match := ENTRY.match(name):
            shapes.setdefault(int(match["index"]), {})[match["name"]] = tensor.shape
        elif name != "sigmas":
            raise CheckpointError(
                f"it holds the tensor {shown(name)}, which no U-Net of score_sde_pytorch has."
            )
    if sorted(shapes) != list(range(len(shapes))):
        raise CheckpointError(
            "its list all_modules has entries without weights: the U-Net is score_sde_pytorch's "
            "`ddpm`, or has resblock_type `ddpm`, which memaudit does not know; DDPM++ and NCSN++ "
            "have `biggan`."
        )
    return [_entry(index, shapes[index]) for index in sorted(shapes)]


def _entry(index: int, shapes: Mapping[str, tuple[int, ...]]) -> Entry:
    first = next((shape for name, shape in shapes.items() if name.endswith("weight")), ())
    names = {name.removesuffix(".weight") for name in shapes if name.endswith(".weight")}
    sizes = (first[1], first[0]) if len(first) > 1 else (first[0], first[0]) if first else (0, 0)
    if set(shapes) == {"W"}:
        return Entry("fourier", 0, 0)
    if set(shapes) == {"weight", "bias"}:
        return Entry({1: "norm", 2: "linear", 4: "conv"}.get(len(first), ""), *sizes)
    if "NIN_3.W" in shapes and "GroupNorm_0.weight" in shapes:
        return Entry("attention", *sizes)
    if names in (set(BLOCK.values()), {*BLOCK.values(), "Conv_2"}):
        conv = shapes["Conv_0.weight"]
        if len(conv) == 4 and "NIN_0.W" not in shapes:
            return Entry("block", conv[1], conv[0], "Conv_2" in names)
    if names == {"Conv2d_0"}:
        return Entry("filtered conv", *sizes)
    if names == {"Conv_0"} and first[2:] == (1, 1):
        return Entry("combine", *sizes)
    raise CheckpointError(
        f"entry {index} of its list all_modules holds {listed(shapes)}, which is not a part of "
        "DDPM++ or NCSN++ with resblock_type `biggan`: memaudit does not know the others."
    )


def structure_of(modules: list[Entry]) -> dict[str, Any]:
    """The options of SongUNet that the list of modules shows, and `attention_levels`.

    Raises:
        CheckpointError: it is not in the order of DDPM++ or NCSN++.
    """
    kinds = [module.kind for module in modules]
    has_fourier = kinds[:1] == ["fourier"]
    start = int(has_fourier)
    if kinds[start : start + 3] != ["linear", "linear", "conv"]:
        raise CheckpointError(
            "its list all_modules does not begin with the embedding of the noise level (two linear "
            "layers) and a convolution: the network is not one of DDPM++ or NCSN++."
        )
    conv = modules[start + 2]
    width = conv.outputs

    # The encoder and the middle end where a block takes more channels than its predecessor gives.
    levels: list[list[Entry]] = [[]]
    pyramid: set[str] = set()
    current = width
    position = start + 3
    for position in range(start + 3, len(modules)):
        module = modules[position]
        if module.kind in ("combine", "filtered conv"):
            pyramid.add(module.kind)
            continue
        if module.kind not in ("block", "attention") or module.inputs != current:
            break
        if module.kind == "block" and module.has_shortcut and module.inputs == module.outputs:
            levels.append([])
        else:
            levels[-1].append(module)
        current = module.outputs
    decoder = modules[position:]
    if pyramid and decoder and decoder[0].inputs == 2 * current:
        following = decoder[0]
        if not levels[-1] and following.kind == "block":
            raise CheckpointError(
                "its pyramid of inputs is concatenated (progressive_combine `cat`), which memaudit "
                "does not know; `sum` is needed."
            )
    middle, levels[-1] = [m.kind for m in levels[-1][-3:]], levels[-1][:-3]
    if middle != ["block", "attention", "block"]:
        raise CheckpointError("its list all_modules has no middle of block, attention and block.")
    num_blocks = {sum(m.kind == "block" for m in level) for level in levels}
    widths = [[m.outputs for m in level if m.kind == "block"][-1:] for level in levels]
    if len(num_blocks) != 1 or num_blocks == {0} or width == 0:
        raise CheckpointError(
            f"the levels of its encoder have {sorted(num_blocks)} blocks; DDPM++ and NCSN++ have "
            "equally many in each."
        )
    if any(level_width % width for [level_width] in widths):
        raise CheckpointError(
            f"the widths of its levels, {[w for [w] in widths]}, are not multiples of {width}."
        )
    num_norms = sum(m.kind == "norm" for m in decoder)
    if any(m.kind == "filtered conv" for m in decoder):
        raise CheckpointError(
            "its outputs form a residual pyramid (progressive `residual`), which memaudit does not "
            "know; `none` or `output_skip` is needed."
        )
    return {
        "img_channels": conv.inputs,
        "model_channels": width,
        "channel_mult": [level_width // width for [level_width] in widths],
        "num_blocks": num_blocks.pop(),
        "attention_levels": [
            i for i, level in enumerate(levels) if any(m.kind == "attention" for m in level)
        ],
        "embedding_type": "fourier" if has_fourier else "positional",
        "channel_mult_noise": 2 if has_fourier else 1,
        "encoder_type": (
            "residual"
            if "filtered conv" in pyramid
            else "skip"
            if "combine" in pyramid
            else "standard"
        ),
        "decoder_type": "skip" if num_norms > 1 else "standard",
    }


def places_in(unet: nn.Module) -> Iterator[tuple[str, str]]:
    """The kind of each entry of all_modules, and the module of a SongUNet that it is."""
    song: Any = unet
    if hasattr(song.map_noise, "freqs"):
        yield "fourier", "map_noise"
    yield "linear", "map_layer0"
    yield "linear", "map_layer1"
    for half in ("enc", "dec"):
        for name, module in getattr(song, half).items():
            place = f"{half}.{name}"
            if name.endswith("_conv"):
                yield "conv", place
            elif name.endswith("_aux_norm"):
                yield "norm", place
            elif name.endswith("_aux_skip"):
                yield "combine", place
            elif name.endswith("_aux_residual"):
                yield "filtered conv", place
            elif not name.endswith(("_aux_down", "_aux_up")):
                yield "block", place
                if module.num_heads:
                    yield "attention", place


def converted(
    network: nn.Module, modules: list[Entry], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The weights by SongUNet's names and in its layouts.

    Args:
        weights: by `index.name` of all_modules.
    """
    places = list(places_in(network.model))  # type: ignore[arg-type]
    if [kind for kind, _ in places] != [module.kind for module in modules]:
        raise CheckpointError(
            "its list all_modules is not in the order of DDPM++ or NCSN++ with "
            f"{sum(m.kind == 'block' for m in modules)} blocks."
        )
    # Filters follow from the configuration.
    converted = {
        name: buffer for name, buffer in network.named_buffers() if name.endswith("resample_filter")
    }
    left = dict(weights)

    def take(name: str, *shape: int) -> Tensor:
        if name not in left:
            raise CheckpointError(f"it lacks the tensor {shown(f'all_modules.{name}')}.")
        tensor = left.pop(name)
        if shape and tensor.shape != shape:  # that of others is checked under our names
            raise CheckpointError(
                f"tensor {shown(f'all_modules.{name}')} is {list(tensor.shape)} in the file; "
                f"{list(shape)} is needed."
            )
        return tensor

    for index, (kind, place) in enumerate(places):
        ours = f"model.{place}"
        if kind == "fourier":
            converted[f"{ours}.freqs"] = take(f"{index}.W")
        elif kind == "attention":
            C = network.get_submodule(ours).out_channels
            assert isinstance(C, int)
            norm, *q_k_v, proj = (f"{index}.{name}" for name in ATTENTION)
            for part in ("weight", "bias"):
                converted[f"{ours}.norm2.{part}"] = take(f"{norm}.{part}")
            converted[f"{ours}.qkv.weight"] = _interleaved(
                [take(f"{name}.W", C, C).mT for name in q_k_v]
            )
            converted[f"{ours}.qkv.bias"] = _interleaved([take(f"{name}.b", C) for name in q_k_v])
            converted[f"{ours}.proj.weight"] = take(f"{proj}.W", C, C).mT[..., None, None]
            converted[f"{ours}.proj.bias"] = take(f"{proj}.b")
        else:
            if kind == "block":
                names = dict(BLOCK)
                if modules[index].has_shortcut:
                    names["skip"] = "Conv_2"
                parts = {f"{ours}.{our}": f"{index}.{their}" for our, their in names.items()}
            else:
                within = {"combine": ".Conv_0", "filtered conv": ".Conv2d_0"}.get(kind, "")
                parts = {ours: f"{index}{within}"}
            for our, their in parts.items():
                for part in ("weight", "bias"):
                    converted[f"{our}.{part}"] = take(f"{their}.{part}")
    if left:
        raise CheckpointError(
            f"it holds the tensor {listed(left)} of all_modules, for which DDPM++ and NCSN++ have "
            "no place."
        )
    return converted


def _interleaved(q_k_v: list[Tensor]) -> Tensor:
    """q, k and v, each [C, ...], as SongUNet's [3C, ...]: channel after channel, q, k, v of each;
    a matrix becomes a 1×1 convolution."""
    merged = torch.stack(q_k_v, dim=1).flatten(0, 1)
    return merged[..., None, None] if merged.ndim == 2 else merged
