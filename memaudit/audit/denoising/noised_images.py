"""Some of the training images with noise, and the loss of a model on them."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import dctn
from torch import Tensor
from torch.nn.functional import one_hot

from memaudit.data.images import ImageSet, uint8_to_float
from memaudit.errors import CheckpointError, DataError
from memaudit.models.arithmetic import float32_inference
from memaudit.models.denoiser import Denoiser, image_shape
from memaudit.models.devices import to_device, with_float64
from memaudit.models.execution import Execution
from memaudit.models.group_size import group_size
from memaudit.models.memory import in_groups
from memaudit.models.seeds import PerImageRandom
from memaudit.progress import Progress, silent

NUM_IMAGES = 48


@dataclass(frozen=True)
class NoisedImages:
    """Some training images with one noise each, and the model that is to denoise them."""

    denoiser: Denoiser
    images: Tensor
    """float64 [T, C, H, W], data in [-1, 1], on the CPU."""
    classes: Tensor | None
    """int64 [T], or None for a model without classes."""
    given_labels: bool
    """Whether the classes are those of the images, rather than drawn."""
    execution: Execution

    @classmethod
    def of(
        cls, denoiser: Denoiser, data: ImageSet, execution: Execution, num_images: int = NUM_IMAGES
    ) -> "NoisedImages":
        """At most num_images of the training images, spread over the whole set."""
        rows = chosen_rows(len(data), num_images)
        images = torch.from_numpy(np.ascontiguousarray(data.images[rows]))
        classes, given = None, False
        if denoiser.label_dim:
            given = data.labels is not None and data.num_classes <= denoiser.label_dim
            if given and data.labels is not None:
                classes = torch.from_numpy(np.ascontiguousarray(data.labels[rows]))
            else:
                classes = PerImageRandom(range(len(rows))).class_index(denoiser.label_dim)
        return cls(denoiser, uint8_to_float(images).to(torch.float64), classes, given, execution)

    def losses(
        self,
        sigmas: list[float],
        images: Tensor | None = None,
        *,
        progress: Progress = silent,
    ) -> np.ndarray:
        """Losses of each image at each noise level, float64 [len(sigmas), T].

        Args:
            sigmas: noise levels.
            images: other images than the set's, float64 [T, C, H, W]; each has the same noise.
            progress: told how many images are done.

        Raises:
            CheckpointError: numbers that are not finite, or another shape.
        """
        losses: np.ndarray = self.products(sigmas, images, progress=progress)[..., 3, 3]
        return losses

    def products(
        self,
        sigmas: list[float],
        images: Tensor | None = None,
        *,
        progress: Progress = silent,
    ) -> np.ndarray:
        """Means of the products of x, D, 1 and the error D - y over the pixels of each image.

        Args, Raises: see `losses`, which are the last of these means.

        Returns:
            float64 [len(sigmas), T, 4, 4], symmetric matrices in that order.
        """
        images = self.images if images is None else images
        denoiser, device = with_float64(self.denoiser, torch.device(self.execution.device))
        group = group_size(self.denoiser, self.execution)

        def products_of(rows: slice) -> np.ndarray:
            y = to_device(images[rows], device)
            noise = PerImageRandom(range(rows.start, rows.stop)).randn_like(y)
            labels = None
            if self.classes is not None:
                labels = one_hot(self.classes[rows], self.denoiser.label_dim)
                labels = to_device(labels.to(torch.float32), device)
            means = []
            for level in sigmas:
                x = y + level * noise
                with float32_inference():
                    D = denoiser(x, torch.full((), level, dtype=x.dtype, device=device), labels)
                _check_answer(D, y, level)
                D = D.to(torch.float64)
                parts = torch.stack([x, D, torch.ones_like(x), D - y], 1).flatten(2)
                means.append(parts @ parts.mT / parts.shape[2])
            found: np.ndarray = torch.stack(means).cpu().numpy()
            return found

        found = np.empty((len(sigmas), len(images), 4, 4))
        for rows, means in in_groups(len(images), group, device, products_of):
            found[:, rows] = means
            progress("Testing the denoising", rows.stop, len(images))
        return found


def chosen_rows(total: int, num_images: int = NUM_IMAGES) -> np.ndarray:
    """Positions of at most num_images of `total` images, spread over all of them, int64."""
    rows: np.ndarray = np.linspace(0, total - 1, num_images).round().astype(np.int64)
    return np.unique(rows)


def linear_loss(images: Tensor, sigma: float) -> float:
    """Loss of the Wiener filter, Σ_f P(f)σ²/(P(f) + σ²)/D, P the images' mean power spectrum.

    The spectrum is that of a cosine transform over channels, rows and columns (DCT-II), for which
    the edges of an image need not meet.
    """
    centered = (images - images.mean()).numpy()
    power = np.square(dctn(centered, axes=(1, 2, 3), norm="ortho")).mean(0)
    return float((power * sigma**2 / (power + sigma**2)).mean())


def corrected_loss(products: np.ndarray) -> float:
    """Loss after the correction D + a·(x - mean of x) + b·(D - mean of D) that lowers it most.

    Of the best denoiser it is the loss itself: the error of a conditional mean is orthogonal to
    every function of what it is given. A constant offset is left as it is.

    Args:
        products: means of products [4, 4], as of `NoisedImages.products`.
    """
    means = products[2]
    covariance = products - np.outer(means, means)
    given, error = covariance[:2, :2], covariance[:2, 3]
    explained = error @ np.linalg.lstsq(given, error)[0]
    return max(0.0, float(products[3, 3] - explained))


def check_shape(denoiser: Denoiser, images: ImageSet) -> None:
    """Refuse images that the model cannot be given.

    Raises:
        DataError: no images, or another shape than the model's.
    """
    shape = image_shape(denoiser)
    if images.image_shape != shape:
        raise DataError(
            f"{images.source} holds images of {list(images.image_shape)} but the model makes "
            f"{list(shape)}; pass images of the model's shape.",
            field="resolution",
        )
    if not len(images):
        raise DataError(f"{images.source} holds no images; at least 1 is needed.")


def _check_answer(D: Tensor, y: Tensor, sigma: float) -> None:
    if D.shape != y.shape:
        raise CheckpointError(
            f"The model denoised images of {list(y.shape)} to {list(D.shape)}; images of the same "
            "shape are needed."
        )
    broken = int((~D.isfinite()).flatten(1).any(1).sum())
    if broken:
        raise CheckpointError(
            f"The model denoised {broken} of {len(y)} training images at noise level {sigma:g} to "
            "pixels that are not finite. Look for broken weights with `memaudit inspect`, or "
            "sample with another {sigma_min} or {sigma_max}.",
            field=("sigma_min", "sigma_max"),
        )
