"""DiT, SiT and REPA on pixels: one network, three ways to train it.

arXiv:2212.09748, arXiv:2401.08740, arXiv:2410.06940.

    DiT    noise at 1,000 discrete levels, β from 0.0001 to 0.02, with a learned variance
    SiT    the velocity along a path from noise at t = 0 to data at t = 1
    REPA   the velocity along a path from data at t = 0 to noise at t = 1

Training files (`0050000.pt`) have `model`, `ema`, `opt` and `args`; the published ones are the
weights alone. Which of the three it is shows in `args`: SiT and REPA have a `path_type`. REPA's
weights have `projectors`, which denoising does not use. Heads follow from the width, and the last
row of the table of classes stands for none.
"""

import re
from collections.abc import Mapping
from typing import Any

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints.assembly import build_uninitialized
from memaudit.models.checkpoints.beside import options_beside
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
from memaudit.models.config_values import VALUES, Value
from memaudit.models.precond.flow import FLOW_PATHS
from memaudit.wording import listed, shown

NAME = "DiT"
ANCHOR = r"blocks\.0\.adaLN_modulation\.1\.weight"
BLOCK = re.compile(r"^blocks\.(\d{1,4})\.adaLN_modulation\.1\.weight$", re.ASCII)
REPA_ONLY = re.compile(r"^projectors\.", re.ASCII)
LATENT_FACTOR = 8
"""Pixels of an image per latent of the VAE, along each side."""
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Heads of S, B, L and XL, by their width."""
PATHS = {"linear": "linear", "gvp": "gvp", "cosine": "gvp"}
"""Paths by SiT's and REPA's names for them, in small letters."""
OF_DIT, OF_FLOWS = ("schedule", "num_steps"), ("path",)
FAMILIES: Mapping[str, Mapping[str, Any]] = {"dit": {}, "sit": {}, "repa": {}}
OPTIONS = (
    RESOLUTION,
    NUM_HEADS,
    NULL_LABEL,
    ArchOption("path", "the path of its flow", Value(str, choices=FLOW_PATHS), "linear"),
    ArchOption(
        "schedule", "its noise schedule", Value(str, choices=("linear", "cosine")), "linear"
    ),
    ArchOption("num_steps", "how many noise levels it has", VALUES["num_steps"], 1000),
)


def recognizes(contents: Contents) -> bool:
    return holds_weights(contents.value, ANCHOR)


def read(contents: Contents, given: Given) -> StoredNetwork:
    found = find_weights(contents.value, ANCHOR)
    assert found is not None
    args = options_beside(contents.value)
    tensors = {name: t for name, t in found.tensors.items() if not REPA_ONLY.match(name)}
    family = _family(args, given, has_projectors=len(tensors) < len(found.tensors))
    structure, num_tokens, num_rows = _structure(tensors, args)
    width, patch_size = structure["hidden_channels"], structure["patch_size"]
    options = [
        option for option in OPTIONS if option.name not in (OF_FLOWS if family == "dit" else OF_DIT)
    ]
    given.check(f"A network of {family}", options, FAMILIES, takes_config=False)
    facts = given.resolve(
        options,
        _shown_by(args, family, num_rows),
        {
            **square_resolution(num_tokens, patch_size),
            "num_heads": default_heads(width),
            "null_label": "last",
        },
    )
    check_resolution(facts["img_resolution"], num_tokens, patch_size)
    if family == "dit":
        precond = {
            "class_name": "DiscretePrecond",
            "schedule": facts["schedule"],
            "num_steps": facts["num_steps"],
        }
    else:
        precond = {
            "class_name": "FlowPrecond",
            "path": facts["path"],
            "data_at": 1 if family == "sit" else 0,
        }
    config = {
        **precond,
        **labels_of(num_rows, facts["null_label"]),
        "img_resolution": facts["img_resolution"],
        "model_type": "DiT",
        **structure,
        "num_heads": facts["num_heads"],
    }
    build_uninitialized(config, present=tensors)
    return StoredNetwork(
        {"dit": "DiT", "sit": "SiT", "repa": "REPA"}[family],
        config,
        {f"model.{name}": tensor for name, tensor in contents.read_tensors(tensors).items()},
        provenance={"weights": found.said},
        warnings=(*facts.warnings, *found.warnings),
        facts=facts.facts,
    )


def default_heads(width: int) -> int:
    """Heads of a published size, by its width; one per 64 channels of any other."""
    return HEADS.get(width, max(width // CHANNELS_PER_HEAD, 1))


def _family(args: Mapping[str, Any], given: Given, *, has_projectors: bool) -> str:
    """dit, sit or repa: what the file shows, else what the user says."""
    if has_projectors or "proj_coeff" in args or "encoder_depth" in args:
        shown_family = "repa"
    elif "path_type" in args:
        shown_family = "sit"
    elif _text(args.get("model")).startswith("DiT"):
        shown_family = "dit"
    else:
        shown_family = None
    if shown_family is None and given.name is None:
        raise CheckpointError(
            "it holds the weights of a DiT, SiT or REPA, which do not show how it was trained. "
            f"Name it with {{arch}}: {', '.join(FAMILIES)}.",
            field="arch",
        )
    if None not in (shown_family, given.name) and shown_family != given.name:
        raise ConfigError(
            f"{{arch}} says {given.name}, but the file shows {shown_family}; leave it out.",
            field="arch",
        )
    return shown_family or given.name or ""


def _text(value: Any) -> str:
    # Whatever else a file has here is not written out: it may be made to grow without end.
    return value if isinstance(value, str) else ""


def _shown_by(args: Mapping[str, Any], family: str, num_rows: int) -> dict[str, Any]:
    """What the arguments of its training say, by option."""
    found: dict[str, Any] = {}
    if args.get("num_classes") in (num_rows, num_rows - 1):
        found["null_label"] = "last" if args["num_classes"] == num_rows - 1 else "none"
    prediction = args.get("prediction", "velocity")
    if family == "sit" and prediction != "velocity":
        raise CheckpointError(
            f"it is a SiT that was trained to predict {shown(prediction)}; memaudit knows velocity."
        )
    if family != "dit" and "path_type" in args:
        path = PATHS.get(_text(args["path_type"]).lower())
        if path is None:
            raise CheckpointError(
                f"its flow has the path {shown(args['path_type'])}; memaudit knows linear and GVP "
                "(REPA's cosine)."
            )
        found["path"] = path
    return found


def _structure(
    tensors: Mapping[str, StoredTensor], args: Mapping[str, Any]
) -> tuple[dict[str, Any], int, int]:
    """Options of DiT that shapes show, its patches, and the rows of its table of classes."""
    width, channels, patch_size, _ = shape_of(tensors, "x_embedder.proj.weight", 4)
    num_tokens = shape_of(tensors, "pos_embed", 3)[1]
    square = square_resolution(num_tokens, patch_size).get("img_resolution")
    size = args.get("image_size", args.get("resolution"))
    is_latent = square is not None and size == LATENT_FACTOR * square
    check_pixels("DiT, SiT or REPA", channels, is_latent=is_latent)
    if size is not None and square is not None and size != square:
        raise CheckpointError(
            f"its image_size is {shown(size)}, but its positions are those of images of "
            f"{square}x{square}."
        )
    outputs = shape_of(tensors, "final_layer.linear.weight", 2)[0]
    if outputs not in (patch_size**2 * channels, 2 * patch_size**2 * channels):
        raise CheckpointError(
            f"it returns {outputs} values per patch of {patch_size}x{patch_size}; "
            f"{patch_size**2 * channels}, or twice as many with a learned variance, are needed."
        )
    known = {f"blocks.0.{name}" for name in ("mlp.fc1.weight", "attn.qkv.weight")}
    if not known <= tensors.keys():
        inner = [name for name in tensors if name.startswith("blocks.0.")]
        raise CheckpointError(
            f"its blocks have {listed(inner)}, which those of DiT, SiT and REPA do not: it is a "
            "network of another kind, such as LightningDiT."
        )
    structure = {
        "img_channels": channels,
        "patch_size": patch_size,
        "hidden_channels": width,
        "mlp_channels": shape_of(tensors, "blocks.0.mlp.fc1.weight", 2)[0],
        "depth": sum(BLOCK.match(name) is not None for name in tensors),
        "learned_variance": outputs == 2 * patch_size**2 * channels,
    }
    num_rows = shape_of(tensors, "y_embedder.embedding_table.weight", 2)[0]
    return structure, num_tokens, num_rows


FORMAT = FileFormat(NAME, recognizes, read, options=OPTIONS, families=FAMILIES)
