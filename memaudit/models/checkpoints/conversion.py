"""Turn a checkpoint of any format into a native one (`memaudit convert`)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from memaudit.errors import CheckpointError
from memaudit.models.checkpoints.checkpoint import Checkpoint
from memaudit.models.checkpoints.formats.native import save_checkpoint
from memaudit.models.checkpoints.opening import open_checkpoint
from memaudit.models.denoiser import image_shape
from memaudit.models.precond import Preconditioner

PROBE_SIGMAS = (0.05, 5.0)


def convert_checkpoint(
    source: str | Path,
    target: str | Path,
    *,
    arch: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Write `source` as a native checkpoint, which takes its place once it is proven.

    The file is opened again and must denoise a probe to the same bits as the source.

    Args:
        source: a checkpoint of any format.
        target: file to write; an existing one is replaced.
        arch, config: as for `open_checkpoint`.

    Returns:
        The native checkpoint.

    Raises:
        CheckpointError: the source cannot be opened or has no native form.
    """
    checkpoint = open_checkpoint(source, arch=arch, config=config)
    network = checkpoint.network
    if not isinstance(network, Preconditioner):
        raise CheckpointError(
            f"{source}: a {checkpoint.format} has no native form, since its network is not one of "
            "EDM's. Use the file as it is."
        )
    provenance = {
        **checkpoint.provenance,
        "converted_from": {
            "file": Path(source).name,
            "format": checkpoint.format,
            "sha256": checkpoint.sha256,
        },
        "warnings": list(checkpoint.warnings),
    }
    target = Path(target)
    unproven = target.with_name(f".{target.name}.{os.getpid()}.unproven")
    try:
        save_checkpoint(unproven, network, checkpoint.config, provenance=provenance)
        if not torch.equal(_probe(open_checkpoint(unproven)), _probe(checkpoint)):
            raise CheckpointError(
                f"{source}: the converted network does not denoise as the source does; nothing "
                "was written. Please report this."
            )
        os.replace(unproven, target)
    finally:
        unproven.unlink(missing_ok=True)
    return open_checkpoint(target)


def _probe(checkpoint: Checkpoint) -> torch.Tensor:
    """Noise denoised at a low and a high noise level, each with a class of its own."""
    network = checkpoint.network
    generator = torch.Generator().manual_seed(0)
    shape = (len(PROBE_SIGMAS), *image_shape(network))
    sigma = torch.tensor(PROBE_SIGMAS)
    x = torch.randn(shape, generator=generator) * sigma[:, None, None, None]
    labels = None
    if network.label_dim:
        labels = torch.zeros(len(sigma), network.label_dim)
        labels[range(len(sigma)), [0, network.label_dim - 1]] = 1
    with torch.no_grad():
        return network(x, sigma, labels)
