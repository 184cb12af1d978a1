"""What is told apart about devices: how tensors get there, and what they can compute."""

import platform
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from memaudit.models.denoiser import Denoiser

ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)[a-z]?")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; a GPU works on until it is there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def like(number: Tensor, x: Tensor) -> Tensor:
    """A number on the device of x. One of the CPU gets there without waiting for the device."""
    if number.device == x.device or number.ndim:
        return number.to(x.device)
    return torch.full((), float(number), dtype=number.dtype, device=x.device)


class StateOnCPU:
    """A denoiser on a device without float64, for a sampler that keeps its state on the CPU.

    Args:
        denoiser: any denoiser.
        device: where it is.
    """

    def __init__(self, denoiser: Denoiser, device: torch.device) -> None:
        self._denoiser, self._device = denoiser, device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Denoise x [B, C, H, W] of the CPU, where the result is as well."""
        there = [each.to(torch.float32).to(self._device) for each in (x, sigma)]
        labels = None if class_labels is None else class_labels.to(self._device)
        return self._denoiser(there[0], there[1], labels).cpu()


def with_float64(denoiser: Denoiser, device: torch.device) -> tuple[Denoiser, torch.device]:
    """A denoiser and where its images are kept in float64: on its device, or else on the CPU."""
    if has_float64(device):
        return denoiser, device
    if getattr(denoiser, "device", None) == torch.device("cpu"):  # as the optimum is
        return denoiser, torch.device("cpu")
    return StateOnCPU(denoiser, device), torch.device("cpu")


@cache
def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64, which Apple's and some of Intel's do not."""
    if device.type in ("cpu", "cuda"):
        return True
    try:
        torch.ones(1, dtype=torch.float64, device=device).sqrt()
    except (TypeError, RuntimeError):
        return False
    return True


def exact_device(device: str | torch.device) -> torch.device:
    """Where searches and the optimum compute: on a CUDA GPU, or else on the CPU.

    They need float64 and products of integers, which other devices lack or were never tried with.
    """
    device = torch.device(device)
    return device if device.type == "cuda" else torch.device("cpu")


def is_supported(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether a build of PyTorch holds code for a GPU.

    Machine code (sm_86) runs on GPUs of the same major version from its minor one on, and PTX
    (compute_90) on all later ones.

    Args:
        capability: of the GPU, such as (8, 6).
        architectures: what the build was made for; names of another kind, as ROCm's, say nothing.

    Examples:
        >>> is_supported((6, 1), ["sm_70", "sm_80", "compute_90"])
        False
        >>> is_supported((8, 9), ["sm_70", "sm_80"])
        True
    """
    known = [ARCHITECTURE.fullmatch(name) for name in architectures]
    built = [(m[1], (int(m[2]), int(m[3]))) for m in known if m is not None]
    return not built or any(
        of <= capability and (kind == "compute" or of[0] == capability[0]) for kind, of in built
    )


def device_name(device: str | torch.device) -> str:
    """Name of a GPU, or the architecture of the CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    architecture = platform.machine()
    return f"CPU ({architecture})" if device.type == "cpu" else f"{device} ({architecture})"
