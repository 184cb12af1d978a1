"""Networks trained at discrete noise levels (DDPM, arXiv:2006.11239, and its successors)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memaudit.models.precond.base import Scalings, nearest
from memaudit.models.precond.schedules import schedule_betas, sigmas_of
from memaudit.models.precond.targets import TargetPrecond, scalings_of
from memaudit.models.resolution import Resolution

DISCRETE_TARGETS = ("epsilon", "sample", "v_prediction")


class DiscretePrecond(TargetPrecond):
    """A network for T discrete noise levels σ_t, which is given x/√(1 + σ²) and t.

    Args:
        target: what it predicts: epsilon, sample or v_prediction.
        schedule: name of its noise schedule (`schedules.py`); unused with `betas` or `sigmas`.
        num_steps: number of noise levels, T; unused likewise.
        beta_start, beta_end: of the schedules that have them; None for the usual ones.
        betas: the schedule in numbers, for t = 0 … T−1.
        sigmas: its noise levels in numbers, ascending, for t = 0 … T−1.
        time_scale: of the time that the network is given, c_noise = t · time_scale; 1000/T where
            time is rescaled to 1000 steps.
        options: those of `TargetPrecond`, and of the network.
    """

    levels: Tensor

    def __init__(
        self,
        img_resolution: Resolution,
        img_channels: int,
        *,
        target: str = "epsilon",
        schedule: str = "linear",
        num_steps: int = 1000,
        beta_start: float | None = None,
        beta_end: float | None = None,
        betas: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        time_scale: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(img_resolution, img_channels, **options)
        if target not in DISCRETE_TARGETS:
            raise ValueError(f"target must be one of {', '.join(DISCRETE_TARGETS)}; got {target!r}")
        if betas is not None and sigmas is not None:
            raise ValueError("betas and sigmas are given; one of them is needed")
        self.target = target
        self.time_scale = time_scale
        if sigmas is not None:
            levels = np.asarray(sigmas, dtype=np.float64)
        else:
            if betas is None:
                betas = schedule_betas(
                    schedule, num_steps, beta_start=beta_start, beta_end=beta_end
                ).tolist()
            levels = sigmas_of(betas)
        self.register_buffer("levels", usable_levels(levels), persistent=False)
        self.sigma_min = float(self.levels[0]) / self.data_scale
        self.sigma_max = float(self.levels[-1]) / self.data_scale

    @property
    def noise_levels(self) -> Tensor:
        """The noise levels that it was trained at, ascending, of images in [-1, 1]."""
        return self.levels / self.data_scale

    def scalings(self, sigma: Tensor) -> Scalings:
        c_noise = self.nearest_level(sigma).to(torch.float32) * self.time_scale
        return Scalings(*scalings_of(self.target, sigma), c_noise)

    def nearest_level(self, sigma: Tensor) -> Tensor:
        """Index t of the σ_t nearest to sigma, int64 of the same shape, in the network's units."""
        return nearest(self.levels, sigma)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        levels = self.levels.to(sigma.device)
        return levels[nearest(levels, sigma * self.data_scale)].to(sigma.dtype) / self.data_scale


def usable_levels(sigmas: np.ndarray) -> Tensor:
    """Noise levels for t = 0, 1, …, float32, up to the first that is not finite.

    Raises:
        ValueError: there are none, or they do not ascend from above 0.
    """
    levels = torch.from_numpy(np.asarray(sigmas, dtype=np.float64)).to(torch.float32)
    # Schedules without signal at the end reach infinity.
    levels = levels[levels.isfinite().cumprod(0).bool()]
    if len(levels) < 2 or not levels[0] > 0 or not (levels[1:] >= levels[:-1]).all():
        raise ValueError(
            f"the {len(sigmas):,} noise levels of its schedule must ascend from above 0, and at "
            "least two must be finite"
        )
    return levels
