"""Training by several processes: each takes its share of every batch, and the gradients are summed.

The processes are torch.distributed's ranks, one a GPU, started by torchrun on one machine or on
several. They begin with the same weights and make the same steps, so nothing but gradients is sent.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from memaudit.errors import ConfigError

WAIT = timedelta(days=1)
"""How long ranks wait for each other: rank 0 may be auditing a snapshot."""


class Ranks(NamedTuple):
    """This process among those of the training."""

    rank: int
    """0 writes the files and tells the progress."""
    num_ranks: int


def current_ranks() -> Ranks:
    """The ranks of torch.distributed, or this process alone."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks(0, 1)


def sum_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over the ranks, in one message."""
    if current_ranks().num_ranks == 1:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    for t, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        t.copy_(summed.view_as(t))


def any_rank(holds: bool) -> bool:
    """Whether `holds` is true on any rank. Every rank waits here for the others."""
    if current_ranks().num_ranks == 1:
        return holds
    # On the CPU, whatever the device of the training: nobody waits for a GPU.
    flag = torch.tensor(holds, dtype=torch.int32)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def wait_for_ranks() -> None:
    """Go on when every rank is here."""
    any_rank(False)


@contextmanager
def joined_by_torchrun(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, if it started this one.

    Yields:
        This process's device: of `cuda`, the GPU of its number on the machine.

    Raises:
        ConfigError: more processes on a machine than GPUs.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield device
        return
    if device == "cuda":
        number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= count:
            raise ConfigError(
                f"torchrun started more processes on this machine than it has GPUs ({count}). "
                f"Give --nproc-per-node {count}, or train with --device cpu."
            )
        device = f"cuda:{number}"
        torch.cuda.set_device(number)
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=WAIT)
    try:
        yield device
    finally:
        dist.destroy_process_group()
