"""Networks in another number format: weights cast once, at opening.

Convolutions, norms and layers on features compute in the format. What is made of the noise level
and the class, the preconditioning and the sampler's state stay in float32 and float64: they cost
nothing, and small errors in them move every step of a sampler.
"""

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from memaudit.errors import CheckpointError, ConfigError
from memaudit.models.checkpoints.diffusers.network import DiffusersDenoiser
from memaudit.models.compiler import compile_kernels
from memaudit.models.denoiser import Denoiser
from memaudit.models.execution import Execution, Precision
from memaudit.models.networks.edm2 import EDM2UNet, MPConv
from memaudit.models.precond.base import Preconditioner
from memaudit.models.trial import evaluate_blank

DTYPES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
CAPABILITY = (8, 0)
"""CUDA capability from which GPUs have TF32 and bf16, and fp16 pays throughout: Ampere, 2020."""

_copies: "WeakKeyDictionary[nn.Module, dict[tuple[torch.dtype, bool], tuple[object, nn.Module]]]"
_copies = WeakKeyDictionary()


def takes_formats(denoiser: Denoiser) -> bool:
    """Whether a denoiser is a network of memaudit's or of diffusers, which other formats suit.

    What a user's function does inside is not known, and the closed-form optimum needs float64.
    """
    return isinstance(denoiser, Preconditioner | DiffusersDenoiser)


def resolve_precision(denoiser: Denoiser, execution: Execution) -> Precision:
    """The format that a denoiser is evaluated in.

    `auto` is fp16 for networks on a GPU of capability 8.0 or more, or whose checkpoint asks for it
    (`use_fp16`) on any CUDA GPU, and fp32 elsewhere.

    Raises:
        ConfigError: a format was asked for that the denoiser or the device does not have.
    """
    asked = execution.precision
    device = torch.device(execution.device)
    on_gpu = device.type == "cuda" and torch.version.hip is None
    is_recent = on_gpu and torch.cuda.get_device_capability(device) >= CAPABILITY
    if asked == "auto":
        is_fast = is_recent or (on_gpu and asks_for_fp16(denoiser))
        return "fp16" if is_fast and takes_formats(denoiser) else "fp32"
    if asked == "tf32" and not is_recent:
        raise ConfigError(
            f"{{precision}} is tf32, which NVIDIA's GPUs have from capability 8.0 on; {device} has "
            "not. Choose fp32.",
            field="precision",
        )
    if asked == "bf16" and on_gpu and not is_recent:
        raise ConfigError(
            f"{{precision}} is bf16, which NVIDIA's GPUs have from capability 8.0 on; {device} has "
            "not. Choose fp16 or fp32.",
            field="precision",
        )
    if asked in ("fp16", "bf16") and not takes_formats(denoiser):
        raise ConfigError(
            f"{{precision}} is {asked}, but {type(denoiser).__name__} is evaluated as it is: only "
            "networks whose layers memaudit or diffusers builds can be cast. Choose fp32.",
            field="precision",
        )
    return asked


def asks_for_fp16(denoiser: Denoiser) -> bool:
    """Whether a checkpoint says that its network ran in fp16 where it was published."""
    return bool(getattr(denoiser, "use_fp16", False))


def in_format(denoiser: Denoiser, precision: Precision, *, compiled: bool = False) -> Denoiser:
    """The denoiser, or a copy of it whose network computes in another format.

    The copy is kept as long as the denoiser is, and made anew if its weights have changed.

    Args:
        denoiser: a network in evaluation mode, in float32; for fp32 and tf32 anything.
        precision: fp32 and tf32 have the same weights, and leave the denoiser as it is. Only EDM2's
            are normalized once, in place of in every evaluation, with the same bits, unless they
            were at opening.
        compiled: whether torch.compile makes its kernels, in fp16 and bf16.

    Raises:
        ConfigError: its network cannot be evaluated in that format.
    """
    network = denoiser.model if isinstance(denoiser, Preconditioner) else None
    is_loose = isinstance(network, EDM2UNet) and not network.are_weights_fixed
    dtype = DTYPES.get(precision, torch.float32 if is_loose else None)
    if dtype is None:
        return denoiser
    assert isinstance(denoiser, Preconditioner | DiffusersDenoiser)
    weights = [*denoiser.parameters(), *denoiser.buffers()]
    version = [(tensor.data_ptr(), _version(tensor)) for tensor in weights]
    copies = _copies.setdefault(denoiser, {})
    kind = dtype, compiled and precision in DTYPES
    if kind not in copies or copies[kind][0] != version:
        cast = _cast(denoiser, dtype)
        if kind[1]:
            compile_kernels(cast)
        copies[kind] = version, cast
    return copies[kind][1]  # type: ignore[return-value]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _cast(denoiser: Preconditioner | DiffusersDenoiser, dtype: torch.dtype) -> nn.Module:
    """A copy of a denoiser in a format, tried on one image."""
    cast = copy.deepcopy(denoiser)
    cast.network_dtype = dtype
    name = str(dtype).removeprefix("torch.")
    try:
        with torch.no_grad():
            if isinstance(cast, DiffusersDenoiser):
                _cast_unet2d(cast.unet, dtype)
                _try(cast)
            else:
                _cast_where_used(cast, dtype)
    except (CheckpointError, RuntimeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ConfigError(
            f"{{precision}} asks for {name}, in which this network cannot be evaluated ({error}). "
            "Choose fp32.",
            field="precision",
        ) from error
    return cast


def _cast_where_used(denoiser: Preconditioner, dtype: torch.dtype) -> None:
    """Cast the weights of every layer that is given features in the format, by one evaluation.

    Gains of a single number stay: the layers cast them together with what they scale.
    """
    if isinstance(denoiser.model, EDM2UNet):
        denoiser.model.fix_weights(dtype)

    def cast(module: nn.Module, given: tuple[Any, ...]) -> None:
        if not given or not isinstance(given[0], Tensor) or given[0].dtype != dtype:
            return
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim and weight.dtype == torch.float32:
                setattr(module, name, nn.Parameter(weight.to(dtype), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.ndim and buffer.dtype == torch.float32:
                setattr(module, name, buffer.to(dtype))

    hooks = [
        module.register_forward_pre_hook(cast)
        for module in denoiser.model.modules()
        if not isinstance(module, MPConv)
    ]
    try:
        _try(denoiser)
    finally:
        for hook in hooks:
            hook.remove()


def _cast_unet2d(unet: nn.Module, dtype: torch.dtype) -> None:
    """Cast a UNet2DModel as diffusers does, its random Fourier frequencies excepted."""
    unet.to(dtype)
    time_proj: Any = unet.time_proj
    time_proj.to(torch.float32)


def _try(denoiser: Preconditioner | DiffusersDenoiser) -> None:
    evaluate_blank(denoiser, 1, next(denoiser.parameters()).device)
