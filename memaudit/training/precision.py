"""In which floating-point formats a step is computed. Weights and their average stay float32."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

DTYPES: Mapping[str, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Format of the network's products by precision; None: that of its inputs."""


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which the network's products are computed in `precision`."""
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def loss_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Keeps small gradients from vanishing in fp16's range; does nothing at other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


@contextmanager
def tf32_products(allowed: bool) -> Iterator[None]:
    """Whether GPUs may round the factors of float32 products to TF32's 10 bits, while it lasts."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = allowed
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
            yield
    finally:
        matmul.allow_tf32 = before
