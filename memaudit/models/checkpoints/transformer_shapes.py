"""What the shapes of a transformer on patches show, and the options for what they do not."""

import math
from collections.abc import Mapping
from typing import Any

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.models.checkpoints.given import ArchOption
from memaudit.models.config_values import VALUES, Value
from memaudit.models.resolution import Resolution, height_and_width
from memaudit.options import size_text
from memaudit.wording import shown

PIXEL_CHANNELS = (1, 3)
CHANNELS_PER_HEAD = 64
RESOLUTION = ArchOption(
    "img_resolution",
    "the height and width of its images, as 32x48",
    VALUES["img_resolution"],
    is_told=False,
)
NUM_HEADS = ArchOption(
    "num_heads",
    "how many heads its attention has",
    VALUES["num_heads"],
    alternatives=("1", "2", "4", "6", "8", "12", "16"),
)
NULL_LABEL = ArchOption(
    "null_label",
    "whether the last row of its table of classes stands for no class",
    Value(str, choices=("last", "none")),
)


def shape_of(tensors: Mapping[str, StoredTensor], name: str, num_axes: int) -> tuple[int, ...]:
    """The shape of a tensor that the network must have.

    Raises:
        CheckpointError: it is missing, or has another number of axes or none of some size.
    """
    if name not in tensors:
        raise CheckpointError(f"it lacks the tensor {shown(name)}, which every such network has.")
    shape = tensors[name].shape
    if len(shape) != num_axes or not all(shape):
        raise CheckpointError(
            f"tensor {shown(name)} is {list(shape)}; {num_axes} sizes above 0 are needed."
        )
    return shape


def square_resolution(num_tokens: int, patch_size: int) -> dict[str, int]:
    """The default of `img_resolution`: square images. Empty if so many patches form no square."""
    side = math.isqrt(max(num_tokens, 0))
    return {"img_resolution": side * patch_size} if side**2 == num_tokens else {}


def check_resolution(resolution: Resolution, num_tokens: int, patch_size: int) -> None:
    """Refuse a height and width that the number of positions does not allow.

    Raises:
        CheckpointError: they have another number of patches.
    """
    height, width = height_and_width(resolution)
    if height % patch_size or width % patch_size or height * width != num_tokens * patch_size**2:
        raise CheckpointError(
            f"it has positions for {num_tokens:,} patches of {patch_size}x{patch_size}, which are "
            f"not those of images of {size_text((height, width))}."
        )


def check_pixels(what: str, channels: int, *, is_latent: bool = False) -> None:
    """Refuse a network that denoises latents.

    Raises:
        CheckpointError: saying what would be needed.
    """
    if is_latent or channels not in PIXEL_CHANNELS:
        raise CheckpointError(
            f"it is a {what} that denoises latents of {channels} channels. They are images only "
            "behind the decoder of the VAE that it was trained with, which is not in the file. "
            "Generate images with its own program, and scan their folder."
        )


def labels_of(num_rows: int, null_label: str) -> dict[str, Any]:
    """Options of a denoiser whose network has a table of `num_rows` classes.

    Raises:
        CheckpointError: no class is left beside the one that stands for none.
    """
    if null_label == "none":
        return {"label_dim": num_rows}
    if num_rows < 2:
        raise CheckpointError(
            f"its table of classes has {num_rows} row; one more is needed where the last stands "
            "for no class. Say null_label=none with {arch} if it does not.",
            field="arch",
        )
    return {"label_dim": num_rows - 1, "null_label": "last"}
