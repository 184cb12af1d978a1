"""U-ViT (Bao et al., arXiv:2209.12152): `nnet_ema.pth`, or a published file such as
`cifar10_uvit_small.pth`.

Weights keep their names. The noise schedule is the VP SDE with β from 0.1 to 20; the network is
given 999·t. Shapes show everything but the heads, whether the last class stands for none, and
whether noise or the image is predicted.
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
from memaudit.models.checkpoints.given import ArchOption, Given
from memaudit.models.checkpoints.transformer_shapes import (
    CHANNELS_PER_HEAD,
    NULL_LABEL,
    NUM_HEADS,
    RESOLUTION,
    check_pixels,
    check_resolution,
    labels_of,
    shape_of,
    square_resolution,
)
from memaudit.models.checkpoints.weights import find_weights, holds_weights
from memaudit.models.config_values import Value
from memaudit.models.precond.sde import SDE_TARGETS

NAME = "U-ViT"
ANCHOR = r"in_blocks\.0\.norm1\.weight"
BLOCK = re.compile(r"^in_blocks\.(\d{1,3})\.norm1\.weight$", re.ASCII)
HEADS = {1152: 16}
"""Heads of U-ViT-H by its width; the others have one per 64 channels."""
ROUND = (10, 100, 1000)
"""Numbers of classes beside which one more stands for none."""
OPTIONS = (
    RESOLUTION,
    NUM_HEADS,
    NULL_LABEL,
    ArchOption("target", "what it predicts", Value(str, choices=SDE_TARGETS), "epsilon"),
)


def recognizes(contents: Contents) -> bool:
    return holds_weights(contents.value, ANCHOR)


def read(contents: Contents, given: Given) -> StoredNetwork:
    found = find_weights(contents.value, ANCHOR)
    assert found is not None
    structure, num_tokens, num_classes = _structure(found.tensors)
    width, patch_size = structure["hidden_channels"], structure["patch_size"]
    facts = given.resolve(
        OPTIONS,
        {} if num_classes else {"null_label": "none"},
        {
            **square_resolution(num_tokens, patch_size),
            "num_heads": HEADS.get(width, max(width // CHANNELS_PER_HEAD, 1)),
            "null_label": "last" if num_classes - 1 in ROUND else "none",
        },
    )
    check_resolution(facts["img_resolution"], num_tokens, patch_size)
    config = {
        "class_name": "SDEPrecond",
        "sde": "vp",
        "target": facts["target"],
        **labels_of(num_classes, facts["null_label"]),
        "img_resolution": facts["img_resolution"],
        "model_type": "UViT",
        **structure,
        "num_heads": facts["num_heads"],
    }
    build_uninitialized(config, present=found.tensors)
    return StoredNetwork(
        NAME,
        config,
        {f"model.{name}": tensor for name, tensor in contents.read_tensors(found.tensors).items()},
        provenance={"weights": found.said},
        warnings=(*facts.warnings, *found.warnings),
        facts=facts.facts,
    )


def _structure(tensors: Mapping[str, StoredTensor]) -> tuple[dict[str, Any], int, int]:
    """Options of UViT that shapes show, its patches, and the rows of its table of classes."""
    if "context_embed.weight" in tensors:
        raise CheckpointError(
            "it is a U-ViT that makes images from texts (it has `context_embed`), on latents of a "
            "VAE; memaudit opens those that denoise pixels."
        )
    width, channels, patch_size, _ = shape_of(tensors, "patch_embed.proj.weight", 4)
    num_classes = (
        shape_of(tensors, "label_emb.weight", 2)[0] if "label_emb.weight" in tensors else 0
    )
    num_tokens = shape_of(tensors, "pos_embed", 3)[1] - (2 if num_classes else 1)
    check_pixels(NAME, channels)
    num_blocks = sum(BLOCK.match(name) is not None for name in tensors)
    structure = {
        "img_channels": channels,
        "patch_size": patch_size,
        "hidden_channels": width,
        "mlp_channels": shape_of(tensors, "mid_block.mlp.fc1.weight", 2)[0],
        "depth": 2 * num_blocks + 1,
        "qkv_bias": "mid_block.attn.qkv.bias" in tensors,
        "time_mlp": "time_embed.0.weight" in tensors,
        "final_conv": "final_layer.weight" in tensors,
    }
    return structure, num_tokens, num_classes


FORMAT = FileFormat(NAME, recognizes, read, options=OPTIONS)
