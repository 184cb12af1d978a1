"""Where files keep their weights, and by which names."""

import re
from collections.abc import Mapping
from typing import Any

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.containers.stored_tensors import StoredTensor

EMA_KEYS = ("ema", "model_ema", "ema_state_dict", "params_ema")
KEYS = (*EMA_KEYS, "state_dict", "model_state_dict", "model", "net", "network", "params")
"""Keys under which a file may keep its weights, the average before the network in training."""
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
UNET_NAME = re.compile(r"^(?:enc|dec)\.\d+x\d+_")


def find_tensors(value: Any) -> tuple[dict[str, StoredTensor], str | None]:
    """The weights in a decoded file, by name, and the key they lie under; empty if it has none."""
    if not isinstance(value, dict):
        return {}, None
    for key, candidate in ((None, value), *((key, value.get(key)) for key in KEYS)):
        if isinstance(candidate, dict) and candidate:
            if all(
                isinstance(name, str) and isinstance(tensor, StoredTensor)
                for name, tensor in candidate.items()
            ):
                return candidate, key
    return {}, None


def by_precond_names(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Names as a denoiser's: without wrappers, and with the U-Net under `model.`."""
    bare = {WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    if len(bare) != len(tensors):
        raise CheckpointError("it holds a tensor twice, with and without a wrapper's prefix.")
    if not any(UNET_NAME.match(name) for name in bare):
        return bare
    return {f"model.{name}": tensor for name, tensor in bare.items()}


def is_unet_name(name: str) -> bool:
    """Whether a weight belongs to one of EDM's U-Nets, behind any wrapper's prefix."""
    return UNET_NAME.match(within_unet(name)) is not None


def within_unet(name: str) -> str:
    """A weight's name as its U-Net calls it."""
    return re.sub(r"^(?:model|unet)\.", "", WRAPPERS.sub("", name))
