"""The closed-form optimum of denoising score matching over a training set: it can only copy.

    D*(x; σ) = Σᵢ wᵢ yᵢ,    w = softmaxᵢ(−‖x − yᵢ‖² / 2σ²)

EDM, arXiv:2206.00364, App. B.3; Gu et al., arXiv:2310.02664, §2. With a class condition the sum
runs over the images of that class. docs/optimum.md derives the bounds that are used here.

All sums are in gray levels less a mean image of whole numbers: the training images are then small
whole numbers, which float32 holds exactly. ℓᵢ = (x·yᵢ − ‖yᵢ‖²/2) / σ² is the log-weight of image i
up to a constant.

Legend: B batch, R rows of it, n training images of one class or all, K candidates, D = C·H·W.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from memaudit.errors import ConfigError, DataError
from memaudit.models.arithmetic import fp32_products
from memaudit.models.denoiser import image_shape
from memaudit.models.optimum.posterior import (
    Posterior,
    Rays,
    dot,
    interleave,
    leading,
    log_weight_of,
    selected,
    take_rows,
    unique,
)
from memaudit.models.optimum.training_images import TrainingImages
from memaudit.models.resolution import as_resolution

NEGLIGIBLE = math.log(1e-7)
"""Log of the largest share of the posterior that is dropped, where a bound proves it."""
CANDIDATES = 64
"""Number of leading images that a row remembers."""
LEADERS = 4
"""Leading images of a full sum whose weights are computed in float64, where float32 is too coarse:
what is left then has weights below 1/LEADERS, and errors that average out."""
ROUNDING_HARMLESS, ROUNDING_TOLERABLE = 1e-5, 1e-4
"""Errors of float32 log-weights: what the denoised image may suffer from them before the leading
weights are computed in float64, and what they may be before all that matter are."""
SMALLEST_SIGMA = 1e-4
"""Smallest sigma that makes a difference, for data in [-1, 1]: below it only ties share the
posterior, and the rounding of x itself decides them."""
LOGIT_BYTES = 256 << 20
"""Bytes of float32 logits that are held at a time."""
ROW_MULTIPLE = 16
"""More than a few rows that this does not divide make a matrix product up to twice as slow."""
UNIT_ROUNDOFF = 2.0**-24


class Evaluation(NamedTuple):
    """D* and how many training images share it."""

    denoised: Tensor
    """float32 [B, C, H, W]."""
    num_effective: Tensor
    """float64 [B]: 1/Σwᵢ², from 1 (one training image alone) to N (all alike)."""


class ClosedFormOptimum:
    """D* of a training set, as a denoiser.

    The relative error of the denoised image is at most 1e-5 at every sigma. The cost falls with
    sigma: where few images carry the posterior only they are summed, and along a trajectory they
    are not searched for again. To that end each row of a batch remembers its last search. The
    memory saves work and changes nothing else, but one object cannot serve two threads at a time.
    """

    sigma_min = 0.0
    sigma_max = math.inf

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        label_dim: int | None = None,
        device: str | torch.device = "cpu",
        resident_bytes: int = 4 << 30,
    ) -> None:
        """Prepare the training images.

        Args:
            images: uint8 [N, C, H, W], N ≥ 1; may be memory-mapped.
            labels: int64 [N], for a class-conditional optimum; None for an unconditional one.
            label_dim: number of classes; by default the largest label + 1.
            device: where to compute.
            resident_bytes: up to this size the images are kept on the device as float32; a larger
                set is converted block by block in every evaluation.

        Raises:
            DataError: images are not uint8 [N, C, H, W], or there are none.
            ValueError: labels that do not match the images or label_dim.
        """
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DataError(
                f"Training images are {images.dtype} {list(images.shape)}; uint8 [N, C, H, W] is "
                "needed."
            )
        if not len(images):
            raise DataError("There are no training images, so there is no optimum.")
        self.img_channels, self.img_resolution = images.shape[1], as_resolution(images.shape[2:])
        self.device = torch.device(device)

        # Each class is a range of rows.
        self.label_dim, order = 0, np.arange(len(images))
        if labels is not None:
            self.label_dim = label_dim or int(labels.max()) + 1
            if (
                labels.shape != (len(images),)
                or not 0 <= labels.min() <= labels.max() < self.label_dim
            ):
                raise ValueError(
                    f"labels are {list(labels.shape)} from {labels.min()} to {labels.max()}; "
                    f"[{len(images)}] from 0 to {self.label_dim - 1} is needed"
                )
            order = np.argsort(labels, kind="stable")
            self._class_bounds = np.searchsorted(labels[order], np.arange(self.label_dim + 1))
        self._training = TrainingImages(images, order, self.device, resident_bytes)
        self._rays: dict[tuple[int, int, int], Rays] = {}

    @property
    def null_label(self) -> str | None:
        """The optimum of all classes together, which guidance needs, is that without labels."""
        return "none" if self.label_dim else None

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """Every noise level is supported."""
        return sigma

    def __call__(
        self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None
    ) -> Tensor:
        """D*(x; sigma): see `evaluate`, which also tells how many training images share it."""
        return self.evaluate(x, sigma, class_labels).denoised

    @torch.no_grad()
    def evaluate(
        self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None
    ) -> Evaluation:
        """D*(x; sigma) and the effective number of training images in it.

        Args:
            x: noisy images, float [B, C, H, W], data scale [-1, 1]. float64 gains precision.
            sigma: noise level ≥ 0, a number or [B]. Toward 0, D* becomes the nearest training
                image, or the mean of the nearest ones if they tie.
            class_labels: one-hot float [B, label_dim]. None: all training images count.

        Raises:
            ValueError: x of another shape or not finite, sigma below 0, labels not one-hot.
            ConfigError: a class without training images.
        """
        shape = image_shape(self)
        if tuple(x.shape[1:]) != shape:
            raise ValueError(f"x is {list(x.shape)}; [B, {', '.join(map(str, shape))}] is needed")
        to_gray_levels = 127.5 - self._training.center
        noisy = x.flatten(1).to(self.device, torch.float64).mul(127.5).add_(to_gray_levels)
        if not torch.linalg.vector_norm(noisy, dim=1).isfinite().all():
            raise ValueError("x is not finite")
        sigma = torch.as_tensor(sigma, dtype=torch.float64, device=self.device)
        if not (sigma >= 0).all():
            raise ValueError("sigma must be 0 or more")
        variance = ((127.5 * sigma.clamp(SMALLEST_SIGMA)) ** 2).flatten().expand(len(x))  # [B]
        classes = self._class_index(class_labels, len(x))

        denoised = torch.empty(noisy.shape, device=self.device)
        num_effective = torch.empty_like(variance)
        latest = {}
        num_rows = max(1, LOGIT_BYTES // (4 * len(self._training)))
        with fp32_products(False):
            for start in range(0, len(x), num_rows):
                batch = slice(start, start + num_rows)
                for part, rows in self._parts(None if classes is None else classes[batch]):
                    key = (start, part.start, part.stop)
                    found, latest[key] = self._evaluate(
                        noisy[batch][rows], variance[batch][rows], part, self._rays.get(key)
                    )
                    log_sum = 2 * found.log_mass - found.log_square_mass
                    num_effective[batch][rows] = log_sum.exp().clamp(min=1)
                    denoised[batch][rows] = (found.mean - to_gray_levels).div_(127.5).float()
        self._rays = latest
        return Evaluation(denoised.view(x.shape).to(x.device), num_effective.to(x.device))

    def _class_index(self, class_labels: Tensor | None, batch_size: int) -> Tensor | None:
        """int64 [B], or None where no row has a class."""
        if class_labels is None or not self.label_dim:
            return None
        is_one = class_labels == 1
        one_hot = class_labels.shape == (batch_size, self.label_dim) and bool(
            (is_one.sum(1) == 1).all() and (is_one | (class_labels == 0)).all()
        )
        if not one_hot:
            raise ValueError(
                f"class_labels are {list(class_labels.shape)}; one-hot [{batch_size}, "
                f"{self.label_dim}] is needed"
            )
        return class_labels.argmax(1).to(self.device)

    def _parts(self, class_index: Tensor | None) -> Iterator[tuple[slice, Tensor | slice]]:
        """Ranges of training images, each with the rows of a batch that it is summed for."""
        if class_index is None:
            yield slice(0, len(self._training)), slice(None)
        else:
            for c in unique(class_index).tolist():
                yield self._class_range(c), class_index == c

    def _class_range(self, c: int) -> slice:
        start, stop = self._class_bounds[c : c + 2].tolist()
        if start == stop:
            raise ConfigError(
                f"Class {c} has no training images, and so it has no optimum; ask for one of the "
                "classes that the training images have."
            )
        return slice(start, stop)

    def _evaluate(
        self, x: Tensor, variance: Tensor, part: slice, rays: Rays | None
    ) -> tuple[Posterior, Rays]:
        """The posterior of rows x, float64 [R, D], over `part`, and what to remember."""
        if rays is None or len(rays.x) != len(x):
            return self._search(x, variance, part)
        recalled = self._recall(rays, x, variance, part)
        if recalled is None:
            return self._search(x, variance, part)
        known, near = recalled
        if known.all():
            return near, rays
        found, latest = self._search(x[~known], variance[~known], part)
        return interleave(known, near, found), interleave(known, take_rows(rays, known), latest)

    def _recall(
        self, rays: Rays, x: Tensor, variance: Tensor, part: slice
    ) -> tuple[Tensor, Posterior] | None:
        """Which rows, bool [R], provably need no more than their candidates, and their posterior.

        Let x = c + s·(x₀ − c) + e with 0 ≤ s ≤ 1. An image whose weight was at most exp(b) times
        the center's at x₀ has at most exp(s·b·σ₀²/σ² + min(‖e‖²/(1 − s), 2‖e‖r)/2σ²) times it at x,
        where r ≥ ‖c − yᵢ‖ (docs/optimum.md).
        """
        log_images = math.log(part.stop - part.start)
        gain = rays.variance / variance
        known = gain * rays.log_weight[:, -1] + log_images <= NEGLIGIBLE
        if not known.any():  # too many images are in reach, whatever x is
            return None

        offset = x - rays.center
        direction = rays.x - rays.center
        along, length = dot(offset, direction), dot(direction, direction)
        s = (along / length).clamp(0, 1)
        squared_norm = dot(offset, offset)
        # Rounding errors count as distance from the ray, which is therefore never 0.
        squared_error = squared_norm - s * (2 * along - s * length)
        squared_error = squared_error.clamp(min=0) + 1e-13 * squared_norm
        radius = torch.linalg.vector_norm(rays.center, dim=1) + self._training.largest_norm
        detour = torch.minimum(squared_error / (1 - s), 2 * squared_error.sqrt() * radius)
        bound = (s * gain)[:, None] * rays.log_weight
        bound += (detour / (2 * variance) + log_images)[:, None]  # [R, K + 1]

        num_needed = (~(bound <= NEGLIGIBLE)).sum(1).clamp(min=1)
        known = num_needed < bound.shape[1]
        if not known.any():
            return None
        rows = selected(known)
        num_needed, bound = num_needed[rows], bound[rows]
        near = self._exact(x[rows], variance[rows], leading(rays.candidates[rows], num_needed))
        # The bounds are against the center's weight. What counts is the candidates'.
        of_center = log_weight_of(rays.center[rows], x[rows], variance[rows])
        outside = bound.gather(1, num_needed[:, None])[:, 0] + of_center - near.log_mass
        proven = outside <= NEGLIGIBLE
        return known.masked_scatter(known, proven), take_rows(near, proven)

    def _search(self, x: Tensor, variance: Tensor, part: slice) -> tuple[Posterior, Rays]:
        """The posterior of rows x over `part` from all weights, and what to remember."""
        num_images = part.stop - part.start
        logits = self._logits(x, variance, part)  # float32 [n, R]
        top = logits.T.topk(min(CANDIDATES + 1, num_images))
        log_weight, candidates = top.values.double(), top.indices[:, :CANDIDATES] + part.start
        if num_images <= CANDIDATES:  # there are no others
            log_weight = pad(log_weight, (0, 1), value=-math.inf)

        # Errors of float32 products: at worst, in whatever order they add up, and as found, where
        # those grow with the sum that is left.
        scale = UNIT_ROUNDOFF * torch.linalg.vector_norm(x, dim=1) * self._training.largest_norm
        error = (x.shape[1] + 8) * scale / variance
        product = log_weight[:, 0] + self._training.half_squared_norm[candidates[:, 0]] / variance
        rounding = 8 * UNIT_ROUNDOFF * product.abs() + scale / (2 * variance)
        lowest = log_weight[:, 0] - 2 * error + NEGLIGIBLE - math.log(num_images)
        num_needed = (log_weight > lowest[:, None]).sum(1)
        narrow = num_needed < log_weight.shape[1]

        # Rows with few images in reach, or for which float32 is too coarse: these images, exactly.
        columns = leading(candidates[narrow], num_needed[narrow])
        if 4 * len(columns) > num_images:  # no saving
            narrow, columns = torch.zeros_like(narrow), columns[:0]
        coarse = ~narrow & (rounding > ROUNDING_TOLERABLE)
        in_reach = (logits[:, coarse] > lowest[coarse]).any(1).nonzero()[:, 0] + part.start
        exact = narrow | coarse
        near = rest = None
        if exact.any():
            rows = selected(exact)
            near = self._exact(x[rows], variance[rows], unique(torch.cat([columns, in_reach])))
        # The others: all images. Rounding errors average out over those that share the posterior.
        if not exact.all():
            suffered = rounding * log_weight.softmax(1)[:, 0].sqrt()
            leaders = candidates[~exact & (suffered > ROUNDING_HARMLESS), :LEADERS].unique()
            rows = selected(~exact)
            rest = self._sum(x[rows], variance[rows], part, logits[:, rows], leaders)

        posterior = interleave(exact, near, rest)
        log_weight += (error - log_weight_of(posterior.mean, x, variance))[:, None]
        return posterior, Rays(x, posterior.mean, variance, candidates, log_weight)

    def _logits(self, x: Tensor, variance: Tensor, part: slice) -> Tensor:
        """ℓ of every image of `part`, float32 [n, R]."""
        missing = -len(x) % ROW_MULTIPLE if len(x) > 4 else 0
        scaled = pad((x / variance[:, None]).float(), (0, 0, 0, missing)).T
        minus_precision = pad(-1 / variance, (0, missing)).float()
        logits = torch.empty(part.stop - part.start, scaled.shape[1], device=self.device)
        for block, y in self._training.blocks(part):
            inside = logits[block.start - part.start : block.stop - part.start]
            torch.mm(y, scaled, out=inside)
            inside.addr_(self._training.half_squared_norm[block].float(), minus_precision)
        return logits[:, : len(x)]

    def _sum(
        self, x: Tensor, variance: Tensor, part: slice, logits: Tensor, columns: Tensor
    ) -> Posterior:
        """The posterior over `part`: by float32 logits, which are spent, `columns` in float64."""
        logits[columns - part.start] = -math.inf
        largest = logits.amax(0).clamp(min=torch.finfo(torch.float32).min)
        mass, square_mass = torch.zeros_like(variance), torch.zeros_like(variance)
        total = torch.zeros_like(x)
        for block, y in self._training.blocks(part):
            inside = logits[block.start - part.start : block.stop - part.start]
            weights = inside.sub_(largest).exp_()
            mass += weights.sum(0)
            total += weights.T @ y
            square_mass += weights.square_().sum(0)
        rest = Posterior(
            mass.log() + largest,
            square_mass.log() + 2 * largest.double(),
            total.div_(mass.clamp(min=1)[:, None]),
        )
        return rest if not len(columns) else self._exact(x, variance, columns).merge(rest)

    def _exact(self, x: Tensor, variance: Tensor, columns: Tensor) -> Posterior:
        """The posterior over the images `columns`, int64 [M], M ≥ 1, in float64."""
        posterior = None
        for index in torch.split(columns, self._training.rows_per_block):
            y = self._training.take(index).double()
            logits = (x @ y.T - self._training.half_squared_norm[index]) / variance[:, None]
            block = Posterior(logits.logsumexp(1), (2 * logits).logsumexp(1), logits.softmax(1) @ y)
            posterior = block if posterior is None else posterior.merge(block)
        assert posterior is not None
        return posterior
