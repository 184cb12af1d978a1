"""One random stream per image, keyed by its seed, in EDM's order.

The order of the draws is the published one: first the initial noise (float32), then one class
index if the model has classes, then the noise of each step (float64). An image depends on its
seed alone, not on its batch or the device. (The published images were drawn on CUDA, whose
generators give other numbers than the CPU's.)
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from memaudit.models.devices import to_device

P = ParamSpec("P")
T = TypeVar("T")

CLASS_STREAM = 0x636C617373
"""Sets the stream that classes are drawn from apart from every other stream of a seed."""


def draw_classes(seeds: Sequence[int], class_weights: Sequence[float]) -> list[int]:
    """Draw a class for each seed, with chances proportional to the weights.

    The class has a stream of its own, so that the noise of an image is the same as when its class
    is asked for by number.

    Args:
        seeds: one integer ≥ 0 per image.
        class_weights: ≥ 0 for each class, not all 0.

    Returns:
        One class per seed; never one of weight 0.

    Examples:
        >>> draw_classes(range(4), [0, 1, 0])
        [1, 1, 1, 1]
    """
    bounds = np.cumsum(np.asarray(class_weights, dtype=np.float64))
    draws = [np.random.default_rng([int(seed), CLASS_STREAM]).random() for seed in seeds]
    return [int(c) for c in np.searchsorted(bounds, np.multiply(draws, bounds[-1]), "right")]


class PerImageRandom:
    """One CPU generator per image. Calls advance every image's stream by one draw.

    Args:
        seeds: one integer per image, taken modulo 2^32 as EDM does.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(int(seed) % 2**32) for seed in seeds]

    def noise(self, shape: Sequence[int]) -> Tensor:
        """Unit-variance noise to start from: float32 [B, *shape], shape being (C, H, W)."""
        return self._randn(shape, torch.float32)

    def class_index(self, label_dim: int) -> Tensor:
        """A random class per image: int64 [B] in 0 … label_dim − 1."""
        return torch.stack([torch.randint(label_dim, [], generator=g) for g in self._generators])

    def randn_like(self, x: Tensor) -> Tensor:
        """Unit-variance noise of x's shape [B, C, H, W] and dtype, moved to its device."""
        return to_device(self._randn(x.shape[1:], x.dtype), x.device)

    def drawn_by(self, ahead: "Ahead") -> Callable[[Tensor], Tensor]:
        """`randn_like` whose draws after the first are made beside what is computed with them."""
        following: Callable[[], Tensor] | None = None

        def randn_like(x: Tensor) -> Tensor:
            nonlocal following
            drawn = self._randn(x.shape[1:], x.dtype) if following is None else following()
            following = ahead.call(self._randn, x.shape[1:], x.dtype)
            return to_device(drawn, x.device)

        return randn_like

    def _randn(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        draws = torch.empty(len(self._generators), *shape, dtype=dtype)
        for generator, row in zip(self._generators, draws, strict=True):
            torch.randn(tuple(shape), generator=generator, dtype=dtype, out=row)
        return draws


class Ahead:
    """Calls that a thread makes before their results are needed, one after the other.

    Args:
        beside: whether there is a thread. Without one, a call is made when its result is asked for;
            on a CPU a thread would take what the network computes with.
    """

    def __init__(self, *, beside: bool) -> None:
        self._pool = ThreadPoolExecutor(1) if beside else None

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *raised: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def call(self, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> Callable[[], T]:
        """Have a function called.

        Returns:
            Waits for the result, and returns it or raises what the function raised.
        """
        if self._pool is None:
            return partial(function, *args, **options)
        return self._pool.submit(function, *args, **options).result
