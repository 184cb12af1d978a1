"""Models of which it is known what they copy, for checks."""

import math

import numpy as np
import pytest
import torch
from helpers.images import smooth_images
from torch import Tensor

from memaudit.data.images import ImageSet


class NeverCopies:
    """The denoiser of smooth images as a Gaussian: it knows their mean and covariance alone."""

    img_channels, img_resolution, label_dim = 3, 8, 0
    sigma_min, sigma_max = 0.0, math.inf

    def __init__(self, images: np.ndarray) -> None:
        y = torch.from_numpy(images / 127.5 - 1).flatten(1)
        self.mean = y.mean(0)
        self.variance, self.axes = torch.linalg.eigh(torch.cov(y.T))
        self.variance = self.variance.clamp(min=1e-6)

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        centered = (x.flatten(1).double() - self.mean) @ self.axes
        shrunk = centered * self.variance / (self.variance + sigma.double() ** 2)
        return (shrunk @ self.axes.T + self.mean).view(x.shape).float()

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return sigma


@pytest.fixture(scope="session")
def train() -> ImageSet:
    images = smooth_images(40, 8, seed=10)
    return ImageSet(images, [f"train/{i}.png" for i in range(40)], source="train")


@pytest.fixture(scope="session")
def holdout() -> ImageSet:
    images = smooth_images(160, 8, seed=11)
    return ImageSet(images, [f"held/{i}.png" for i in range(160)], source="held")


@pytest.fixture(scope="session")
def never_copies() -> NeverCopies:
    return NeverCopies(smooth_images(3000, 8, seed=12))
