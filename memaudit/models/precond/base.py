"""What all preconditioned denoisers share: D(x; σ) = c_skip x + c_out F(c_in x; c_noise).

F is a U-Net or another network. The arithmetic around F is float32 whatever the precision of F.
"""

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from memaudit.models.denoiser import evaluation
from memaudit.models.networks.registry import unet_class
from memaudit.models.resolution import Resolution, as_resolution

NullLabel = Literal["zeros", "last"]
"""How a network is told of no class: by a row of zeros, or by a class of its own after all others.
"""


class Scalings(NamedTuple):
    """c_skip, c_out, c_in and c_noise, each of the shape of sigma."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def nearest(levels: Tensor, sigma: Tensor) -> Tensor:
    """Index t of the level [T] nearest to sigma, in float32: int64 of sigma's shape."""
    return (sigma[..., None].to(torch.float32) - levels).abs().argmin(dim=-1)


class Preconditioner(nn.Module, ABC):
    """A U-Net `model` as a denoiser; subclasses define its `scalings`.

    Args:
        img_resolution: height and width of the images: one number, or (height, width).
        img_channels: channels of the images.
        label_dim: number of classes; 0 for an unconditional model.
        use_fp16: the published network ran in half precision on a GPU. Kept as a statement; what
            decides is `network_dtype`.
    """

    model: nn.Module
    sigma_min: float
    """Smallest noise level that the model supports."""
    sigma_max: float
    """Largest noise level that the model supports."""
    network_dtype: torch.dtype = torch.float32
    """Type of the features inside the network; `models/precision.py` sets another one."""

    def __init__(
        self, img_resolution: Resolution, img_channels: int, label_dim: int, use_fp16: bool
    ) -> None:
        super().__init__()
        self.img_resolution = as_resolution(img_resolution)
        self.img_channels = img_channels
        self.label_dim = label_dim
        self.use_fp16 = use_fp16

    @property
    def null_label(self) -> NullLabel | None:
        """How the network is told of no class, as guidance needs; None if it never learned that.

        Whichever it is, `class_labels=None` and a row of zeros stand for no class.
        """
        learned = self.label_dim and getattr(self.model, "label_dropout", 0) > 0
        return "zeros" if learned else None

    @abstractmethod
    def scalings(self, sigma: Tensor) -> Scalings:
        """c_skip, c_out, c_in and c_noise at noise levels sigma, float32 of any shape."""

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest noise level that the model supports; those of discrete levels override it."""
        return sigma

    def network_input(self, x: Tensor, c_in: Tensor) -> Tensor:
        """What the network is given: x [B, C, H, W] scaled by c_in."""
        return c_in * x

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        **unet_inputs: Tensor | None,
    ) -> Tensor:
        """Denoise.

        Args:
            x: noisy images, float [B, C, H, W], data scale [-1, 1].
            sigma: noise level, a number or [B].
            class_labels: float [B or 1, label_dim], one-hot by convention, or None for zeros;
                ignored by an unconditional model.
            unet_inputs: further inputs of the U-Net, such as `augment_labels` of SongUNet and
                DhariwalUNet: float [B or 1, augment_dim], or None for images that were not
                augmented.

        Returns:
            Denoised images, float32 [B, C, H, W].
        """
        x = x.to(torch.float32)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1, 1, 1, 1)

        c_skip, c_out, c_in, c_noise = self.scalings(sigma)
        labels = self._labels(class_labels, x.device)
        with nullcontext() if self.training else evaluation(x):
            F_x: Tensor = self.model(
                self.network_input(x, c_in).to(self.network_dtype),
                c_noise.flatten(),
                class_labels=labels,
                **unet_inputs,
            )
        # iDDPM's U-Net returns a variance as well, in further channels.
        return c_skip * x + c_out * F_x[:, : self.img_channels].to(torch.float32)

    def _build_unet(
        self,
        model_type: str,
        out_channels: int,
        model_kwargs: dict[str, Any],
        *,
        label_dim: int | None = None,
    ) -> nn.Module:
        return unet_class(model_type)(
            self.img_resolution,
            self.img_channels,
            out_channels,
            label_dim=self.label_dim if label_dim is None else label_dim,
            **model_kwargs,
        )

    def _labels(self, class_labels: Tensor | None, device: torch.device) -> Tensor | None:
        if self.label_dim == 0:
            return None
        if class_labels is None:
            return torch.zeros(1, self.label_dim, device=device)
        if class_labels.ndim != 2 or class_labels.shape[1] != self.label_dim:
            raise ValueError(
                f"class_labels must be [B, label_dim] with label_dim {self.label_dim}, got "
                f"{list(class_labels.shape)}"
            )
        return class_labels.to(torch.float32)
