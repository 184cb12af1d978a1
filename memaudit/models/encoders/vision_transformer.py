"""The vision transformers of DINOv2 and CLIP, in timm's network.

Weights come by the names of the program that wrote them: timm's, which are also those of DINOv2's
own files; those of CLIP's and open_clip's; or those of transformers. Sizes follow from shapes.

- DINOv2: Oquab et al., arXiv:2304.07193; with registers Darcet et al., arXiv:2309.16588. The
  features are the class token's, behind the last norm.
- CLIP: Radford et al., arXiv:2103.00020. The features are those of the space that images share with
  texts.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.models.checkpoints.shapes import count
from memaudit.models.checkpoints.transformer_shapes import shape_of
from memaudit.models.encoders.published_weights import (
    Layout,
    OpenedNetwork,
    Tensors,
    open_weights,
)

DINOV2_SIDE = 224
"""Height and width of what DINOv2 is given, as in its own evaluations of whole images."""
CHANNELS_PER_HEAD = 64
HEADS_OF_WIDE = 16
"""Heads of open_clip's networks H, g and G, whose heads have more channels than 64."""
WIDE = (1280, 1408, 1664)
"""Their widths."""
DEEPEST = 128
"""Most blocks of a network; the deepest in use has 48."""
MOST_PATCHES = 4096
"""Most patches of an image; networks in use have up to 1,369."""
LARGEST_SIDE = 1024
"""Largest height and width of what a network is given; those in use have up to 518."""
MOST_REGISTERS = 64
"""Those in use have 4."""
WIDEST = 16
"""Most hidden channels for each channel of a block; those in use have up to 8."""
NEEDED_DINOV2 = (
    "DINOv2's weights are needed: dinov2_vitb14_pretrain.pth of github.com/facebookresearch/dinov2 "
    "or one of its like, or a file of timm or transformers."
)
NEEDED_CLIP = (
    "CLIP's weights are needed, in a file of open_clip, timm or transformers "
    "(CLIPModel), such as model.safetensors; OpenAI's own .pt are programs."
)

Rename = tuple[tuple[str, str], ...]
"""Pairs of a regular expression and what replaces it, applied in this order."""
FROM_OPEN_CLIP: Rename = (
    (r"^visual\.", ""),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^proj$", "head.weight"),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.in_proj_", ".qkv."),
    (r"\.out_proj\.", ".proj."),
    (r"\.c_fc\.", ".fc1."),
    (r"\.c_proj\.", ".fc2."),
)
FROM_TRANSFORMERS_CLIP: Rename = (
    (r"^vision_model\.", ""),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"^visual_projection\.", "head."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
)
FROM_TRANSFORMERS_DINOV2: Rename = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.([qkv])[a-z]+\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.weights_in\.", ".fc1."),
    (r"\.weights_out\.", ".fc2."),
)
FROM_DINOV2: Rename = ((r"\.w12\.", ".fc1."), (r"\.w3\.", ".fc2."))
UNUSED = re.compile(r"(?:^|\.)(?:mask_token|position_ids)$")
"""What an encoder of whole images does not use."""


def open_dinov2(path: str | Path) -> OpenedNetwork:
    """Read DINOv2's weights, with or without registers.

    Raises:
        CheckpointError: the file is missing, broken, or holds other weights; timm is missing.
    """
    forms = {
        r"blocks\.0\.ls1\.gamma": partial(_dinov2, FROM_DINOV2),
        r"encoder\.layer\.0\.layer_scale1\.lambda1": partial(_dinov2, FROM_TRANSFORMERS_DINOV2),
    }
    return open_weights(path, forms, needed=NEEDED_DINOV2)


def open_clip(path: str | Path, *, activation: Literal["gelu", "quick_gelu"]) -> OpenedNetwork:
    """Read the weights of CLIP's network for images.

    Args:
        path: the file.
        activation: what the weights do not show: OpenAI's were trained with x·sigmoid(1.702·x),
            open_clip's usually with GELU.

    Raises:
        CheckpointError: the file is missing, broken, or holds other weights; timm is missing.
    """
    forms = {
        anchor: partial(_clip, rename, activation)
        for anchor, rename in (
            (r"visual\.class_embedding", FROM_OPEN_CLIP),
            (r"vision_model\.embeddings\.class_embedding", FROM_TRANSFORMERS_CLIP),
            (r"norm_pre\.weight", ()),
        )
    }
    return open_weights(path, forms, needed=NEEDED_CLIP)


def _dinov2(rename: Rename, tensors: Tensors) -> Layout:
    names = _renamed(tensors, rename)
    stored = {names[name]: tensor for name, tensor in tensors.items() if name in names}
    sizes = _sizes(stored)
    registers = 0
    for name in ("register_tokens", "reg_token"):
        registers = shape_of(stored, name, 3)[1] if name in stored else registers
    if registers > MOST_REGISTERS:
        raise CheckpointError(
            f"its network has {registers:,} registers; at most {MOST_REGISTERS} make sense."
        )
    apart = "reg_token" in stored  # timm has added the class token's position to it
    side = DINOV2_SIDE - DINOV2_SIDE % sizes["patch_size"]
    _check_patches((side // sizes["patch_size"]) ** 2)
    fc1, fc2 = (shape_of(stored, f"blocks.0.mlp.{n}.weight", 2) for n in ("fc1", "fc2"))

    def build() -> nn.Module:
        timm_layers, VisionTransformer = _timm()
        gated = fc1[0] == 2 * fc2[1]
        kind = {"mlp_layer": timm_layers.SwiGLUPacked, "act_layer": nn.SiLU} if gated else {}
        made: nn.Module = VisionTransformer(
            img_size=side,
            num_classes=0,
            init_values=1e-5,
            reg_tokens=registers,
            no_embed_class=registers > 0,
            weight_init="skip",
            **sizes,
            **kind,
        )
        return made

    def convert(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        timm_layers, _ = _timm()
        found = _joined({names[name]: weight for name, weight in weights.items()})
        if "register_tokens" in found:
            found["reg_token"] = found.pop("register_tokens")
            found["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
            found["pos_embed"] = found["pos_embed"][:, 1:]
        grid = side // sizes["patch_size"]
        found["pos_embed"] = timm_layers.resample_abs_pos_embed(
            found["pos_embed"].float(),
            [grid, grid],
            num_prefix_tokens=0 if registers else 1,
        )
        return found

    positions = shape_of(stored, "pos_embed", 3)[1] - (0 if apart else 1)
    _side(positions, 1)
    return Layout({n: tensors[n] for n in names}, build, convert, side)


def _clip(rename: Rename, activation: str, tensors: Tensors) -> Layout:
    names = _renamed(tensors, rename)
    stored = {names[name]: tensor for name, tensor in tensors.items() if name in names}
    sizes = _sizes(stored)
    positions = math.prod(stored["pos_embed"].shape[:-1]) if "pos_embed" in stored else 0
    side = _side(positions - 1, sizes["patch_size"])
    _check_patches(positions - 1)
    if side > LARGEST_SIDE:
        raise CheckpointError(
            f"its network takes images of {side:,} x {side:,} pixels; at most "
            f"{LARGEST_SIDE:,} make sense."
        )
    head = shape_of(stored, "head.weight", 2)
    turned = rename is FROM_OPEN_CLIP  # x @ proj

    def build() -> nn.Module:
        timm_layers, VisionTransformer = _timm()
        made: nn.Module = VisionTransformer(
            img_size=side,
            num_classes=head[1] if turned else head[0],
            pre_norm=True,
            norm_layer=partial(timm_layers.LayerNorm, eps=1e-5),
            act_layer=activation,
            weight_init="skip",
            **sizes,
        )
        return made

    def convert(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        found = _joined({names[name]: weight for name, weight in weights.items()})
        if turned:
            found["head.weight"] = found["head.weight"].T
        found.setdefault("head.bias", torch.zeros(len(found["head.weight"])))
        for name, shape in (("cls_token", (1, 1, -1)), ("pos_embed", (1, positions, -1))):
            if name in found:
                found[name] = found[name].reshape(shape)
        return found

    return Layout({n: tensors[n] for n in names}, build, convert, side)


def _renamed(tensors: Tensors, rename: Rename) -> dict[str, str]:
    """timm's names of the tensors of the network for images, by their names in the file."""
    prefix = rename[0][0] if rename and rename[0][1] == "" else ""
    kept = ("visual_projection.",) if rename is FROM_TRANSFORMERS_CLIP else ()
    names = {}
    for name in tensors:
        if UNUSED.search(name) or not (re.match(prefix, name) or name.startswith(kept)):
            continue
        new = name
        for pattern, replacement in rename:
            new = re.sub(pattern, replacement, new)
        names[name] = new
    if len(set(names.values())) != len(names):
        raise CheckpointError("two of its tensors have the same place in the network.")
    return names


def _sizes(stored: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """Width, depth, heads and sizes of patches, as timm's network takes them."""
    width, channels, patch, _ = shape_of(stored, "patch_embed.proj.weight", 4)
    depth = count(stored, "blocks.")
    heads = HEADS_OF_WIDE if width in WIDE else width // CHANNELS_PER_HEAD
    if (width not in WIDE and width % CHANNELS_PER_HEAD) or not 0 < depth <= DEEPEST:
        raise CheckpointError(
            f"its network has {depth} blocks of width {width}; 1 to {DEEPEST} blocks, with heads "
            f"of {CHANNELS_PER_HEAD} channels, are known."
        )
    if channels != 3:
        raise CheckpointError(f"its network takes images of {channels} channels; 3 are needed.")
    hidden = shape_of(stored, "blocks.0.mlp.fc1.weight", 2)[0]
    if hidden > WIDEST * width:
        raise CheckpointError(
            f"its blocks of width {width} have {hidden:,} hidden channels; at most {WIDEST} times "
            "the width make sense."
        )
    return {
        "patch_size": patch,
        "in_chans": channels,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": (hidden + 0.5) / width,  # timm rounds the product down
    }


def _side(num_patches: int, patch: int) -> int:
    """Height and width of the images that are divided into this number of patches."""
    grid = math.isqrt(max(0, num_patches))
    if not grid or grid**2 != num_patches:
        raise CheckpointError(f"its {num_patches} positions do not form a square.")
    return grid * patch


def _check_patches(number: int) -> None:
    if not 0 < number <= MOST_PATCHES:
        raise CheckpointError(
            f"its network divides an image into {number:,} patches; 1 to {MOST_PATCHES:,} can be "
            "compared with each other."
        )


def _joined(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With queries, keys and values of a block in one tensor."""
    for name in [name for name in weights if ".attn.q." in name]:
        parts: Sequence[Tensor | None] = [
            weights.pop(name.replace(".attn.q.", f".attn.{part}."), None) for part in "qkv"
        ]
        if any(part is None for part in parts):
            raise CheckpointError(f"it lacks the keys or values that belong to {name}.")
        weights[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(
            [part for part in parts if part is not None]
        )
    return weights


def _timm() -> tuple[Any, Callable[..., nn.Module]]:
    """timm's layers, and its vision transformer.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        import timm.layers
        from timm.models.vision_transformer import VisionTransformer
    except ImportError as error:
        raise CheckpointError(
            "its network is timm's, which is not installed: pip install timm (or this package with "
            'the extra "features").'
        ) from error
    return timm.layers, VisionTransformer
