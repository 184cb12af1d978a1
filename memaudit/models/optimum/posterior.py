"""Posteriors over training images, row by row, and what is remembered of the search for them.

Legend: R rows of a batch, K candidates, D = C·H·W; ℓᵢ is the log-weight of training image i up to a
constant (see `closed_form.py`).
"""

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor


class Posterior(NamedTuple):
    """The posterior over some of the training images, for each row of a batch."""

    log_mass: Tensor
    """float64 [R]: log Σ exp(ℓᵢ)."""
    log_square_mass: Tensor
    """float64 [R]: log Σ exp(2ℓᵢ)."""
    mean: Tensor
    """float64 [R, D]: Σ exp(ℓᵢ) yᵢ / Σ exp(ℓᵢ)."""

    def merge(self, other: "Posterior") -> "Posterior":
        """The posterior over both sets of images."""
        log_mass = torch.logaddexp(self.log_mass, other.log_mass)
        log_square_mass = torch.logaddexp(self.log_square_mass, other.log_square_mass)
        share = (self.log_mass - log_mass).exp()[:, None]
        return Posterior(log_mass, log_square_mass, other.mean.lerp(self.mean, share))


class Rays(NamedTuple):
    """Where each row was searched for last, and which images were in reach.

    A sampler moves x along the ray from the center c = D(x₀; σ₀) through x₀, and along it the
    posterior only narrows as σ falls: one search serves the steps that follow.
    """

    x: Tensor
    """float64 [R, D]: x₀."""
    center: Tensor
    """float64 [R, D]: c."""
    variance: Tensor
    """float64 [R]: σ₀²."""
    candidates: Tensor
    """int64 [R, K]: the images with the largest weights, in descending order."""
    log_weight: Tensor
    """float64 [R, K + 1]: upper bounds of ℓᵢ less the center's ℓ, the last for all other images."""
    xx: Tensor
    """float64 [R]: ‖x₀‖²."""
    xc: Tensor
    """float64 [R]: x₀·c."""
    cc: Tensor
    """float64 [R]: ‖c‖²."""


RowsT = TypeVar("RowsT", Posterior, Rays)


def leading(candidates: Tensor, num_needed: Tensor) -> Tensor:
    """The first num_needed, int64 [R], of each row's candidates, [R, K], without repeats."""
    place = torch.arange(candidates.shape[1], device=candidates.device)
    return unique(candidates[place < num_needed[:, None]])


def take_rows(rows: RowsT, mask: Tensor) -> RowsT:
    """The rows where `mask` holds."""
    if mask.all():
        return rows
    return type(rows)(*(tensor[mask] for tensor in rows))


def interleave(mask: Tensor, yes: RowsT | None, no: RowsT | None) -> RowsT:
    """Rows of `yes` where `mask` holds, of `no` elsewhere; None stands for one without rows."""
    if yes is None or no is None:
        rows = no if yes is None else yes
        assert rows is not None
        return rows
    whole = []
    for a, b in zip(yes, no, strict=True):
        tensor = a.new_empty(len(mask), *a.shape[1:])
        tensor[mask], tensor[~mask] = a, b
        whole.append(tensor)
    return type(yes)(*whole)


def selected(mask: Tensor) -> Tensor | slice:
    """An index of the rows where `mask`, bool [R], holds: one that copies nothing if all do."""
    return slice(None) if mask.all() else mask


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products along the last axis."""
    products: Tensor = torch.linalg.vecdot(a, b)
    return products


def squared_norm(x: Tensor) -> Tensor:
    """‖x‖² of each row."""
    squared: Tensor = torch.linalg.vector_norm(x, dim=1).square_()
    return squared


def largest_value(x: Tensor) -> Tensor:
    """max|x| of each row."""
    return torch.maximum(x.amax(1), -x.amin(1))  # four times as fast as the norm


def unique(values: Tensor) -> Tensor:
    """The values in ascending order, without repeats."""
    found: Tensor = torch.unique(values)
    return found
