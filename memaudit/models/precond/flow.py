"""Flow matching, rectified flow and interpolants: networks that predict a velocity.

Lipman et al., arXiv:2210.02747; Liu et al., arXiv:2209.03003; Ma et al. (SiT), arXiv:2401.08740.
"""

import math
from typing import Any

import torch
from torch import Tensor

from memaudit.models.precond.base import Scalings
from memaudit.models.precond.targets import TargetPrecond, scalings_of
from memaudit.models.resolution import Resolution

FLOW_PATHS = ("linear", "gvp")
SIGMA_MAX = 1e6
"""Noise level at which a flow starts: t = 10⁻⁶ from its prior, where x_t = n to float32."""


class FlowPrecond(TargetPrecond):
    """A network that predicts the velocity dx_t/dt of x_t = a(t)·y + b(t)·n at time t.

    It denoises every noise level from 0 to SIGMA_MAX. A flow begins at noise alone, σ = ∞. At
    SIGMA_MAX, x/(1 + σ) is that noise up to a millionth, so that a sampler of the flow starts there
    without a case of its own; at EDM's 80, the state lacks 1/81 of the images' mean, as EDM's does.

    Args:
        path: linear (a = t, b = 1 − t) or gvp (a = sin ½πt, b = cos ½πt).
        data_at: time of the data: 1 if noise is at t = 0, or 0 if noise is at t = 1.
        time_scale: of the time that the network is given, c_noise = t · time_scale.
        options: those of `TargetPrecond`, and of the network.
    """

    def __init__(
        self,
        img_resolution: Resolution,
        img_channels: int,
        *,
        path: str = "linear",
        data_at: int = 1,
        time_scale: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(img_resolution, img_channels, **options)
        if path not in FLOW_PATHS:
            raise ValueError(f"path must be one of {', '.join(FLOW_PATHS)}; got {path!r}")
        if data_at not in (0, 1):
            raise ValueError(f"data_at must be 0 or 1, got {data_at}")
        self.path = path
        self.data_at = data_at
        self.time_scale = time_scale
        self.sigma_min, self.sigma_max = 0.0, SIGMA_MAX

    @property
    def flow_path(self) -> str:
        """Along which its own sampler goes: linear or gvp."""
        return self.path

    def scalings(self, sigma: Tensor) -> Scalings:
        scalings = scalings_of("velocity", sigma, path=self.path, data_at=self.data_at)
        return Scalings(*scalings, self.time_scale * self.t(sigma))

    def t(self, sigma: Tensor) -> Tensor:
        """Time at which the noise level is sigma, in the network's units; same shape and dtype."""
        if self.path == "linear":
            return 1 / (1 + sigma) if self.data_at == 1 else sigma / (1 + sigma)
        quarter = torch.atan(1 / sigma) if self.data_at == 1 else torch.atan(sigma)
        return 2 / math.pi * quarter
