"""What a training and its scans cost, before they start.

Operations are counted on the network itself (a multiply-add is 2), and turned into seconds by
timing a few of its steps on the device at hand.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from memaudit.data.images import ImageSet
from memaudit.models.build import build_network
from memaudit.training.config import TrainingConfig
from memaudit.training.network import configure_network
from memaudit.training.schedule import Schedule
from memaudit.training.trainer import Trainer

BACKWARD = 2
"""A backward pass does twice the forward's products: one for inputs, one for weights."""
EVALUATIONS = 35
"""Of the network for one image: 18 Heun steps."""
LONG_ENOUGH = 0.5
"""Seconds of a step that is timed well."""


@dataclass(frozen=True)
class Cost:
    """Operations of trainings and scans; costs add up."""

    training: float
    sampling: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.training + other.training, self.sampling + other.sampling)

    @property
    def total(self) -> float:
        return self.training + self.sampling


@dataclass(frozen=True)
class Speed:
    """Operations a second on some device with some network."""

    training: float
    sampling: float

    def seconds(self, cost: Cost) -> float:
        return cost.training / self.training + cost.sampling / self.sampling


def forward_flops(config: TrainingConfig, images: ImageSet) -> float:
    """Operations of one evaluation for one image, counted without memory for the network.

    Args:
        config: of the network.
        images: at least one; their shape and classes decide the network.
    """
    network_config = configure_network(config, images)
    for name in ("dropout", "skip_connections"):  # they change no operation
        network_config.pop(name, None)
    return _count(json.dumps(network_config))


@cache
def _count(network_json: str) -> float:
    config = json.loads(network_json)
    resolution, label_dim = config["img_resolution"], config["label_dim"]
    with torch.device("meta"):
        network = build_network(config).eval()
        x, sigma = torch.empty(1, config["img_channels"], resolution, resolution), torch.empty(1)
        labels = torch.empty(1, label_dim) if label_dim else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, sigma, labels)
    return float(counter.get_total_flops())


def run_cost(
    config: TrainingConfig, num_images: int, *, num_samples: int, flops_per_image: float
) -> Cost:
    """Of one training on |D| = `num_images` and a scan of each snapshot.

    Args:
        config: budget and snapshots.
        num_images: |D|.
        num_samples: images generated from each snapshot.
        flops_per_image: see `forward_flops`.
    """
    schedule = Schedule(config, num_images)
    images_seen = schedule.num_steps * config.batch_size
    num_snapshots = math.ceil(schedule.duration_images / schedule.snapshot_images)
    return Cost(
        training=(1 + BACKWARD) * flops_per_image * images_seen,
        sampling=flops_per_image * EVALUATIONS * num_samples * num_snapshots,
    )


def measure_speed(config: TrainingConfig, images: ImageSet, *, device: str) -> Speed:
    """Time a training step and an evaluation, with batches that grow until they take long enough.

    Args:
        config: network and the largest batch.
        images: to train on.
        device: `cpu` or `cuda`.
    """
    few = images.take(np.arange(min(len(images), config.batch_size)))
    flops = forward_flops(config, images)
    where = torch.device(device)
    batch_size = 1
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        while True:
            trainer = Trainer(few, replace(config, batch_size=batch_size), device=where)
            x = torch.randn(batch_size, *images.image_shape, device=where)
            step_seconds = _seconds(trainer.step, where)
            with torch.inference_mode():
                evaluation_seconds = _seconds(partial(trainer.average, x, 1.0), where)
            if batch_size >= config.batch_size or step_seconds > LONG_ENOUGH:
                break
            batch_size = min(4 * batch_size, config.batch_size)
    return Speed(
        training=(1 + BACKWARD) * flops * batch_size / step_seconds,
        sampling=flops * batch_size / evaluation_seconds,
    )


def flop_text(number: float) -> str:
    """Operations as `3.1 PFLOP`."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if number < 1000:
            return f"{number:.3g} {prefix}FLOP"
        number /= 1000
    return f"{number:.3g} EFLOP"


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    """Of a step: the shortest of three after one to warm up, or the first if it is a long one."""

    def timed() -> float:
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    first = timed()
    return first if first > LONG_ENOUGH else min(timed() for _ in range(3))
