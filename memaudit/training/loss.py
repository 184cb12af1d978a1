"""The denoising losses: λ(σ) ‖D(y + σ n; σ) - y‖² for a training image y and n ~ N(0, I).

They differ in the distribution of σ and in the weight λ. Source: Karras et al. (EDM),
arXiv:2206.00364, Table 1; VP and VE restate Song et al., arXiv:2011.13456.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from memaudit.models.denoiser import Denoiser
from memaudit.training.config import Preconditioning


class DenoisingLoss(ABC):
    """A distribution of σ and a weight λ(σ)."""

    draw: ClassVar[Callable[..., Tensor]]
    """torch.rand or torch.randn: draws the numbers that `sigma` turns into noise levels."""

    @abstractmethod
    def sigma(self, draw: Tensor) -> Tensor:
        """Turn standard draws into noise levels of the same shape."""

    @abstractmethod
    def weight(self, sigma: Tensor) -> Tensor:
        """Return λ(σ), in the shape of σ."""

    def __call__(
        self,
        denoiser: Denoiser,
        y: Tensor,
        class_labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the loss at a random noise level for each image.

        Args:
            denoiser: the network to train.
            y: clean images, float32 [B, C, H, W] in [-1, 1].
            class_labels: one-hot float32 [B, label_dim], or None.
            generator: draws σ and the noise, on y's device; torch's own if None.

        Returns:
            λ(σ) (D(y + σ n; σ) - y)² per pixel, [B, C, H, W]. Training sums it over an image and
            averages it over the batch.
        """
        return self.at(denoiser, y, *self.draw_noise(y, generator=generator), class_labels)

    def draw_noise(
        self, y: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw noise levels [B] and unit noise [B, C, H, W] for images y."""
        draw = self.draw(len(y), generator=generator, device=y.device)
        noise = torch.randn(y.shape, generator=generator, device=y.device)
        return self.sigma(draw), noise

    def at(
        self,
        denoiser: Callable[..., Tensor],
        y: Tensor,
        sigma: Tensor,
        noise: Tensor,
        class_labels: Tensor | None = None,
    ) -> Tensor:
        """Return the loss at given noise levels.

        Args:
            denoiser: called with x, sigma and class_labels.
            y: clean images, float32 [B, C, H, W] in [-1, 1].
            sigma: noise levels, float32 [B].
            noise: unit noise n, float32 [B, C, H, W].
            class_labels: one-hot float32 [B, label_dim], or None.

        Returns:
            As calling the loss does, [B, C, H, W].
        """
        x = y + sigma.view(-1, 1, 1, 1) * noise
        D_x = denoiser(x, sigma, class_labels)
        return self.weight(sigma).view(-1, 1, 1, 1) * (D_x - y) ** 2


@dataclass(frozen=True)
class VPLoss(DenoisingLoss):
    """VP: σ(t) = √(exp(½ β_d t² + β_min t) - 1), t uniform in [ε_t, 1]; λ = 1/σ²."""

    beta_d: float = 19.9
    beta_min: float = 0.1
    epsilon_t: float = 1e-5
    draw = staticmethod(torch.rand)

    def sigma(self, draw: Tensor) -> Tensor:
        t = 1 + draw * (self.epsilon_t - 1)
        return ((0.5 * self.beta_d * t**2 + self.beta_min * t).exp() - 1).sqrt()

    def weight(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2


@dataclass(frozen=True)
class VELoss(DenoisingLoss):
    """VE: ln σ uniform between ln σ_min and ln σ_max; λ = 1/σ²."""

    sigma_min: float = 0.02
    sigma_max: float = 100.0
    draw = staticmethod(torch.rand)

    def sigma(self, draw: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** draw

    def weight(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2


@dataclass(frozen=True)
class EDMLoss(DenoisingLoss):
    """EDM: ln σ ~ N(P_mean, P_std²); λ = (σ² + σ_data²) / (σ σ_data)²."""

    P_mean: float = -1.2
    P_std: float = 1.2
    sigma_data: float = 0.5
    draw = staticmethod(torch.randn)

    def sigma(self, draw: Tensor) -> Tensor:
        return (self.P_mean + self.P_std * draw).exp()

    def weight(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


LOSSES: Mapping[Preconditioning, type[DenoisingLoss]] = {
    "vp": VPLoss,
    "ve": VELoss,
    "edm": EDMLoss,
}
"""The loss that comes with each preconditioning."""
