"""Preconditioned denoisers: D(x; σ) = c_skip x + c_out F(c_in x; c_noise), F a U-Net.

The four choices of c_skip, c_out, c_in and c_noise are those of EDM, arXiv:2206.00364, Table 1. The
outer arithmetic is float32 whatever the precision of F.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memaudit.errors import ConfigError
from memaudit.models.networks.song import SongUNet

UNETS: dict[str, type[nn.Module]] = {"SongUNet": SongUNet}


class Scalings(NamedTuple):
    """c_skip, c_out, c_in and c_noise, each of the shape of sigma."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class Preconditioner(nn.Module, ABC):
    """A U-Net as a denoiser. Subclasses say what `scalings` are.

    Args:
        img_resolution: height and width of the images.
        img_channels: channels of the images.
        label_dim: number of classes; 0 for an unconditional model.
        use_fp16: run the U-Net in half precision on CUDA; no effect on a CPU.
        sigma_min, sigma_max: noise levels that the model supports.
        model_type: "SongUNet" or "DhariwalUNet".
        out_channels: channels that the U-Net returns; the first img_channels are used.
        model_kwargs: the U-Net's own options.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        *,
        label_dim: int,
        use_fp16: bool,
        sigma_min: float,
        sigma_max: float,
        model_type: str,
        model_kwargs: Mapping[str, Any],
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.label_dim = label_dim
        self.use_fp16 = use_fp16
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.model = _unet_class(model_type)(
            img_resolution,
            img_channels,
            out_channels or img_channels,
            label_dim=label_dim,
            **model_kwargs,
        )

    @abstractmethod
    def scalings(self, sigma: Tensor) -> Scalings:
        """c_skip, c_out, c_in and c_noise of float32 sigma of any shape."""

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest noise level that the model supports: every one, but for iDDPM."""
        return sigma

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        *,
        augment_labels: Tensor | None = None,
        force_fp32: bool = False,
    ) -> Tensor:
        """Denoise.

        Args:
            x: noisy images, float [B, C, H, W], data scale [-1, 1].
            sigma: noise level, a number or [B].
            class_labels: float [B or 1, label_dim], one-hot by convention, or None for zeros;
                ignored by an unconditional model.
            augment_labels: float [B or 1, augment_dim], or None for images not augmented.
            force_fp32: ignore use_fp16.

        Returns:
            Denoised images, float32 [B, C, H, W].
        """
        x = x.to(torch.float32)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1, 1, 1, 1)
        half = self.use_fp16 and not force_fp32 and x.device.type == "cuda"

        c_skip, c_out, c_in, c_noise = self.scalings(sigma)
        F_x = self.model(
            (c_in * x).to(torch.float16 if half else torch.float32),
            c_noise.flatten(),
            class_labels=self._labels(class_labels, x.device),
            augment_labels=augment_labels,
        )
        return c_skip * x + c_out * F_x[:, : self.img_channels].to(torch.float32)

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


class VPPrecond(Preconditioner):
    """Variance preserving: noise level σ(t) = √(exp(½ β_d t² + β_min t) − 1), t in [ε_t, 1]."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        *,
        label_dim: int = 0,
        use_fp16: bool = False,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        M: int = 1000,
        epsilon_t: float = 1e-5,
        model_type: str = "SongUNet",
        **model_kwargs: Any,
    ) -> None:
        self.beta_d = beta_d
        self.beta_min = beta_min
        self.M = M
        # In float32, as the published range is.
        sigma_min, sigma_max = self.sigma(torch.tensor([epsilon_t, 1.0], device="cpu")).tolist()
        super().__init__(
            img_resolution,
            img_channels,
            label_dim=label_dim,
            use_fp16=use_fp16,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            model_type=model_type,
            model_kwargs=model_kwargs,
        )

    def scalings(self, sigma: Tensor) -> Scalings:
        return Scalings(
            c_skip=torch.ones_like(sigma),
            c_out=-sigma,
            c_in=(sigma**2 + 1).rsqrt(),
            c_noise=(self.M - 1) * self.t(sigma),
        )

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level at time t, same shape and dtype."""
        return ((0.5 * self.beta_d * t**2 + self.beta_min * t).exp() - 1).sqrt()

    def t(self, sigma: Tensor) -> Tensor:
        """Time at which the noise level is sigma, same shape and dtype."""
        # Not log1p: networks are trained with, and expect, the rounding of log(1 + σ²).
        beta_min, beta_d = self.beta_min, self.beta_d
        return ((beta_min**2 + 2 * beta_d * (1 + sigma**2).log()).sqrt() - beta_min) / beta_d


class EDMPrecond(Preconditioner):
    """EDM's own: unit variance of the network's input and of its training target."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        *,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0.0,
        sigma_max: float = float("inf"),
        sigma_data: float = 0.5,
        model_type: str = "DhariwalUNet",
        **model_kwargs: Any,
    ) -> None:
        super().__init__(
            img_resolution,
            img_channels,
            label_dim=label_dim,
            use_fp16=use_fp16,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            model_type=model_type,
            model_kwargs=model_kwargs,
        )
        self.sigma_data = sigma_data

    def scalings(self, sigma: Tensor) -> Scalings:
        return edm_scalings(sigma, self.sigma_data)


def edm_scalings(sigma: Tensor, sigma_data: float) -> Scalings:
    """EDM's c_skip, c_out, c_in and c_noise for data of standard deviation sigma_data."""
    variance = sigma**2 + sigma_data**2
    return Scalings(
        c_skip=sigma_data**2 / variance,
        c_out=sigma * sigma_data * variance.rsqrt(),
        c_in=variance.rsqrt(),
        c_noise=sigma.log() / 4,
    )


PRECONDITIONERS: dict[str, type[Preconditioner]] = {
    "VPPrecond": VPPrecond,
    "EDMPrecond": EDMPrecond,
}


def build_network(config: Mapping[str, Any]) -> nn.Module:
    """A new network from a flat configuration.

    Args:
        config: `class_name` of the preconditioner (a key of PRECONDITIONERS), and the keywords of
            its constructor and of the U-Net's that `model_type` names, as in EDM.

    Returns:
        The denoiser, in training mode, its weights initialized for training.

    Raises:
        ConfigError: a class or keyword is unknown or missing, or a value does not fit.
    """
    keywords = dict(config)
    class_name = keywords.pop("class_name", None)
    if class_name not in PRECONDITIONERS:
        raise ConfigError(
            f"class_name {class_name!r} is no preconditioner that memaudit knows; it must be one "
            f"of {', '.join(PRECONDITIONERS)}."
        )
    precond = PRECONDITIONERS[class_name]
    try:
        default_type = inspect.signature(precond).parameters["model_type"].default
        unet = _unet_class(keywords.get("model_type", default_type))
        accepted = {*_keywords(precond), *_keywords(unet)} - {"in_channels", "out_channels"}
        unknown = sorted(set(keywords) - accepted)
        if unknown:
            raise ValueError(
                f"unknown keyword {', '.join(unknown)}; accepted are {', '.join(sorted(accepted))}"
            )
        return precond(**keywords)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{class_name} cannot be built from its configuration: {error}."
        ) from error


def _unet_class(model_type: str) -> type[nn.Module]:
    if model_type not in UNETS:
        raise ValueError(f"model_type must be one of {', '.join(UNETS)}; got {model_type!r}")
    return UNETS[model_type]


def _keywords(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
