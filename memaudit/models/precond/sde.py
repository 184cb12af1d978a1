"""Networks trained on the stochastic differential equations of Song et al. (arXiv:2011.13456).

x_t = a(t)·y + b(t)·n for times t in (0, 1], with B(t) = β_min t + ½ (β_max − β_min) t²:

    vp       a = exp(−½ B), b = √(1 − a²)                       σ = b/a = √(exp(B) − 1)
    subvp    a = exp(−½ B), b = 1 − a²                          σ = 2 sinh(½ B)
    ve       a = 1,         b = σ_min (σ_max / σ_min)^t         σ = b
"""

from typing import Any

import torch
from torch import Tensor

from memaudit.models.precond.base import Scalings
from memaudit.models.precond.targets import TargetPrecond, scalings_of
from memaudit.models.resolution import Resolution

SDES = ("vp", "subvp", "ve")
SDE_TARGETS = ("epsilon", "sample")
EPSILON_T = 1e-5
"""Smallest time at which networks are trained."""


class SDEPrecond(TargetPrecond):
    """A network trained at continuous times of an SDE.

    Along vp and subvp it is given 999·t. Along ve it is given ln σ, and predicts −n: its output
    over σ is the score.

    Args:
        sde: vp, subvp or ve.
        target: what it predicts along vp and subvp: epsilon or sample.
        beta_min, beta_max: of vp and subvp.
        sigma_min, sigma_max: of ve, in the units of its data.
        time_scale: of the time that the network is given along vp and subvp.
        model_type: network to build.
        options: those of `TargetPrecond`, and of the network. With a `data_range` of "0..1", the
            network begins with 2x − 1, as in score_sde_pytorch.
    """

    def __init__(
        self,
        img_resolution: Resolution,
        img_channels: int,
        *,
        sde: str = "vp",
        target: str = "epsilon",
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        time_scale: float = 999.0,
        model_type: str = "SongUNet",
        **options: Any,
    ) -> None:
        super().__init__(img_resolution, img_channels, model_type=model_type, **options)
        if sde not in SDES:
            raise ValueError(f"sde must be one of {', '.join(SDES)}; got {sde!r}")
        if target not in SDE_TARGETS or (sde == "ve" and target != "epsilon"):
            raise ValueError(
                f"target must be epsilon, or sample along vp and subvp; got {target!r} along {sde}"
            )
        if beta_max < beta_min:
            raise ValueError(f"beta_max is {beta_max:g}, below beta_min, {beta_min:g}")
        self.sde = sde
        self.target = target
        self.beta_min = beta_min
        self.beta_d = beta_max - beta_min
        self.time_scale = time_scale
        if sde != "ve":
            times = torch.tensor([EPSILON_T, 1.0], dtype=torch.float64, device="cpu")
            sigma_min, sigma_max = self.sigma(times).tolist()
        self.sigma_min = sigma_min / self.data_scale
        self.sigma_max = sigma_max / self.data_scale

    def scalings(self, sigma: Tensor) -> Scalings:
        if self.sde == "ve":
            one = torch.ones_like(sigma)
            return Scalings(c_skip=one, c_out=sigma, c_in=one, c_noise=sigma.log())
        c_noise = self.time_scale * self.t(sigma.to(torch.float64))
        scalings = scalings_of(self.target, sigma, path=self.sde)
        return Scalings(*scalings, c_noise.to(sigma.dtype))

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level at time t along vp or subvp, same shape and dtype."""
        B = self.beta_min * t + 0.5 * self.beta_d * t**2
        return torch.expm1(B).sqrt() if self.sde == "vp" else 2 * torch.sinh(0.5 * B)

    def t(self, sigma: Tensor) -> Tensor:
        """Time at which the noise level is sigma along vp or subvp, same shape and dtype."""
        B = torch.log1p(sigma**2) if self.sde == "vp" else 2 * torch.asinh(0.5 * sigma)
        # The root of ½ β_d t² + β_min t − B, in a form that does not cancel where t is small.
        return 2 * B / (self.beta_min + (self.beta_min**2 + 2 * self.beta_d * B).sqrt())

    def network_input(self, x: Tensor, c_in: Tensor) -> Tensor:
        scaled = super().network_input(x, c_in)
        return scaled if self.data_scale == 1 else 2 * scaled - 1
