"""A diffusers folder with a UNet2DModel and its scheduler, as a denoiser (extra `diffusers`).

A pipeline's folder, its network's, or that of a training checkpoint. What its files are is in
`checkpoints/diffusers/layout.py`, what the scheduler implies in `schedule.py` beside it. Weights
are read like all others: a .bin file is a pickle, and is not run.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints.assembly import check_denoises, load_weights
from memaudit.models.checkpoints.checkpoint import Checkpoint, CheckpointInfo, NetworkInfo
from memaudit.models.checkpoints.diffusers.kinds import refuse_another_network
from memaudit.models.checkpoints.diffusers.layout import (
    FILES,
    find_layout,
    is_weights_file,
    which_weights,
)
from memaudit.models.checkpoints.diffusers.network import (
    DiffusersDenoiser,
    build_unet,
    by_present_names,
)
from memaudit.models.checkpoints.diffusers.schedule import (
    DDPM_DEFAULTS,
    DISCRETE,
    PREDICTIONS,
    check_schedule,
    prediction_of,
    read_schedule,
)
from memaudit.models.checkpoints.diffusers.weights_files import (
    FolderWeights,
    hash_of,
    read_weights,
)
from memaudit.models.checkpoints.folders import is_weights_folder
from memaudit.models.checkpoints.format import SourceFormat
from memaudit.models.checkpoints.given import ArchOption, Fact, Facts, Given
from memaudit.models.checkpoints.json_metadata import read_json_file
from memaudit.models.config_values import (
    RESOLUTION,
    SCHEDULER_VALUES,
    UNET2D_VALUES,
    VALUES,
    Value,
    check_config,
)
from memaudit.models.resolution import height_and_width
from memaudit.wording import shown

NAME = "diffusers UNet2DModel"
OPTIONS = (
    ArchOption("resolution", "height and width of its images", RESOLUTION),
    ArchOption("num_classes", "how many classes its labels number", VALUES["label_dim"]),
    ArchOption(
        "null_label",
        "whether its last class stands for no class",
        Value(str, choices=("none", "last")),
        "none",
        is_told=False,
    ),
    ArchOption("target", "what its network predicts", Value(str, choices=PREDICTIONS), "epsilon"),
    ArchOption(
        "beta_schedule",
        "its noise schedule",
        SCHEDULER_VALUES["beta_schedule"],
        "linear",
        alternatives=("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
    ),
    ArchOption(
        "num_train_timesteps",
        "how many noise levels it has",
        SCHEDULER_VALUES["num_train_timesteps"],
        1000,
    ),
    ArchOption("beta_start", "its first β", SCHEDULER_VALUES["beta_start"], 0.0001),
    ArchOption("beta_end", "its last β", SCHEDULER_VALUES["beta_end"], 0.02),
)
"""What a folder may not say. The options of the schedule are those of a DDPMScheduler."""
SCHEDULE_OPTIONS = ("beta_schedule", "num_train_timesteps", "beta_start", "beta_end")


@dataclass(frozen=True)
class _Folder:
    """What a folder holds, read once, and its denoiser."""

    network: DiffusersDenoiser
    unet: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    facts: Facts
    weights: FolderWeights
    said: str
    """Which weights they are, in words."""
    warnings: tuple[str, ...]
    num_bytes: int
    """Size of all files together."""
    sha256: str
    """Hash of all files' hashes."""

    @property
    def shown_facts(self) -> tuple[Fact, ...]:
        """Its options, without those that it has no use for."""
        return tuple(fact for fact in self.facts.facts if fact.value is not None)

    @property
    def provenance(self) -> dict[str, Any]:
        return {"weights": self.said, "unet": self.unet, "scheduler": self.scheduler}


def open_folder(path: str, device: torch.device | str, given: Given) -> Checkpoint:
    """Open a pipeline's folder, or that of its U-Net with the scheduler's configuration beside it.

    Raises:
        ConfigError: diffusers is not installed, or the user says other than the folder.
        CheckpointError: files are missing or broken, or the model is of an unsupported kind.
    """
    folder = _read_folder(Path(path), given)
    return Checkpoint(
        network=folder.network.to(device),
        config={},
        provenance=folder.provenance,
        sha256=folder.sha256,
        format=NAME,
        path=path,
        warnings=folder.warnings,
        arch=given.text,
        facts=folder.shown_facts,
    )


def inspect_folder(path: str, given: Given) -> CheckpointInfo:
    """What a folder holds; it raises what `open_folder` does."""
    folder = _read_folder(Path(path), given)
    network = folder.network
    return CheckpointInfo(
        path=path,
        num_bytes=folder.num_bytes,
        sha256=folder.sha256,
        container="diffusers folder",
        globals=folder.weights.globals,
        safe=True,
        problem=None,
        network=NetworkInfo(
            format=NAME,
            preconditioning=f"{folder.scheduler['_class_name']}, {network.schedule.target}",
            architecture=folder.unet["_class_name"],
            config=dict(folder.unet),
            num_parameters=sum(p.numel() for p in network.parameters()),
            dtypes=folder.weights.dtypes,
            img_resolution=network.img_resolution,
            img_channels=network.img_channels,
            label_dim=network.label_dim,
            sigma_min=network.sigma_min,
            sigma_max=network.sigma_max,
            provenance={"weights": folder.said, "scheduler": folder.scheduler},
            warnings=folder.warnings,
            facts=folder.shown_facts,
        ),
    )


def _read_folder(path: Path, given: Given) -> _Folder:
    layout = find_layout(path)
    unet, unet_bytes = read_json_file(layout.config, hint=FILES)
    refuse_another_network(unet)
    scheduler, scheduler_bytes = None, b""
    scheduler_path = layout.scheduler()
    if scheduler_path is not None:
        scheduler, scheduler_bytes = read_json_file(scheduler_path, hint=FILES)
    check_supported(unet, scheduler)
    facts = given.resolve(OPTIONS, _shown(unet, scheduler))
    if scheduler is None:
        scheduler = {"_class_name": "DDPMScheduler", "prediction_type": facts["target"]}
        scheduler |= {name: facts[name] for name in SCHEDULE_OPTIONS}
    unet = {**unet, "sample_size": facts["resolution"]}
    _check_resolution(unet)

    weights_path = layout.weights()
    weights = read_weights(weights_path)
    tensors, former = by_present_names(weights.tensors)
    schedule = read_schedule(scheduler)
    model = build_unet(unet, tensors)
    classes = facts["num_classes"]
    last = facts["null_label"] == "last"
    network = DiffusersDenoiser(
        model,
        schedule,
        label_dim=max(0, classes - last),
        null_label="last" if last else None,
    )
    names = {name: by_present_names({name: tensor})[0] for name, tensor in weights.tensors.items()}
    load_weights(model, weights.read({name: next(iter(new)) for name, new in names.items()}))
    network.eval().requires_grad_(False)
    check_denoises(network, num_levels=len(model.config["block_out_channels"]))
    hashes = [
        hashlib.sha256(content).hexdigest()
        for content in (unet_bytes, *([scheduler_bytes] if scheduler_path else []))
    ]
    said, warnings = which_weights(weights_path)
    return _Folder(
        network,
        unet,
        scheduler,
        facts,
        weights,
        said + (", by names of before 2023" if former else ""),
        warnings=(*warnings, *facts.warnings),
        num_bytes=len(unet_bytes) + len(scheduler_bytes) + weights.num_bytes,
        sha256=hash_of([*hashes, weights.sha256]),
    )


def _shown(unet: Mapping[str, Any], scheduler: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options that a folder's configurations show; None for those that it has no use for."""
    found: dict[str, Any] = {}
    if unet.get("sample_size") is not None:
        found["resolution"] = unet["sample_size"]
    embedding, number = unet.get("class_embed_type"), unet.get("num_class_embeds")
    if embedding is None:
        found["num_classes"] = number or 0
        if not number:
            found["null_label"] = "none"
    elif number is not None:
        found["num_classes"] = number
    if scheduler is not None:
        defaults = {**DDPM_DEFAULTS, **DISCRETE.get(scheduler["_class_name"], {})}
        found["target"] = prediction_of(scheduler)
        is_discrete = found["target"] in PREDICTIONS and scheduler["_class_name"] in DISCRETE
        for name in SCHEDULE_OPTIONS:
            found[name] = scheduler.get(name, defaults[name]) if is_discrete else None
    return found


def check_supported(unet: Mapping[str, Any], scheduler: Mapping[str, Any] | None) -> None:
    """Refuse by name what `DiffusersDenoiser` does not support, and every value out of its range.

    Raises:
        CheckpointError: it says what was found, and what is known.
    """
    for found, what, supported in (
        (unet.get("_class_name"), "model", ("UNet2DModel",)),
        (unet.get("time_embedding_type", "positional"), "time_embedding_type", ("positional",)),
        (unet.get("class_embed_type"), "class_embed_type", (None, "timestep", "identity")),
        (unet.get("center_input_sample", False), "center_input_sample", (False,)),
    ):
        if found not in supported:
            names = ", ".join(str(name) for name in supported)
            raise CheckpointError(
                f"its {what} is {shown(found)}; memaudit knows {names}. Give another to memaudit "
                "as a Python denoiser (module:function)."
            )
    try:
        check_config(unet, UNET2D_VALUES, ignore_others=True)
        check_config(scheduler or {}, SCHEDULER_VALUES, ignore_others=True)
    except ConfigError as error:
        raise CheckpointError(f"in its configuration, {error}.") from error
    if scheduler is not None:
        check_schedule(scheduler)
    channels, returned = (unet.get(key, 3) for key in ("in_channels", "out_channels"))
    if returned < channels:  # it would be stretched to fit
        raise CheckpointError(
            f"its out_channels is {returned}; at least its {channels} in_channels are needed."
        )
    _check_resolution(unet)


def _check_resolution(unet: Mapping[str, Any]) -> None:
    size, num_levels = unet.get("sample_size"), len(unet.get("block_out_channels", ()))
    if size is None or not num_levels:
        return
    if any(side % (1 << (num_levels - 1)) for side in height_and_width(size)):
        text = " x ".join(map(str, dict.fromkeys(height_and_width(size))))
        raise CheckpointError(
            f"its sample_size is {text}, which cannot be halved for its {num_levels} levels; a "
            f"multiple of {1 << (num_levels - 1)} is needed."
        )


def recognizes(path: str) -> bool:
    """Whether a path is a folder, or a file of diffusers' weights in one."""
    if Path(path).is_dir():
        return not is_weights_folder(Path(path))
    return is_weights_file(Path(path))


FORMAT = SourceFormat(NAME, recognizes, open_folder, inspect_folder, OPTIONS)
