"""Turn a checkpoint of any format into a native one (`memaudit convert`)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from memaudit.errors import CheckpointError, MemauditError
from memaudit.models.checkpoints.assembly import CONSTANTS
from memaudit.models.checkpoints.checkpoint import Checkpoint
from memaudit.models.checkpoints.containers.raw_file import decode, read_file
from memaudit.models.checkpoints.folders import file_to_read
from memaudit.models.checkpoints.formats.native import save_checkpoint
from memaudit.models.checkpoints.given import Given, as_said
from memaudit.models.checkpoints.kept_facts import change_of
from memaudit.models.checkpoints.opening import open_checkpoint, read_network
from memaudit.models.denoiser import image_shape
from memaudit.models.precond import Preconditioner
from memaudit.unpickler import Budget

PROBE_SIGMAS = (0.05, 5.0)


def convert_checkpoint(
    source: str | Path,
    target: str | Path,
    *,
    arch: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Write `source` as a native checkpoint, which takes its place once it is proven.

    The file is opened again and must denoise a probe to the same bits as the source. It keeps what
    the source did not show, so that a scan of it tries the other values, as one of the source does.

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
            f"{source}: a {checkpoint.format} has no native form, since its network is not one "
            "that memaudit builds itself. Use it as it is."
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
    facts = _facts_to_keep(checkpoint, network) if checkpoint.facts else None
    target = Path(target)
    unproven = target.with_name(f".{target.name}.{os.getpid()}.unproven")
    try:
        save_checkpoint(unproven, network, checkpoint.config, provenance=provenance, facts=facts)
        if not torch.equal(_probe(open_checkpoint(unproven)), _probe(checkpoint)):
            raise CheckpointError(
                f"{source}: the converted network does not denoise as the source does; nothing "
                "was written. Please report this."
            )
        os.replace(unproven, target)
    finally:
        unproven.unlink(missing_ok=True)
    return open_checkpoint(target)


def _facts_to_keep(checkpoint: Checkpoint, network: Preconditioner) -> dict[str, Any]:
    """The options that a file does not show, with what each value changes: see `kept_facts.py`.

    Raises:
        CheckpointError: one changes the weights.
    """
    contents = decode(read_file(file_to_read(Path(checkpoint.path))[0]), Budget())
    weights = _without_constants(network.state_dict())
    given = Given.parse(checkpoint.arch)
    kept: dict[str, Any] = {}
    for fact in checkpoint.facts:
        if fact.origin == "file":
            continue
        changes: dict[str, Any] = {}
        for text in fact.alternatives:
            try:
                other = read_network(contents, Given.parse(given.with_option(fact.name, text)))
            except MemauditError:  # it fits no network of these weights
                continue
            others = _without_constants(other.tensors)
            if others.keys() != weights.keys() or not all(
                torch.equal(tensor.float(), weights[name]) for name, tensor in others.items()
            ):
                raise CheckpointError(
                    f"{checkpoint.path}: it has no native form, since its file does not show its "
                    f"{fact.name}, by which its weights are read. Use the file as it is."
                )
            changes[text] = change_of(checkpoint.config, other.config)
        if changes:  # back to what it is
            changes[as_said(fact.value)] = change_of(checkpoint.config, checkpoint.config)
        kept[fact.name] = {"value": fact.value, "origin": fact.origin, "changes": changes}
    return kept


def _without_constants(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not CONSTANTS.search(name)}


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
