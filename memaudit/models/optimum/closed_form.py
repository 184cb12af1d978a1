"""The closed-form optimum of denoising score matching over a training set: it can only copy.

    D*(x; σ) = Σᵢ wᵢ yᵢ,    w = softmaxᵢ(−‖x − yᵢ‖² / 2σ²)

EDM, arXiv:2206.00364, App. B.3; Gu et al., arXiv:2310.02664, §2. With a class condition the sum
runs over the images of that class. docs/optimum.md derives the bounds that are used here.

All sums are in gray levels less a mean image of whole numbers: the training images are then small
whole numbers, which float32 holds exactly. ℓᵢ = (x·yᵢ − ‖yᵢ‖²/2) / σ² is the log-weight of image i
up to a constant.

Legend: B batch, R rows of it, n training images of one class or all, K candidates, D = C·H·W.
"""

import hashlib
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from memaudit.errors import ConfigError, DataError
from memaudit.models.arithmetic import fp32_products
from memaudit.models.denoiser import image_shape
from memaudit.models.devices import exact_device
from memaudit.models.optimum.posterior import (
    Posterior,
    Rays,
    dot,
    interleave,
    largest_value,
    leading,
    selected,
    squared_norm,
    take_rows,
    unique,
)
from memaudit.models.optimum.training_images import (
    ROW_MULTIPLE,
    TrainingImages,
    weight_digits,
)
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
EXACTNESS = 1e-6
"""The most that rounding to digits may change the logarithm of a weight, or, as a share of the
images' range, their mean."""
LOGIT_BYTES = 256 << 20
"""Bytes of log-weights that are held at a time."""
WIDE = 256
"""Images in reach of every row, from which on none is left out soon."""
SINGLE_ROUNDOFF, DOUBLE_ROUNDOFF = 2.0**-24, 2.0**-53


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
            device: where to compute; on others than CUDA GPUs it is the CPU.
            resident_bytes: up to this size the images are kept in memory, one byte a value where
                products are made in integers, else four; a larger set is converted block by block
                in every evaluation. On a GPU, half of its free memory is the limit.

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
        self.device = exact_device(device)

        # Each class is a range of rows.
        self.label_dim, order = 0, np.arange(len(images))
        self.labels_sha256: str | None = None
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
            self.labels_sha256 = hashlib.sha256(labels.tobytes()).hexdigest()
            order = np.argsort(labels, kind="stable")
            self._class_bounds = np.searchsorted(labels[order], np.arange(self.label_dim + 1))
        self._training = TrainingImages(images, order, self.device, resident_bytes)
        self._rays: dict[tuple[int, int, int], Rays | None] = {}
        self._classes_of_rows: list[int] = []
        self._rows_of_classes: dict[int, Tensor] = {}
        # A GPU sums all images in the time in which it would be asked which ones matter.
        self._remembers = self.device.type == "cpu" or not self._training.in_integers

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
        training = self._training
        to_gray_levels = 127.5 - training.center
        noisy = x.flatten(1).to(self.device, torch.float64)
        noisy = torch.add(to_gray_levels, noisy, alpha=127.5)
        sigma = self._on_device(sigma)
        variance = ((127.5 * sigma.clamp(SMALLEST_SIGMA)) ** 2).flatten().expand(len(x))  # [B]
        xx = squared_norm(noisy)
        facts = [xx.amax(), sigma.amin()]
        if not self._remembers:
            facts.append((largest_value(noisy) / variance).amax())
        # What decides the work is read at once: a GPU is waited for once in an evaluation.
        (largest, smallest_sigma, *quotient), classes = self._read(facts, class_labels, len(x))
        if not math.isfinite(largest):
            raise ValueError("x is not finite")
        if not smallest_sigma >= 0:
            raise ValueError("sigma must be 0 or more")

        denoised = torch.empty(noisy.shape, device=self.device)
        num_effective = torch.empty_like(variance)
        latest: dict[tuple[int, int, int], Rays | None] = {}
        num_rows = len(x)
        if self._remembers:
            num_rows = max(1, LOGIT_BYTES // (training.bytes_per_logit * len(training)))
        with fp32_products(False):
            for start in range(0, len(x), num_rows):
                batch = slice(start, start + num_rows)
                for part, rows in self._parts(None if classes is None else classes[batch]):
                    key = (start, part.start, part.stop)
                    of_part = (
                        noisy[batch][rows],
                        xx[batch][rows],
                        variance[batch][rows],
                        part,
                    )
                    if self._remembers:
                        found, latest[key] = self._evaluate(*of_part, self._rays.get(key))
                    else:
                        found = self._sum_everything(*of_part, *quotient)
                    log_sum = 2 * found.log_mass - found.log_square_mass
                    num_effective[batch][rows] = log_sum.exp().clamp(min=1)
                    gray_levels = found.mean.float().sub_(to_gray_levels)
                    denoised[batch][rows] = gray_levels.div_(127.5)
        self._rays = latest
        return Evaluation(denoised.view(x.shape).to(x.device), num_effective.to(x.device))

    def _on_device(self, sigma: Tensor | float) -> Tensor:
        """sigma as float64, without waiting for a GPU where it is a number."""
        if isinstance(sigma, Tensor) and (sigma.ndim or sigma.device.type != "cpu"):
            return sigma.to(self.device, torch.float64)
        return torch.full((), float(sigma), dtype=torch.float64, device=self.device)

    def _read(
        self, facts: list[Tensor], class_labels: Tensor | None, batch_size: int
    ) -> tuple[list[float], list[int] | None]:
        """The facts as numbers; and the class of each row, or None where no row has one."""
        num_facts = len(facts)
        if class_labels is None or not self.label_dim:
            return torch.stack(facts).tolist(), None
        shape = (batch_size, self.label_dim)
        if class_labels.shape == shape:
            is_one = class_labels.to(self.device) == 1
            one_hot = (is_one.sum(1) == 1).all() & (is_one == (class_labels != 0)).all()
            values = torch.cat([torch.stack([*facts, one_hot]), is_one.long().argmax(1)]).tolist()
            if values[num_facts]:
                return values[:num_facts], [int(c) for c in values[num_facts + 1 :]]
        raise ValueError(
            f"class_labels are {list(class_labels.shape)}; one-hot {list(shape)} is needed"
        )

    def _parts(self, classes: list[int] | None) -> list[tuple[slice, Tensor | slice]]:
        """Ranges of training images, each with the rows of a batch that it is summed for."""
        if classes is None:
            return [(slice(0, len(self._training)), slice(None))]
        if self._classes_of_rows != classes:
            self._rows_of_classes = {}
            for c in sorted(set(classes)):
                rows = torch.tensor([row for row, of_row in enumerate(classes) if of_row == c])
                if self.device.type == "cuda":
                    rows = rows.pin_memory().to(self.device, non_blocking=True)
                self._rows_of_classes[c] = rows
            self._classes_of_rows = classes
        return [(self._class_range(c), rows) for c, rows in self._rows_of_classes.items()]

    def _class_range(self, c: int) -> slice:
        start, stop = self._class_bounds[c : c + 2].tolist()
        if start == stop:
            raise ConfigError(
                f"Class {c} has no training images, and so it has no optimum; ask for one of the "
                "classes that the training images have."
            )
        return slice(start, stop)

    def _evaluate(
        self, x: Tensor, xx: Tensor, variance: Tensor, part: slice, rays: Rays | None
    ) -> tuple[Posterior, Rays | None]:
        """The posterior of rows x, float64 [R, D], whose ‖x‖² are xx, and what to remember."""
        if rays is None or len(rays.x) != len(x):
            return self._search(x, xx, variance, part)
        recalled = self._recall(rays, x, xx, variance, part)
        if recalled is None:
            return self._search(x, xx, variance, part)
        known, near = recalled
        if known.all():
            return near, rays
        unknown = x[~known], xx[~known], variance[~known], part
        found, latest = self._search(*unknown, may_forget=False)
        assert latest is not None
        return interleave(known, near, found), interleave(known, take_rows(rays, known), latest)

    def _recall(
        self, rays: Rays, x: Tensor, xx: Tensor, variance: Tensor, part: slice
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

        xc, x_start = dot(x, rays.center), dot(x, rays.x)
        from_center = xx - 2 * xc + rays.cc  # ‖x − c‖²
        along = x_start - xc - rays.xc + rays.cc  # (x − c)·(x₀ − c)
        length = rays.xx - 2 * rays.xc + rays.cc
        s = (along / length).clamp(0, 1)
        squared_error = from_center - s * (2 * along - s * length)
        # Rounding errors count as distance from the ray, which is therefore never 0.
        rounding = 8 * DOUBLE_ROUNDOFF * x.shape[1] * (xx + rays.xx + rays.cc)
        squared_error = squared_error.clamp(min=0) + rounding
        radius = rays.cc.sqrt() + self._training.largest_norm
        detour = torch.minimum(squared_error / (1 - s), 2 * squared_error.sqrt() * radius)
        bound = (s * gain)[:, None] * rays.log_weight
        bound += (detour / (2 * variance) + log_images)[:, None]  # [R, K + 1]

        num_needed = (~(bound <= NEGLIGIBLE)).sum(1).clamp(min=1)
        known = num_needed < bound.shape[1]
        if not known.any() or (self._training.in_integers and 2 * known.sum() < len(known)):
            return None
        rows = selected(known)
        num_needed, bound = num_needed[rows], bound[rows]
        if (num_needed == 1).all():
            near = self._nearest(x[rows], variance[rows], rays.candidates[rows, 0])
        else:
            columns = leading(rays.candidates[rows], num_needed)
            if not self._pays_off(len(columns), part):
                return None
            near = self._exact(x[rows], variance[rows], columns)
        # The bounds are against the center's weight. What counts is the candidates'.
        of_center = (xc[rows] - rays.cc[rows] / 2) / variance[rows]
        outside = bound.gather(1, num_needed[:, None])[:, 0] + of_center - near.log_mass
        proven = outside <= NEGLIGIBLE
        return known.masked_scatter(known, proven), take_rows(near, proven)

    def _search(
        self,
        x: Tensor,
        xx: Tensor,
        variance: Tensor,
        part: slice,
        *,
        may_forget: bool = True,
    ) -> tuple[Posterior, Rays | None]:
        """The posterior of rows x over `part` from all weights, and what to remember: nothing where
        so many images are in reach that the next evaluation needs all of them again.
        """
        num_images = part.stop - part.start
        logits, error, rounding = self._logits(x, variance, part)  # [R, n]
        lowest = logits.amax(1).double() - 2 * error + NEGLIGIBLE - math.log(num_images)
        if rounding is None and may_forget and num_images > WIDE:
            if (logits > lowest[:, None]).sum(1).amin() > WIDE:
                return self._sum_in_integers(part, logits), None

        top = logits.topk(min(CANDIDATES + 1, num_images))
        log_weight, candidates = top.values.double(), top.indices[:, :CANDIDATES] + part.start
        if num_images <= CANDIDATES:  # there are no others
            log_weight = pad(log_weight, (0, 1), value=-math.inf)
        num_needed = (log_weight > lowest[:, None]).sum(1)
        narrow = num_needed < log_weight.shape[1]

        # Rows with few images in reach, or for which float32 is too coarse: these images, exactly.
        columns = leading(candidates[narrow], num_needed[narrow])
        if not self._pays_off(len(columns), part) or (rounding is None and not narrow.all()):
            narrow, columns = torch.zeros_like(narrow), columns[:0]
        exact = narrow
        if rounding is not None:
            coarse = ~narrow & (rounding(log_weight, candidates) > ROUNDING_TOLERABLE)
            in_reach = (logits[coarse] > lowest[coarse, None]).any(0).nonzero()[:, 0] + part.start
            exact, columns = narrow | coarse, unique(torch.cat([columns, in_reach]))
        near = rest = None
        if exact.any():
            rows = selected(exact)
            near = self._exact(x[rows], variance[rows], columns)
        # The others: all images. Rounding errors average out over those that share the posterior.
        if not exact.all():
            rows = selected(~exact)
            if rounding is None:
                rest = self._sum_in_integers(part, logits[rows])
            else:
                suffered = rounding(log_weight, candidates) * log_weight.softmax(1)[:, 0].sqrt()
                leaders = candidates[~exact & (suffered > ROUNDING_HARMLESS), :LEADERS].unique()
                rest = self._sum(x[rows], variance[rows], part, logits[rows], leaders)

        posterior = interleave(exact, near, rest)
        center = posterior.mean
        xc, cc = dot(x, center), squared_norm(center)
        log_weight += (error - (xc - cc / 2) / variance)[:, None]
        return posterior, Rays(x, center, variance, candidates, log_weight, xx, xc, cc)

    def _logits(
        self, x: Tensor, variance: Tensor, part: slice
    ) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor] | None]:
        """ℓ of every image of `part`, [R, n]; a bound of their errors, float64 [R]; and in float32,
        a function that says by how much the leading ones are off in practice.
        """
        training = self._training
        if training.in_integers:
            largest = largest_value(x)
            precision = training.precision(float((largest / variance).amax()), EXACTNESS)
            digits = training.to_digits(x, largest, precision.num_digits)
            logits = x.new_empty(len(x), part.stop - part.start)
            for block, y in training.blocks(part):
                columns = slice(block.start - part.start, block.stop - part.start)
                logits[:, columns] = training.exact_logits(digits, y, block, variance)
            return logits, torch.full_like(variance, precision.error), None

        # Errors of float32 products: at worst, in whatever order they add up, and as found, where
        # those grow with the sum that is left.
        scale = SINGLE_ROUNDOFF * torch.linalg.vector_norm(x, dim=1)
        scale *= training.largest_norm / variance

        def rounding(log_weight: Tensor, candidates: Tensor) -> Tensor:
            half_squared_norm = training.half_squared_norm[candidates[:, 0]]
            product = log_weight[:, 0] + half_squared_norm / variance
            error: Tensor = 8 * SINGLE_ROUNDOFF * product.abs() + scale / 2
            return error

        return self._float_logits(x, variance, part), (x.shape[1] + 8) * scale, rounding

    def _float_logits(self, x: Tensor, variance: Tensor, part: slice) -> Tensor:
        """ℓ of every image of `part`, float32 [R, n]."""
        missing = -len(x) % ROW_MULTIPLE if len(x) > 4 else 0
        scaled = pad((x / variance[:, None]).float(), (0, 0, 0, missing))
        minus_precision = pad(-1 / variance, (0, missing)).float()
        logits = torch.empty(len(scaled), part.stop - part.start, device=self.device)
        for block, y in self._training.float_blocks(part):
            inside = logits[:, block.start - part.start : block.stop - part.start]
            torch.mm(scaled, y.T, out=inside)
            inside.addr_(minus_precision, self._training.half_squared_norm[block].float())
        return logits[: len(x)]

    def _sum(
        self, x: Tensor, variance: Tensor, part: slice, logits: Tensor, columns: Tensor
    ) -> Posterior:
        """The posterior over `part`: by float32 logits, which are spent, `columns` in float64."""
        logits[:, columns - part.start] = -math.inf
        largest = logits.amax(1).clamp(min=torch.finfo(torch.float32).min)
        mass, square_mass = torch.zeros_like(variance), torch.zeros_like(variance)
        total = torch.zeros_like(x)
        for block, y in self._training.float_blocks(part):
            inside = logits[:, block.start - part.start : block.stop - part.start]
            weights = inside.sub_(largest[:, None]).exp_()
            mass += weights.sum(1)
            total += weights @ y
            square_mass += weights.square_().sum(1)
        rest = Posterior(
            mass.log() + largest,
            square_mass.log() + 2 * largest.double(),
            total.div_(mass.clamp(min=1)[:, None]),
        )
        return rest if not len(columns) else self._exact(x, variance, columns).merge(rest)

    def _sum_in_integers(self, part: slice, logits: Tensor) -> Posterior:
        """The posterior over `part` by its logits, float64 [R, n], which are spent."""
        largest, weights, mass, square_mass = _weights(logits)
        num_digits = weight_digits(part.stop - part.start, float(mass.amin()), EXACTNESS)
        blocks = (
            (y, weights[:, block.start - part.start : block.stop - part.start])
            for block, y in self._training.blocks(part)
        )
        mean = self._training.mean(blocks, mass, num_digits)
        return Posterior(mass.log() + largest, square_mass.log() + 2 * largest, mean)

    def _sum_everything(
        self, x: Tensor, xx: Tensor, variance: Tensor, part: slice, largest_quotient: float
    ) -> Posterior:
        """The posterior of rows x over `part`, reading each image once, and nothing back."""
        training = self._training
        precision = training.precision(largest_quotient, EXACTNESS)
        digits = training.to_digits(x, largest_value(x), precision.num_digits)
        num_digits = weight_digits(part.stop - part.start, 1, EXACTNESS)
        posterior = None
        for block, y in training.blocks(part, num_rows=len(x)):
            logits = training.exact_logits(digits, y, block, variance)
            largest, weights, mass, square_mass = _weights(logits)
            mean = training.mean([(y, weights)], mass, num_digits)
            found = Posterior(mass.log() + largest, square_mass.log() + 2 * largest, mean)
            posterior = found if posterior is None else posterior.merge(found)
        assert posterior is not None
        return posterior

    def _pays_off(self, num_columns: int, part: slice) -> bool:
        """Whether that many images in float64 take less time than all of `part`."""
        num_images: int = part.stop - part.start
        return (8 if self._training.in_integers else 4) * num_columns < num_images + 2000

    def _nearest(self, x: Tensor, variance: Tensor, column: Tensor) -> Posterior:
        """The posterior over one image of each row, int64 [R], in float64."""
        y = self._training.take(column)
        log_weight = (dot(x, y) - self._training.half_squared_norm[column]) / variance
        return Posterior(log_weight, 2 * log_weight, y)

    def _exact(self, x: Tensor, variance: Tensor, columns: Tensor) -> Posterior:
        """The posterior over the images `columns`, int64 [M], M ≥ 1, in float64."""
        posterior = None
        for index in torch.split(columns, self._training.rows_per_block):
            y = self._training.take(index)
            logits = (x @ y.T - self._training.half_squared_norm[index]) / variance[:, None]
            block = Posterior(logits.logsumexp(1), (2 * logits).logsumexp(1), logits.softmax(1) @ y)
            posterior = block if posterior is None else posterior.merge(block)
        assert posterior is not None
        return posterior


def _weights(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The largest of the logits, float64 [R, n], which are spent; weights relative to the largest,
    float32 [R, n]; their sum and that of their squares, float64 [R].
    """
    largest = logits.amax(1)
    weights = logits.sub_(largest[:, None]).float().exp_()
    mass = weights.sum(1, dtype=torch.float64)
    return largest, weights, mass, weights.square().sum(1, dtype=torch.float64)
