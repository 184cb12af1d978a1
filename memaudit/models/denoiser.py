"""The one contract between models, samplers and audits.

Networks, converted checkpoints and the closed-form optimum are all denoisers: estimates
D(x; σ) of the clean image behind x = y + σ·n, n ~ N(0, I), data in [-1, 1] (EDM,
arXiv:2206.00364, §2). A sampler or an audit accepts any of them and never asks which it got.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from torch import Tensor

from memaudit.errors import CheckpointError
from memaudit.models.memory import is_out_of_memory
from memaudit.models.resolution import Resolution, height_and_width
from memaudit.wording import printable


@runtime_checkable
class Denoiser(Protocol):
    """D(x; sigma), and what a sampler needs to know about it."""

    img_channels: int
    """Channels of the images: 1 or 3."""
    img_resolution: Resolution
    """Height and width of the images: one number, or (height, width) where they differ."""
    label_dim: int
    """Number of classes; 0 for an unconditional model."""
    sigma_min: float
    """Smallest noise level that the denoiser supports."""
    sigma_max: float
    """Largest noise level that the denoiser supports."""

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Denoise.

        Args:
            x: noisy images, float [B, C, H, W], data scale [-1, 1].
            sigma: noise level, a scalar or [B].
            class_labels: one-hot float [B, label_dim], or None.

        Returns:
            Denoised images, float32 [B, C, H, W].
        """
        ...

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest noise level that it supports, of the same shape, dtype and device.

        A sampler asks for noise levels on the CPU, wherever the images are.
        """
        ...


def image_shape(denoiser: Denoiser) -> tuple[int, int, int]:
    """(C, H, W) of the images that a denoiser makes."""
    return denoiser.img_channels, *height_and_width(denoiser.img_resolution)


@contextmanager
def evaluation(x: Tensor) -> Iterator[None]:
    """What torch raises while a network of a file is evaluated, as an error that says so.

    Args:
        x: what the network is given, [B, C, H, W]; the message has its shape.

    Raises:
        CheckpointError: the network cannot be evaluated.
    """
    try:
        yield
    except (RuntimeError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        if is_out_of_memory(error):
            raise  # the machine's fault, and told as that
        tried = f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
        raise CheckpointError(
            f"The network cannot denoise images of {tried}: {printable(reason)}."
        ) from error
