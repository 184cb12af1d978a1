"""The training state on disk: all that is needed to resume exactly, as safetensors.

Tensors are `network.*`, `average.*` and `optimizer.<parameter>.<quantity>`; the metadata holds one
JSON `state` with the number of steps, fp16's loss scale, and the images and options of the run.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from memaudit.data.images import ImageSet
from memaudit.errors import CheckpointError, ConfigError
from memaudit.files import atomic_write
from memaudit.training.config import TrainingConfig
from memaudit.training.trainer import Trainer

MAY_CHANGE = frozenset(
    {
        "epochs",
        "duration_images",
        "num_snapshots",
        "snapshot_epochs",
        "snapshot_images",
        "save_minutes",
        "batch_gpu",
        "compile",
    }
)
"""Options that may differ when a run is resumed: how long it is, which snapshots are kept, and how
a device computes its share of a batch."""


def save_state(path: Path, trainer: Trainer, images: ImageSet) -> None:
    """Write the state of a trainer, completely or not at all.

    Args:
        path: file to write.
        trainer: what is saved.
        images: what it trains on.
    """
    tensors = {
        **{f"network.{name}": t for name, t in trainer.network.state_dict().items()},
        **{f"average.{name}": t for name, t in trainer.average.state_dict().items()},
    }
    for parameter, quantities in trainer.optimizer.state_dict()["state"].items():
        for name, t in quantities.items():
            tensors[f"optimizer.{parameter}.{name}"] = t
    state = {
        **_identity(trainer, images),
        "num_steps": trainer.num_steps,
        "scaler": trainer.scaler.state_dict(),
    }
    data = safetensors.torch.save(
        {name: t.contiguous() for name, t in tensors.items()}, {"state": json.dumps(state)}
    )
    with atomic_write(path) as file:
        file.write(data)


def load_state(path: Path, trainer: Trainer, images: ImageSet) -> None:
    """Put a trainer into a saved state.

    Args:
        path: a file that `save_state` wrote.
        trainer: changed in place.
        images: what it trains on.

    Raises:
        CheckpointError: the file is broken or not a training state.
        ConfigError: it belongs to other images or options; the message says which.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} is not a readable training state ({error}). Train into another folder, or "
            "delete this one to start over."
        ) from error

    changed = _differences(state, _identity(trainer, images))
    if changed:
        raise ConfigError(
            f"{path.parent} was trained with {'; '.join(changed)}. Resume it with the images and "
            "options it began with, or train into another folder."
        )
    trainer.network.load_state_dict(_strip(tensors, "network."))
    trainer.average.load_state_dict(_strip(tensors, "average."))
    quantities: dict[int, dict[str, Tensor]] = {}
    for key, t in _strip(tensors, "optimizer.").items():
        parameter, name = key.split(".")
        quantities.setdefault(int(parameter), {})[name] = t
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": quantities, "param_groups": groups})
    trainer.num_steps = state["num_steps"]
    trainer.scaler.load_state_dict(state.get("scaler", {}))


def _identity(trainer: Trainer, images: ImageSet) -> dict[str, Any]:
    """What must be the same for a run to be resumed."""
    labels = None
    if trainer.config.conditional and images.labels is not None:
        labels = hashlib.sha256(images.labels.astype("<i8").tobytes()).hexdigest()
    config = trainer.config.as_dict()
    return {
        "images": images.fingerprint,
        "labels": labels,
        "options": {name: value for name, value in config.items() if name not in MAY_CHANGE},
        "network": trainer.network_config,
    }


def _differences(saved: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """What the run began with that differs from what it is to be resumed with."""
    # A run older than an option used what is now its default.
    began = {**TrainingConfig().as_dict(), **saved["options"]}
    options = [
        f"{name} = {began[name]} (now {value})"
        for name, value in given["options"].items()
        if began[name] != value
    ]
    others = [f"other {name}" for name in ("images", "labels") if saved[name] != given[name]]
    if options or others or saved["network"] == given["network"]:
        return options + others
    return [f"the network {saved['network']} (now {given['network']})"]


def _strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
