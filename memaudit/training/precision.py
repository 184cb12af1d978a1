"""The floating-point formats that a step is computed in. Weights and their average stay float32."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from memaudit.training.config import Precision

DTYPES: Mapping[Precision, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Format of the network's products by precision; None keeps that of the inputs."""


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return a context that computes the network's products in a precision."""
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def make_loss_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Make the scaler that keeps small gradients from vanishing in fp16's range.

    At other precisions it does nothing.
    """
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


@contextmanager
def allow_tf32(allowed: bool) -> Iterator[None]:
    """Set, within the context, whether GPUs may round the factors of float32 products to TF32.

    TF32 keeps 10 bits of the mantissa.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = allowed
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
            yield
    finally:
        matmul.allow_tf32 = before
