"""Kernels made by torch.compile."""

import warnings
from contextlib import suppress

import torch
from torch import nn


def compile_kernels(network: nn.Module) -> None:
    """Have a network's kernels made by torch.compile, at its next call."""
    quiet_compiler()
    # Two choices of the compiler are made by timing unless it is told not to.
    with suppress(ImportError, AttributeError):
        import torch._inductor.config as inductor

        inductor.deterministic = True
    network.to(memory_format=torch.channels_last)
    network.compile(fullgraph=True, dynamic=False)


def quiet_compiler() -> None:
    """Ignore the compiler's advice to allow TF32, which the configuration decides."""
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
