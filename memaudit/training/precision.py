"""The floating-point formats that a step is computed in. Weights and their average stay float32."""

from collections.abc import Mapping

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
