"""Classifier-free guidance (Ho and Salimans, arXiv:2207.12598): a denoiser of two others.

    D_w(x; σ, c) = D(x; σ) + w·(D(x; σ, c) − D(x; σ))

w = 1 is the model as it was trained, w > 1 exaggerates the class. Since every target is linear in D
at a given x and σ, guiding noise, v, score or velocity is the same.
"""

from torch import Tensor

from memaudit.errors import ConfigError
from memaudit.models.denoiser import Denoiser


class GuidedDenoiser:
    """D_w of a denoiser that also denoises without a class, where `class_labels` is None.

    Args:
        denoiser: any denoiser with classes and a null label.
        weight: w ≥ 0.
    """

    def __init__(self, denoiser: Denoiser, weight: float) -> None:
        self.img_channels, self.img_resolution = denoiser.img_channels, denoiser.img_resolution
        self.label_dim = denoiser.label_dim
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        self.round_sigma = denoiser.round_sigma
        self._denoiser, self._weight = denoiser, weight

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        without = self._denoiser(x, sigma, None)
        if class_labels is None:
            return without
        return without + self._weight * (self._denoiser(x, sigma, class_labels) - without)


def guided(denoiser: Denoiser, weight: float) -> Denoiser:
    """The denoiser guided by `weight`; itself if that is 1.

    Raises:
        ConfigError: it has no classes, or was not trained without them.
    """
    check_guidance(denoiser, weight)
    return denoiser if weight == 1 else GuidedDenoiser(denoiser, weight)


def check_guidance(denoiser: Denoiser, weight: float) -> None:
    """Refuse guidance of a model that cannot be guided.

    Raises:
        ConfigError: see `guided`.
    """
    if weight == 1 or getattr(denoiser, "null_label", None) is not None:
        return
    why = "it has no classes. Leave it out"
    if denoiser.label_dim:
        why = (
            "it was not trained without classes, or nobody says which label stands for none "
            "(null_label). Leave it out, or say that"
        )
    raise ConfigError(
        f"{{guidance}} is {weight:g}, but the model cannot be guided: {why}.",
        field="guidance",
    )
