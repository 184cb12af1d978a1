"""Files of other programs, recognized so that they can be refused by name.

A file that a training leaves beside its weights, such as its optimizer's, is named as such, with
the file to take instead.
"""

import os
import re
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.checkpoints.containers.inert_objects import PersistentRecord
from memaudit.models.checkpoints.containers.raw_file import Contents
from memaudit.models.checkpoints.format import AS_PYTHON, FileFormat
from memaudit.models.checkpoints.given import Given
from memaudit.models.checkpoints.weights import find_tensors
from memaudit.wording import listed, shown

SCAN_IMAGES = "Scan images that it generated instead."
AS_FOLDER = "Pass the diffusers folder, with its config.json and scheduler, instead."


MAX_SIBLINGS = 10_000
"""Most files of a folder that are looked at."""
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pkl")
BESIDE = re.compile(r"^(opt|optim|scheduler|sched|scaler|random_states|sampler|lr_)", re.I)
"""How files begin that a training keeps beside its weights."""


def _keys(*needed: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda value: set(needed) <= set(value)


def _names(start: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda value: any(name.startswith(start) for name in find_tensors(value)[0])


def _any_name(pattern: str) -> Callable[[Mapping[str, Any]], bool]:
    found = re.compile(pattern, re.ASCII)
    return lambda value: any(found.search(name) for name in find_tensors(value)[0])


def _nameless_average(value: Mapping[str, Any]) -> bool:
    parts = [value, *(part for part in value.values() if isinstance(part, dict))]
    return any(isinstance(part.get("shadow_params"), list) for part in parts)


BESIDE_WEIGHTS: tuple[tuple[Callable[[Mapping[str, Any]], bool], str], ...] = (
    (
        lambda value: isinstance(value.get("param_groups"), list) and "state" in value,
        "the state of an optimizer",
    ),
    (
        _keys("random_state", "numpy_random_seed"),
        "the random states that accelerate keeps for a training to resume",
    ),
    (_keys("growth_factor", "backoff_factor"), "the state of a gradient scaler"),
    (
        lambda value: {"_step_count", "last_epoch"} <= value.keys() or "base_lrs" in value,
        "the state of a learning rate's schedule",
    ),
    (
        lambda value: {"optimizer_state_dict", "ds_config"} <= value.keys(),
        "a part of DeepSpeed's optimizer, whose zero_to_fp32.py puts the weights together",
    ),
    (
        _nameless_average,
        "an average of weights without their names (shadow_params), and the network is not in it",
    ),
)
"""What a training keeps beside its weights: how it is told, and what it is."""

MAKES: tuple[tuple[Callable[[Mapping[str, Any]], bool], str], ...] = (
    (
        _keys("step", "model", "opt", "ema", "scaler"),
        "it is a checkpoint of one of lucidrains' trainers, of another network than the Unet of "
        f"denoising-diffusion-pytorch. {AS_PYTHON}",
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
        "it is a PyTorch Lightning checkpoint, of a network that memaudit does not know. "
        f"{AS_PYTHON}",
    ),
    (
        _any_name(r"(?:^|[._])lora(?:_down|_up|_A|_B|\.down|\.up|_magnitude)|\.(?:lokr|hada)_w\d"),
        f"it is a LoRA adapter, which changes a network that lies elsewhere, mostly one of latents "
        f"from texts. {SCAN_IMAGES}",
    ),
    (
        _any_name(r"^(?:model\.diffusion_model\.)?double_blocks\.\d+\."),
        f"it is the transformer of FLUX, which makes latents from texts. {SCAN_IMAGES}",
    ),
    (
        _any_name(r"^(?:model\.diffusion_model\.)?joint_blocks\.\d+\."),
        f"it is the transformer of Stable Diffusion 3, which makes latents from texts. "
        f"{SCAN_IMAGES}",
    ),
    (
        _any_name(r"^(?:single_)?transformer_blocks\.\d+\."),
        f"it is a transformer of diffusers', which makes latents. {SCAN_IMAGES}",
    ),
    (
        _any_name(
            r"^(?:first_stage_model\.)?(?:encoder|decoder)\.(?:down_blocks|up_blocks|down|up)\.\d"
        ),
        "it is an autoencoder of images (VAE), which does not denoise.",
    ),
    (_names("text_model.encoder."), "it is a text encoder, which does not denoise."),
    (
        _names("model.diffusion_model."),
        f"it holds a latent diffusion model (CompVis). {AS_PYTHON}",
    ),
    (_names("down_blocks."), f"it holds the weights of a diffusers model alone. {AS_FOLDER}"),
    (
        _keys("optimizer", "model", "ema", "step"),
        "it is a checkpoint of score_sde_pytorch or a similar trainer, with another network than "
        f"DDPM++ or NCSN++. {AS_PYTHON}",
    ),
)


def recognizes(contents: Contents) -> bool:
    return isinstance(contents.value, dict) and _reason(contents) is not None


def read(contents: Contents, given: Given) -> StoredNetwork:
    raise CheckpointError(_reason(contents) or "")


def _reason(contents: Contents) -> str | None:
    value = contents.value
    for is_of_it, what in BESIDE_WEIGHTS[:-1]:
        if is_of_it(value):
            return f"it is {what}: no network. {_take_instead(contents.path)}"
    for is_of_it, reason in MAKES:
        if is_of_it(value):
            return reason
    others = [part for part in value.values() if isinstance(part, PersistentRecord)]
    if others:
        return (
            f"it is a pickle like EDM's with {listed(map(str, value))}, but "
            "without `ema` or `net`, so it is not one of EDM's snapshots."
        )
    is_of_it, what = BESIDE_WEIGHTS[-1]
    return f"it is {what}. {_take_instead(contents.path)}" if is_of_it(value) else None


def _take_instead(path: Path) -> str:
    """Which file in the same folder holds the weights, by its name."""
    try:
        with os.scandir(path.parent) as entries:
            names = sorted(entry.name for entry in islice(entries, MAX_SIBLINGS))
    except OSError:
        names = []
    number = re.search(r"\d{3,}", path.stem)
    likely = [
        name
        for name in names
        if name.endswith(SUFFIXES) and name != path.name and not BESIDE.match(name)
    ]
    same = [name for name in likely if number and number[0] in name]
    likely = sorted(same or likely, key=lambda name: "ema" not in name.lower())
    if not likely:
        return (
            "Give the file with the network's weights instead, its average (EMA) if there is one."
        )
    return f"Give the file with the weights instead, such as {shown(likely[0])} beside it."


FORMAT = FileFormat("unsupported", recognizes, read)
