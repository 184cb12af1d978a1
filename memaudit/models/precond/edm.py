"""EDM's preconditioners: VP, VE, iDDPM and EDM (arXiv:2206.00364, Table 1), and EDM2's."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from memaudit.models.iddpm import iddpm_levels
from memaudit.models.networks.edm2 import EDM2UNet, MPConv, MPFourier
from memaudit.models.precond.base import Preconditioner, Scalings, nearest
from memaudit.models.resolution import Resolution


class VPPrecond(Preconditioner):
    """Variance preserving: σ(t) = √(exp(½ β_d t² + β_min t) − 1) for times t in [ε_t, 1].

    Args:
        beta_d, beta_min: slope and start of the noise schedule.
        M: number of noise levels that the U-Net's label counts.
        epsilon_t: smallest time.
        model_type: U-Net to build; `model_kwargs` are its options.
    """

    def __init__(
        self,
        img_resolution: Resolution,
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
        super().__init__(img_resolution, img_channels, label_dim, use_fp16)
        self.beta_d = beta_d
        self.beta_min = beta_min
        self.M = M
        # The published range is this one, of float32 arithmetic.
        times = torch.tensor([epsilon_t, 1.0], device="cpu")
        self.sigma_min, self.sigma_max = self.sigma(times).tolist()
        self.model = self._build_unet(model_type, img_channels, model_kwargs)

    def scalings(self, sigma: Tensor) -> Scalings:
        return Scalings(
            c_skip=torch.ones_like(sigma),
            c_out=-sigma,
            c_in=(sigma**2 + 1).rsqrt(),
            c_noise=(self.M - 1) * self.t(sigma),
        )

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level at time t, same shape and dtype."""
        exponent = 0.5 * self.beta_d * t**2 + self.beta_min * t
        return _rounded_once(torch.sqrt, _rounded_once(torch.exp, exponent) - 1)

    def t(self, sigma: Tensor) -> Tensor:
        """Time at which the noise level is sigma, same shape and dtype."""
        # Not log1p: published networks were trained with the rounding of log(1 + σ²).
        beta_d, beta_min = self.beta_d, self.beta_min
        log = _rounded_once(torch.log, 1 + sigma**2)
        return (_rounded_once(torch.sqrt, beta_min**2 + 2 * beta_d * log) - beta_min) / beta_d


class VEPrecond(Preconditioner):
    """Variance exploding: the network sees x as it is and predicts the noise.

    Args:
        sigma_min, sigma_max: noise levels that the model supports.
        model_type: U-Net to build; `model_kwargs` are its options.
    """

    def __init__(
        self,
        img_resolution: Resolution,
        img_channels: int,
        *,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0.02,
        sigma_max: float = 100.0,
        model_type: str = "SongUNet",
        **model_kwargs: Any,
    ) -> None:
        super().__init__(img_resolution, img_channels, label_dim, use_fp16)
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.model = self._build_unet(model_type, img_channels, model_kwargs)

    def scalings(self, sigma: Tensor) -> Scalings:
        one = torch.ones_like(sigma)
        return Scalings(c_skip=one, c_out=sigma, c_in=one, c_noise=(0.5 * sigma).log())


class iDDPMPrecond(Preconditioner):
    """Improved DDPM (Nichol and Dhariwal, arXiv:2102.09672): M discrete noise levels.

    Args:
        C_1, C_2: bound on a step of the schedule, and its offset: see `iddpm_levels`.
        M: number of noise levels.
        model_type: U-Net to build; `model_kwargs` are its options.
    """

    u: Tensor

    def __init__(
        self,
        img_resolution: Resolution,
        img_channels: int,
        *,
        label_dim: int = 0,
        use_fp16: bool = False,
        C_1: float = 0.001,
        C_2: float = 0.008,
        M: int = 1000,
        model_type: str = "DhariwalUNet",
        **model_kwargs: Any,
    ) -> None:
        super().__init__(img_resolution, img_channels, label_dim, use_fp16)
        u = torch.from_numpy(iddpm_levels(M, C_1=C_1, C_2=C_2))
        self.M = M
        self.sigma_min, self.sigma_max = float(u[M - 1]), float(u[0])
        self.register_buffer("u", u)
        # The U-Net returns a variance as well, in further channels.
        self.model = self._build_unet(model_type, 2 * img_channels, model_kwargs)

    def scalings(self, sigma: Tensor) -> Scalings:
        return Scalings(
            c_skip=torch.ones_like(sigma),
            c_out=-sigma,
            c_in=(sigma**2 + 1).rsqrt(),
            c_noise=self.M - 1 - self.nearest_level(sigma).to(torch.float32),
        )

    @property
    def noise_levels(self) -> Tensor:
        """The noise levels that it was trained at, ascending."""
        return self.u[: self.M].flip(0)

    def nearest_level(self, sigma: Tensor) -> Tensor:
        """Index j of the u_j nearest to sigma, int64 of the same shape."""
        return nearest(self.u, sigma)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        levels = self.u.to(sigma.device)
        return levels[nearest(levels, sigma)].to(sigma.dtype)


class EDMPrecond(Preconditioner):
    """EDM: the network's input and what it must predict both have unit variance.

    Args:
        sigma_min, sigma_max: noise levels that the model supports.
        sigma_data: standard deviation of the data.
        model_type: U-Net to build; `model_kwargs` are its options.
    """

    def __init__(
        self,
        img_resolution: Resolution,
        img_channels: int,
        *,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
        sigma_data: float = 0.5,
        model_type: str = "DhariwalUNet",
        **model_kwargs: Any,
    ) -> None:
        super().__init__(img_resolution, img_channels, label_dim, use_fp16)
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.sigma_data = sigma_data
        self.model = self._build_unet(model_type, img_channels, model_kwargs)

    def scalings(self, sigma: Tensor) -> Scalings:
        return edm_scalings(sigma, self.sigma_data)


class ConsistencyPrecond(EDMPrecond):
    """EDM's scalings with the noise label of OpenAI's consistency_models, c_noise = 250 ln(σ)."""

    def scalings(self, sigma: Tensor) -> Scalings:
        return super().scalings(sigma)._replace(c_noise=250 * (sigma + 1e-44).log())


class EDM2Precond(Preconditioner):
    """EDM2 (arXiv:2312.02696): EDM's scalings, a magnitude-preserving U-Net, and the loss's
    log variance as a function of the noise level. `Precond` in EDM2's snapshots.

    Args:
        sigma_data: standard deviation of the data.
        logvar_channels: Fourier features of the log variance.
        unet_kwargs: the U-Net's options.
    """

    def __init__(
        self,
        img_resolution: Resolution,
        img_channels: int,
        *,
        label_dim: int = 0,
        use_fp16: bool = True,
        sigma_data: float = 0.5,
        logvar_channels: int = 128,
        **unet_kwargs: Any,
    ) -> None:
        super().__init__(img_resolution, img_channels, label_dim, use_fp16)
        self.sigma_min = 0.0
        self.sigma_max = math.inf
        self.sigma_data = sigma_data
        self.unet = EDM2UNet(self.img_resolution, img_channels, label_dim=label_dim, **unet_kwargs)
        self.logvar_fourier = MPFourier(logvar_channels)
        self.logvar_linear = MPConv(logvar_channels, 1)

    @property
    def model(self) -> nn.Module:  # type: ignore[override]
        """The U-Net, under the name that it has in the other denoisers."""
        return self.unet

    def scalings(self, sigma: Tensor) -> Scalings:
        return edm_scalings(sigma, self.sigma_data)

    def logvar(self, sigma: Tensor) -> Tensor:
        """Learned logarithm of the loss's variance at noise levels sigma [B], float32 [B]."""
        c_noise = self.scalings(sigma.to(torch.float32)).c_noise
        logvar: Tensor = self.logvar_linear(self.logvar_fourier(c_noise))
        return logvar.flatten()


def _rounded_once(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x) rounded correctly to x's dtype.

    The last bit of a float32 logarithm, or even of a root, depends on the processor's math library,
    and the differences that VP takes magnify it.
    """
    return function(x.to(torch.float64)).to(x.dtype)


def edm_scalings(sigma: Tensor, sigma_data: float) -> Scalings:
    variance = sigma**2 + sigma_data**2
    return Scalings(
        c_skip=sigma_data**2 / variance,
        c_out=sigma * sigma_data * variance.rsqrt(),
        c_in=variance.rsqrt(),
        c_noise=sigma.log() / 4,
    )
