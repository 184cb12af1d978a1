"""The names of weights in EDM's networks."""

import re
from collections.abc import Mapping

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor
from memaudit.models.checkpoints.weights import WRAPPERS

UNET_NAME = re.compile(r"^(?:enc|dec)\.\d+x\d+_")
ANCHOR = r"(?:model\.|unet\.)?enc\.\d+x\d+_.+"
"""Names that every denoiser or U-Net of EDM's has."""


def by_precond_names(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Names as a denoiser's: without wrappers, and with the U-Net under `model.`."""
    bare = {WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    if len(bare) != len(tensors):
        raise CheckpointError("it holds a tensor twice, with and without a wrapper's prefix.")
    if not any(UNET_NAME.match(name) for name in bare):
        return bare
    return {f"model.{name}": tensor for name, tensor in bare.items()}


def within_unet(name: str) -> str:
    """A weight's name as its U-Net calls it."""
    return re.sub(r"^(?:model|unet)\.", "", WRAPPERS.sub("", name))
