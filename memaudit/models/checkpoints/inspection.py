"""What a checkpoint holds, told without running it: for `memaudit inspect`."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from memaudit.errors import CheckpointError, UnsafeCheckpointError
from memaudit.models.checkpoints.assembly import assemble
from memaudit.models.checkpoints.checkpoint import StoredNetwork
from memaudit.models.checkpoints.containers.raw_file import decode, read_file
from memaudit.models.checkpoints.formats.diffusers import open_folder
from memaudit.models.checkpoints.opening import named, read_network
from memaudit.models.published_networks import find_config
from memaudit.unpickler import Budget


@dataclass(frozen=True)
class NetworkInfo:
    """A network that a checkpoint holds."""

    format: str
    preconditioning: str
    """`class_name` of the configuration."""
    architecture: str
    config: dict[str, Any]
    num_parameters: int
    dtypes: dict[str, int]
    """Number of stored values by dtype, buffers included; empty for a diffusers folder."""
    img_resolution: int
    img_channels: int
    label_dim: int
    sigma_min: float
    sigma_max: float
    provenance: dict[str, Any]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint, as far as it can be told without running it."""

    path: str
    num_bytes: int
    sha256: str
    container: str
    """safetensors, torch zip, torch stream, pickle or diffusers folder."""
    globals: tuple[str, ...]
    """What the file's pickles name, as module.name; up to where an unsafe or broken one was left.
    """
    safe: bool
    """True where it was read to its end and needs nothing that only running code could give."""
    problem: str | None
    """Why it cannot be opened, or None."""
    network: NetworkInfo | None
    """None where there is a problem."""


def inspect_checkpoint(
    path: str | Path, *, arch: str | None = None, config: Mapping[str, Any] | None = None
) -> CheckpointInfo:
    """What a checkpoint file or a diffusers folder holds.

    An unsafe or broken file is no error: that is part of the answer.

    Args:
        path: a checkpoint file, or a diffusers folder.
        arch, config: as for `open_checkpoint`; not used for a folder, which says what it is.

    Raises:
        CheckpointError: there is no such file, it is of no kind that holds checkpoints, or a folder
            cannot be opened.
        ConfigError: a folder needs diffusers, which is not installed.
    """
    if arch is not None:
        config = find_config(arch)
    with named(path):
        if Path(path).is_dir():
            return _inspect_folder(Path(path))
        file = read_file(Path(path))
    budget = Budget()
    safe, problem, network = False, None, None
    try:
        contents = decode(file, budget)
        safe = True
        network = _network_info(read_network(contents, config))
    except UnsafeCheckpointError as error:
        safe, problem = False, str(error)
    except CheckpointError as error:
        problem = str(error)
    return CheckpointInfo(
        path=str(path),
        num_bytes=len(file.data),
        sha256=file.sha256,
        container=file.container,
        globals=tuple(sorted(map(str, budget.named))),
        safe=safe,
        problem=problem,
        network=network,
    )


def _inspect_folder(path: Path) -> CheckpointInfo:
    checkpoint = open_folder(str(path), device="cpu")
    scheduler, network = checkpoint.provenance["scheduler"], checkpoint.network
    assert isinstance(network, nn.Module)
    return CheckpointInfo(
        path=str(path),
        num_bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        sha256=checkpoint.sha256,
        container="diffusers folder",
        globals=(),
        safe=True,
        problem=None,
        network=NetworkInfo(
            format=checkpoint.format,
            preconditioning=f"{scheduler['_class_name']}, {network.prediction_type}",
            architecture=checkpoint.provenance["unet"]["_class_name"],
            config=checkpoint.provenance["unet"],
            num_parameters=sum(p.numel() for p in network.parameters()),
            dtypes={},
            img_resolution=network.img_resolution,
            img_channels=network.img_channels,
            label_dim=network.label_dim,
            sigma_min=network.sigma_min,
            sigma_max=network.sigma_max,
            provenance={"scheduler": scheduler},
            warnings=checkpoint.warnings,
        ),
    )


def _network_info(stored: StoredNetwork) -> NetworkInfo:
    dtypes: Counter[str] = Counter()
    for tensor in stored.tensors.values():
        dtypes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    network: Any = assemble(stored)
    return NetworkInfo(
        format=stored.format,
        preconditioning=str(stored.config["class_name"]),
        architecture=type(network.model).__name__,
        config=dict(stored.config),
        num_parameters=sum(p.numel() for p in network.parameters()),
        dtypes=dict(dtypes),
        img_resolution=network.img_resolution,
        img_channels=network.img_channels,
        label_dim=network.label_dim,
        sigma_min=network.sigma_min,
        sigma_max=network.sigma_max,
        provenance=dict(stored.provenance),
        warnings=stored.warnings,
    )
