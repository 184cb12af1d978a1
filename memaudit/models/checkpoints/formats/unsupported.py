"""Files of other programs, recognized so that they can be refused by name."""

from collections.abc import Callable, Mapping
from typing import Any

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.checkpoints.containers.inert_objects import PersistentRecord
from memaudit.models.checkpoints.containers.raw_file import Contents
from memaudit.models.checkpoints.format import FileFormat
from memaudit.models.checkpoints.given import Given
from memaudit.models.checkpoints.weight_names import find_tensors
from memaudit.wording import listed

AS_PYTHON = "Give it to memaudit as a Python denoiser (module:function)."
AS_FOLDER = "Pass the diffusers folder, with its config.json and scheduler, instead."


def _keys(*needed: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda value: set(needed) <= set(value)


def _names(start: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda value: any(name.startswith(start) for name in find_tensors(value)[0])


MAKES: tuple[tuple[Callable[[Mapping[str, Any]], bool], str], ...] = (
    (
        _keys("step", "model", "opt", "ema", "scaler"),
        f"it is a checkpoint of lucidrains' denoising-diffusion-pytorch. {AS_PYTHON}",
    ),
    (
        _keys("config", "model", "model_ema", "opt"),
        f"it is a training checkpoint of k-diffusion, whose networks are not EDM's. {AS_PYTHON}",
    ),
    (
        _keys("G_ema"),
        "it is a StyleGAN snapshot: a generator that does not denoise. Scan a folder of its "
        "images instead.",
    ),
    (
        _keys("pytorch-lightning_version"),
        f"it is a PyTorch Lightning checkpoint, of a network that is not EDM's. {AS_PYTHON}",
    ),
    (
        _names("model.diffusion_model."),
        f"it holds a latent diffusion model (CompVis). {AS_PYTHON}",
    ),
    (_names("down_blocks."), f"it holds the weights of a diffusers model alone. {AS_FOLDER}"),
    (
        _keys("optimizer", "model", "ema", "step"),
        f"it is a checkpoint of score_sde_pytorch or a similar trainer. {AS_PYTHON}",
    ),
)


def recognizes(contents: Contents) -> bool:
    return isinstance(contents.value, dict) and _reason(contents.value) is not None


def read(contents: Contents, given: Given) -> StoredNetwork:
    raise CheckpointError(_reason(contents.value) or "")


def _reason(value: Mapping[str, Any]) -> str | None:
    for is_of_it, reason in MAKES:
        if is_of_it(value):
            return reason
    others = [part for part in value.values() if isinstance(part, PersistentRecord)]
    if others:
        return (
            f"it is a pickle like EDM's with {listed(map(str, value))}, but "
            "without `ema` or `net`, so it is not one of EDM's snapshots."
        )
    return None


FORMAT = FileFormat("unsupported", recognizes, read)
