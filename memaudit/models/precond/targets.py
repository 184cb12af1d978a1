"""One algebra for what networks predict: every target, along every path, as a denoiser.

A network F is given x_t = a·y + b·n, clean images y and unit noise n. With σ = b/a and x = y + σn
that is a·x, and F's target is linear in y and n, so that D(x; σ) = c_skip x + c_out F(a x):

    target         F estimates           D
    epsilon        n                     x − σF
    sample         y                     F
    v_prediction   a n − b y             (a x − σF) / (a + bσ)
    velocity       ẋ_t = ȧ y + ḃ n       (σF − ḃx) / (σȧ − ḃ)
    score          ∇ log p(x_t) = −n/b   x + aσ²F

    path           a                     b                    v_prediction (Salimans and Ho,
    vp             1/√(1 + σ²)           σ/√(1 + σ²)          arXiv:2202.00512) is of vp.
    subvp          (√(4 + σ²) − σ)/2     1 − a²
    ve             1                     σ
    linear         1/(1 + σ) = t         1 − t                velocity (Lipman et al.,
    gvp            sin(½πt)              cos(½πt)             arXiv:2210.02747; Ma et al.,
                                                              arXiv:2401.08740): data at t = 1;
                                                              negative where data are at t = 0.
"""

import math
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from memaudit.models.precond.base import NullLabel, Preconditioner
from memaudit.models.resolution import Resolution

TARGETS = ("epsilon", "sample", "v_prediction", "velocity", "score")
PATHS = ("vp", "subvp", "ve", "linear", "gvp")
DATA_RANGES = ("-1..1", "0..1")


class TargetScalings(NamedTuple):
    """c_skip, c_out and c_in, each of the shape of sigma."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor


def scalings_of(
    target: str, sigma: Tensor, *, path: str = "vp", data_at: int = 1
) -> TargetScalings:
    """Scalings that make a denoiser of a network that predicts `target`.

    Args:
        target: one of TARGETS.
        sigma: noise levels, float of any shape.
        path: one of PATHS: what the network is given, c_in x.
        data_at: time of the data, 1 or 0: the sign of a velocity.

    Raises:
        ValueError: an unknown target or path, or a velocity along a path that has no time here.
    """
    one = torch.ones_like(sigma)
    a = signal(path, sigma)
    if target == "epsilon":
        return TargetScalings(one, -sigma, a)
    if target == "sample":
        return TargetScalings(torch.zeros_like(sigma), one, a)
    if target == "v_prediction":
        variance = 1 + sigma**2
        return TargetScalings(1 / variance, -sigma / (a * variance), a)
    if target == "score":
        return TargetScalings(one, a * sigma**2, a)
    if target == "velocity":
        sign = 1 if data_at == 1 else -1
        if path == "linear":  # ȧ = 1, ḃ = −1
            return TargetScalings(a, sign * sigma * a, a)
        if path == "gvp":  # ȧ = ½π b, ḃ = −½π a
            return TargetScalings(a**2, sign * 2 / math.pi * sigma * a, a)
        raise ValueError(f"a velocity needs the path linear or gvp, got {path!r}")
    raise ValueError(f"target must be one of {', '.join(TARGETS)}; got {target!r}")


def signal(path: str, sigma: Tensor) -> Tensor:
    """a at noise levels sigma: the scale of the clean images in what the network is given.

    Raises:
        ValueError: an unknown path.
    """
    if path in ("vp", "gvp"):
        return (1 + sigma**2).rsqrt()
    if path == "linear":
        return 1 / (1 + sigma)
    if path == "subvp":
        return 2 / (sigma + (sigma**2 + 4).sqrt())
    if path == "ve":
        return torch.ones_like(sigma)
    raise ValueError(f"path must be one of {', '.join(PATHS)}; got {path!r}")


class TargetPrecond(Preconditioner):
    """A network of another trainer's; subclasses define its `scalings` by `scalings_of`.

    `scalings` are in the units of the data that the network was trained on; `sigma_min`,
    `sigma_max` and `round_sigma` are those of a denoiser, of images in [-1, 1].

    Args:
        img_resolution, img_channels, label_dim, use_fp16: as for `Preconditioner`.
        null_label: how the network is told of no class: "zeros" for a row of zeros, "last" for a
            class after all others, so that its labels are one-hot of label_dim + 1; None if it was
            not trained without classes.
        data_range: "0..1" for a network trained on images in [0, 1].
        learned_variance: the network returns a variance as well, in further channels, which are
            left out.
        model_type: network to build; `model_kwargs` are its options.
    """

    def __init__(
        self,
        img_resolution: Resolution,
        img_channels: int,
        *,
        label_dim: int = 0,
        use_fp16: bool = False,
        null_label: str | None = None,
        data_range: str = "-1..1",
        learned_variance: bool = False,
        model_type: str = "OpenAIUNet",
        **model_kwargs: Any,
    ) -> None:
        super().__init__(img_resolution, img_channels, label_dim, use_fp16)
        if null_label not in (None, *get_args(NullLabel)):
            raise ValueError(f"null_label must be zeros, last or null; got {null_label!r}")
        if data_range not in DATA_RANGES:
            raise ValueError(f"data_range must be -1..1 or 0..1; got {data_range!r}")
        self._null_label: NullLabel | None = null_label  # type: ignore[assignment]
        self.data_scale = 1.0 if data_range == "-1..1" else 0.5
        """Size of the range of the network's data, relative to [-1, 1]."""
        out_channels = img_channels * (2 if learned_variance else 1)
        self.model = self._build_unet(
            model_type,
            out_channels,
            model_kwargs,
            label_dim=label_dim + (self.null_label == "last"),
        )

    @property
    def null_label(self) -> NullLabel | None:
        return self._null_label if self.label_dim else None

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        **network_inputs: Tensor | None,
    ) -> Tensor:
        """Denoise; see `Preconditioner.forward`. `class_labels` may be None, or a row of zeros, for
        no class only if the network has a null label."""
        if self.data_scale == 1:
            return super().forward(x, sigma, class_labels, **network_inputs)
        # y' = ½ + ½ y, hence σ' = ½ σ.
        D = super().forward(0.5 + 0.5 * x, 0.5 * sigma, class_labels, **network_inputs)
        return 2 * D - 1

    def _labels(self, class_labels: Tensor | None, device: torch.device) -> Tensor | None:
        if self.label_dim == 0:
            return None
        if class_labels is None:
            if self.null_label is None:
                raise ValueError(
                    f"class_labels must be one-hot [B, {self.label_dim}]: the network was not "
                    "trained without classes"
                )
            class_labels = torch.zeros(1, self.label_dim, device=device)
        labels = super()._labels(class_labels, device)
        if labels is not None and self.null_label == "last":
            labels = torch.cat([labels, 1 - labels.sum(1, keepdim=True)], dim=1)
        return labels
