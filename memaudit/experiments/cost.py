"""What trainings and their scans cost, predicted before they start.

Operations are counted on the network itself (a multiply-add is 2), and turned into seconds by
their speed on the device at hand (experiments/timing.py).
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from memaudit.data.images import ImageSet
from memaudit.models.build import build_network
from memaudit.models.denoiser import image_shape
from memaudit.training.config import TrainingConfig
from memaudit.training.network import configure_network
from memaudit.training.schedule import Schedule

BACKWARD = 2
"""A backward pass takes twice the forward's products: once for inputs, once for weights."""
EVALUATIONS = 35
"""Network evaluations per generated image: 18 Heun steps."""


@dataclass(frozen=True)
class Cost:
    """Operations of trainings and scans. Costs can be added."""

    training: float
    sampling: float
    num_scans: int = 0
    """Scans that do the sampling, whose other parts take time as well."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.training + other.training,
            self.sampling + other.sampling,
            self.num_scans + other.num_scans,
        )

    @property
    def total(self) -> float:
        """Operations of both."""
        return self.training + self.sampling


@dataclass(frozen=True)
class Throughput:
    """Operations per second of a network on a device."""

    training: float
    sampling: float
    scan_seconds: float = 0.0
    """Seconds of a scan besides its sampling."""

    def seconds(self, cost: Cost) -> float:
        """Return how long a cost takes."""
        others = cost.num_scans * self.scan_seconds
        return cost.training / self.training + cost.sampling / self.sampling + others


def count_forward_flops(config: TrainingConfig, images: ImageSet) -> float:
    """Count the operations of one network evaluation for one image, without computing them.

    Args:
        config: options of the network.
        images: at least one image; its shape and the classes determine the network.
    """
    network_config = configure_network(config, images)
    for name in ("dropout", "skip_connections"):  # they do not change the count
        network_config.pop(name, None)
    return _count(json.dumps(network_config))


@cache
def _count(network_json: str) -> float:
    config = json.loads(network_json)
    label_dim = config["label_dim"]
    with _FlopCounter() as counter, torch.no_grad():
        network = build_network(config).eval()
        x = torch.zeros(1, *image_shape(network))
        network(x, torch.ones(1), torch.zeros(1, label_dim) if label_dim else None)
    return float(counter.num_flops)


class _FlopCounter(TorchFunctionMode):
    """Counts products without computing them, and leaves new weights uninitialized.

    Memory that nothing writes costs nothing, and all that is cheap runs as usual. torch's own
    FlopCounterMode would need the meta device, which takes seconds to import and as long to run.
    """

    num_flops = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        if func in _SKIPPED:
            return (*args, *keywords.values())[0]  # the first parameter, a tensor
        if func is F.linear:
            x, weight, *_ = args
            return self._product(x, (*x.shape[:-1], len(weight)), weight[0].numel())
        if func is F.conv2d:
            x, weight, *_ = args
            return self._product(x, _convolved_shape(*args, **keywords), weight[0].numel())
        if func is F.scaled_dot_product_attention:
            q, k, v = args
            self._product(q, (*q.shape[:-1], k.shape[-2]), q.shape[-1])
            return self._product(q, (*q.shape[:-1], v.shape[-1]), k.shape[-2])
        result = func(*args, **keywords)
        if func is F.conv_transpose2d:
            x, weight, *_ = args
            self.num_flops += 2 * x.numel() * weight[0].numel()
        return result

    def _product(self, x: Tensor, shape: tuple[int, ...], num_terms: int) -> Tensor:
        """Count a sum of products for each element of the result, which holds any numbers."""
        self.num_flops += 2 * math.prod(shape) * num_terms
        return x.new_empty(shape)


_SKIPPED = {
    nn.init.kaiming_uniform_,
    Tensor.uniform_,
    Tensor.normal_,
    Tensor.zero_,
    Tensor.fill_,
    F.silu,
    F.group_norm,
}
"""What fills a tensor, or keeps its shape without products."""


def _convolved_shape(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int | tuple[int, ...] = 0,
    groups: int = 1,
) -> tuple[int, ...]:
    padding = (padding, padding) if isinstance(padding, int) else padding
    sides = [
        (side + 2 * pad - kernel) // stride + 1
        for side, pad, kernel in zip(x.shape[2:], padding, weight.shape[2:], strict=True)
    ]
    return len(x), len(weight), *sides


def predict_run_cost(
    config: TrainingConfig, num_images: int, *, num_samples: int, flops_per_image: float
) -> Cost:
    """Predict the cost of one training and of a scan of each snapshot.

    Args:
        config: budget and snapshots.
        num_images: number of training images |D|.
        num_samples: images generated from each snapshot.
        flops_per_image: see `count_forward_flops`.
    """
    schedule = Schedule(config, num_images)
    images_seen = schedule.num_steps * config.batch_size
    num_snapshots = math.ceil(schedule.duration_images / schedule.snapshot_images)
    return Cost(
        training=(1 + BACKWARD) * flops_per_image * images_seen,
        sampling=flops_per_image * EVALUATIONS * num_samples * num_snapshots,
        num_scans=num_snapshots,
    )


def format_flops(number: float) -> str:
    """Write operations as `3.1 PFLOP`."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if number < 1000:
            return f"{number:.3g} {prefix}FLOP"
        number /= 1000
    return f"{number:.3g} EFLOP"
