"""Decode 16-bit PNG in RGB with torchvision, since PIL cuts it to 8 bits."""

import contextlib

import numpy as np

from memaudit.data.readers.jpeg import load_torchvision


def decode_deep_png(data: bytes) -> np.ndarray | None:
    """uint16 [H, W] or [H, W, C], or None if it cannot be decoded."""
    with contextlib.suppress(ImportError, OSError, AttributeError, RuntimeError):
        import torch

        load_torchvision()
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        pixels = torch.ops.image.decode_png.default(encoded, 0, False)  # as stored
        if pixels.dtype == torch.uint16:
            found: np.ndarray = pixels.numpy()
            return found[0] if len(found) == 1 else found.transpose(1, 2, 0)
    return None
