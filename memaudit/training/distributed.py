"""Training in several processes: each computes its share of every batch; gradients are summed.

The processes are torch.distributed's ranks, one per GPU, started by torchrun on one or several
machines. They start with the same weights and take the same steps, so only gradients are exchanged.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from memaudit.errors import ConfigError

STEP_WAIT = timedelta(minutes=10)
"""How long ranks wait for each other in a step: one whose GPU fell off must not hold the job."""
AUDIT_WAIT = timedelta(days=1)
"""How long they wait while one of them audits a snapshot, or reads the images."""


class Ranks(NamedTuple):
    """This process's place among those of the training."""

    rank: int
    """Rank 0 writes the files and reports progress."""
    num_ranks: int


def current_ranks() -> Ranks:
    """Return this process's rank in torch.distributed, or rank 0 of 1 outside of it."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks(0, 1)


def check_group(device: torch.device) -> None:
    """Refuse a process group whose backends do not serve the device and the CPU.

    Gradients are summed on the device; whether to stop is agreed on by the CPUs, so that no rank
    has to wait for its GPU.

    Raises:
        ConfigError: says how to initialize the group.
    """
    if current_ranks().num_ranks == 1:
        return
    served = dist.get_backend_config()
    missing = [kind for kind in dict.fromkeys(("cpu", device.type)) if f"{kind}:" not in served]
    if missing:
        raise ConfigError(
            f"torch.distributed was initialized with {served}, which serves no {missing[0]}. "
            "Initialize it with "
            f'torch.distributed.init_process_group("{_backend(device.type)}").'
        )


def _backend(device_type: str) -> str:
    return "gloo" if device_type == "cpu" else "cpu:gloo,cuda:nccl"


def largest_over_ranks(*values: float) -> list[float]:
    """Return the largest of each value on any rank. Every rank waits here for the others."""
    if current_ranks().num_ranks == 1:
        return list(values)
    gathered = torch.tensor(values, dtype=torch.float64)  # on the CPU, whatever device trains
    dist.all_reduce(gathered, dist.ReduceOp.MAX)
    return [float(value) for value in gathered]


def wait_for_ranks() -> None:
    """Return once every rank has called this, however long one of them audits or reads images."""
    if current_ranks().num_ranks > 1:
        dist.all_reduce(torch.zeros(()), group=_patient_group())


_patient: dict[Any, Any] = {}
"""The group that waits for audits, by the group that it was made from."""


def _patient_group() -> Any:
    """Make, at the first call on all ranks, a group that waits longer."""
    whole = dist.group.WORLD
    if whole not in _patient:
        _patient.clear()
        _patient[whole] = dist.new_group(backend="gloo", timeout=AUDIT_WAIT)
    return _patient[whole]


@contextmanager
def first_on_each_machine() -> Iterator[None]:
    """Let one rank on each machine do what the others then find done, such as filling a cache."""
    is_first = os.environ.get("LOCAL_RANK", str(current_ranks().rank)) == "0"
    if not is_first:
        wait_for_ranks()
    yield
    if is_first:
        wait_for_ranks()


def check_same_weights(weights: Sequence[Tensor], images_seen: int) -> None:
    """Make sure that all ranks hold the same weights, bit for bit.

    They begin alike and take the same steps. A rank that differs has computed something wrong, such
    as a GPU with faulty memory, and would spoil what the others compute.

    Args:
        weights: of this rank.
        images_seen: for the message.

    Raises:
        ConfigError: the ranks differ.
    """
    ranks = current_ranks()
    if ranks.num_ranks == 1:
        return
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    own = torch.tensor(int.from_bytes(digest.digest()[:7], "little"))
    all_hashes = [torch.zeros_like(own) for _ in range(ranks.num_ranks)]
    dist.all_gather(all_hashes, own)
    found = [int(value) for value in all_hashes]
    common = max(set(found), key=found.count)
    others = [rank for rank, value in enumerate(found) if value != common]
    if others:
        raise ConfigError(
            f"After {images_seen:,} images, the processes of the training no longer hold the same "
            f"weights: rank {', '.join(map(str, others))} differs from the others. Its GPU or its "
            "memory may be faulty. Resume the run from its last snapshot without it."
        )


@contextmanager
def join_torchrun(device: str) -> Iterator[str]:
    """Join the process group for the duration of the context, if torchrun started this process.

    Args:
        device: `cpu` or `cuda`.

    Yields:
        This process's device: for `cuda`, the GPU with the process's number on the machine.

    Raises:
        ConfigError: torchrun started more processes on the machine than it has GPUs.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield device
        return
    options: dict[str, Any] = {}
    kind = device
    if device == "cuda":
        number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= count:
            raise ConfigError(
                f"torchrun started more processes on this machine than it has GPUs ({count}). "
                f"Give torchrun --nproc-per-node {count}, or train with {{device}} cpu.",
                field="device",
            )

        device = f"cuda:{number}"
        torch.cuda.set_device(number)
        options["device_id"] = torch.device(device)  # connects the GPUs now, not in the first step
    dist.init_process_group(_backend(kind), timeout=STEP_WAIT, **options)
    try:
        yield device
    finally:
        dist.destroy_process_group()
