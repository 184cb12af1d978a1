"""Training in several processes: each computes its share of every batch; gradients are summed.

The processes are torch.distributed's ranks, one per GPU, started by torchrun on one or several
machines. They start with the same weights and take the same steps, so only gradients are exchanged.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

from memaudit.errors import ConfigError

WAIT = timedelta(days=1)
"""How long ranks wait for each other. Long, because rank 0 may be auditing a snapshot."""


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


def any_rank(holds: bool) -> bool:
    """Return whether `holds` is true on any rank. Every rank waits here for the others."""
    if current_ranks().num_ranks == 1:
        return holds
    # On the CPU, whatever device trains: no rank has to wait for its GPU.
    flag = torch.tensor(holds, dtype=torch.int32)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def wait_for_ranks() -> None:
    """Return once every rank has called this."""
    any_rank(False)


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
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=WAIT)
    try:
        yield device
    finally:
        dist.destroy_process_group()
