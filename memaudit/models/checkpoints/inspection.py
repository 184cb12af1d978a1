"""What a checkpoint holds, found out without running it (`memaudit inspect`)."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from memaudit.errors import CheckpointError, UnsafeCheckpointError
from memaudit.models.checkpoints.assembly import assemble
from memaudit.models.checkpoints.checkpoint import CheckpointInfo, NetworkInfo, StoredNetwork
from memaudit.models.checkpoints.containers.raw_file import decode, read_file
from memaudit.models.checkpoints.folders import file_to_read
from memaudit.models.checkpoints.given import Given
from memaudit.models.checkpoints.opening import find_source, named, read_network
from memaudit.unpickler import Budget


def inspect_checkpoint(
    path: str | Path,
    *,
    arch: str | None = None,
    config: Mapping[str, Any] | None = None,
    names: Mapping[str, str] = MappingProxyType({}),
) -> CheckpointInfo:
    """What a checkpoint file, or a folder of diffusers or accelerate, holds.

    An unsafe or broken file is not an error: that is part of the answer.

    Args:
        path: a checkpoint file, or a folder of diffusers or accelerate.
        arch: as for `open_checkpoint`.
        config: as for `open_checkpoint`.
        names: what a problem calls `arch`, such as a command's option.

    Raises:
        CheckpointError: there is no such file, it is not a kind that holds checkpoints, or a folder
            cannot be opened.
        ConfigError: a folder needs diffusers, which is not installed.
    """
    given = Given.parse(arch, config)
    with named(path):
        source = find_source(path, given)
        if source is not None and source.inspect is not None:
            return source.inspect(str(path), given)
        path_read, warnings = file_to_read(Path(path))
        file = read_file(path_read)
    budget = Budget()
    safe, problem, network = False, None, None
    try:
        contents = decode(file, budget)
        safe = True
        stored = read_network(contents, given)
        network = _network_info(replace(stored, warnings=(*stored.warnings, *warnings)))
    except UnsafeCheckpointError as error:
        safe, problem = False, error.worded(names)
    except CheckpointError as error:
        problem = error.worded(names)
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
        facts=stored.facts,
    )
