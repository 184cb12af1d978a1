"""A training step, and everything that it changes."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError
from memaudit.models.build import build_network
from memaudit.models.compiler import quiet_compiler
from memaudit.training.acceleration import (
    GraphedRound,
    Round,
    compiling_pays,
    find_batch_gpu,
    norms_keep_channels_last,
    record_graph,
    time_steps,
)
from memaudit.training.augment import augment, draw_augmentation
from memaudit.training.batches import Batches, add_mirror_images
from memaudit.training.config import TrainingConfig
from memaudit.training.distributed import Ranks, current_ranks, largest_over_ranks
from memaudit.training.ema import copy_for_average, update_average
from memaudit.training.gradients import Gradients
from memaudit.training.loss import LOSSES
from memaudit.training.network import configure_network
from memaudit.training.precision import autocast, make_loss_scaler
from memaudit.training.schedule import Schedule
from memaudit.wording import short


@dataclass(frozen=True)
class Acceleration:
    """How the rounds of a step are computed."""

    batch_gpu: int
    """Images at a time. With dropout, another number drops other features."""
    channels_last: bool = False
    """Whether images are laid out with the channels of a pixel beside each other."""
    compiled: bool = False
    """Whether torch.compile made the network's kernels."""
    graph: bool = False
    """Whether a round is launched as one CUDA graph."""


class Trainer:
    """A network in training: its weights, their average, the optimizer and the steps done.

    A step depends only on these, the configuration and the images: torch's generators are seeded
    anew from the number of the step and the place in its batch, so no random state has to be kept
    between steps. Several ranks share out each batch and all take the same step.

    Args:
        images: the training images; all of them are put on the device.
        config: network, optimizer and schedule.
        device: where the network and the images are kept.
        ranks: this process's place among those that share out each batch; None for that in
            torch.distributed.

    Raises:
        ConfigError, DataError: the network does not fit the images, or cannot be built.
    """

    def __init__(
        self,
        images: ImageSet,
        config: TrainingConfig,
        *,
        device: torch.device,
        ranks: Ranks | None = None,
    ) -> None:
        ranks = ranks or current_ranks()
        self.config = config
        self.schedule = Schedule(config, len(images))
        self.network_config = configure_network(config, images)
        if config.augment and device.type == "mps":
            raise ConfigError(
                "{augment} samples images bicubically, which torch cannot on mps. Leave it out, or "
                "train on the CPU.",
                field="augment",
            )
        self.num_steps = 0
        # Drawn on the CPU, so that the weights are the same on every device.
        torch.manual_seed(config.seed)
        self.network = build_network(self.network_config).train().to(device)
        self.average = copy_for_average(self.network)
        self.weights = list(self.network.parameters())
        self._averaged = list(self.average.parameters())
        self._gradients = Gradients(self.weights, ranks)
        self._generator = _default_generator(device)
        self.optimizer = _optimizer(config, self.network)
        self.scaler = make_loss_scaler(config.precision, device)
        self._values_per_batch = config.batch_size * images.images[0].size
        self._loss = LOSSES[config.precond]()
        self._ranks = ranks
        self._rounds = _rounds(config, ranks)
        first, *_ = self._rounds
        self.acceleration = Acceleration(batch_gpu=first.stop - first.start)
        self._compute_round: Round = self._forward_backward
        self._is_last = self._rehearses = False
        self._batches = Batches(
            add_mirror_images(images) if config.xflip else images,
            batch_size=config.batch_size,
            seed=config.seed,
            label_dim=self.network_config["label_dim"],
            device=device,
        )

    @property
    def images_seen(self) -> int:
        """Number of images in all steps done."""
        return self.num_steps * self.config.batch_size

    def step(self) -> Tensor:
        """Take one step.

        Returns:
            The loss before the step, weighted as in training and averaged over pixels: a scalar
            tensor, still on the device so that nothing waits for it.
        """
        self.compute_gradients()
        self.update_weights()
        loss: Tensor = self._gradients.loss / self._values_per_batch
        return loss

    def compute_gradients(self) -> None:
        """Do the part of a step whose time grows with the batch: everything up to the gradients."""
        seed, batch_size = self.config.seed, self.config.batch_size
        y, class_labels = self._batches.at(self.num_steps)
        # Drawn for the whole batch, so that an image's noise does not depend on which rank or
        # round computes it.
        self._generator.manual_seed(_seed(seed, self.num_steps))
        sigma, noise = self._loss.draw_noise(y)
        augment_labels = None
        if self.config.augment:
            augmentation = draw_augmentation(batch_size, self.config.augment, y.device)
            y, augment_labels = augment(y, augmentation), augmentation.labels

        channels_last = self.acceleration.channels_last
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self._gradients.clear()
        for part in self._rounds:
            self._generator.manual_seed(_seed(seed, self.num_steps, part.start))  # of dropout
            self._is_last = part is self._rounds[-1] and not self._rehearses
            self._compute_round(
                y[part].contiguous(memory_format=layout),
                sigma[part],
                noise[part].contiguous(memory_format=layout),
                _rows(class_labels, part),
                _rows(augment_labels, part),
            )

        self._gradients.finish()

    def _forward_backward(
        self,
        y: Tensor,
        sigma: Tensor,
        noise: Tensor,
        class_labels: Tensor | None,
        augment_labels: Tensor | None,
    ) -> None:
        """Add the gradients of a round."""
        with autocast(self.config.precision, y.device):
            network = partial(self.network, augment_labels=augment_labels)
            loss = self._loss.at(network, y, sigma, noise, class_labels)
        total = loss.sum()
        scaled = self.scaler.scale(total / self.config.batch_size)
        self._gradients.add(total, scaled, is_last=self._is_last)

    def accelerate(self) -> Acceleration:
        """Find out how the device computes steps best, before the first one.

        A GPU tries how many images it can compute at a time, compiles the network if the steps that
        are left make up for it, and records a round as a CUDA graph if launches rule. A CPU only
        compiles, and only if the configuration says so.

        Raises:
            torch.OutOfMemoryError: not even one image fits.
        """
        config, device = self.config, self.weights[0].device
        found = self.acceleration
        self._rehearses = True
        try:
            if device.type == "cuda":
                if config.batch_gpu is None:
                    found = replace(found, batch_gpu=self._find_batch_gpu())
                    self._set_rounds(found.batch_gpu)
                is_exact = config.precision == "fp32" and not config.tf32
                found = replace(
                    found, channels_last=not is_exact and norms_keep_channels_last(device)
                )
                self.acceleration = found
            if config.compile == "on" or (
                config.compile == "auto" and device.type == "cuda" and self._compiling_pays()
            ):
                found = replace(found, compiled=self._compile())
            self.acceleration = found
            if device.type == "cuda" and self._ranks.num_ranks == 1:
                speed = time_steps(self.compute_gradients, device)
                if speed.launches_rule:
                    found = replace(found, graph=self._record())
            self.acceleration = found
        finally:
            self._rehearses = False
        return found

    def _find_batch_gpu(self) -> int:
        share = self.config.batch_size // self._ranks.num_ranks
        # In place of the optimizer's state, which is not there yet.
        ballast = torch.empty(
            3 * sum(p.numel() for p in self.weights), device=self.weights[0].device
        )

        def try_round(num_images: int) -> None:
            self._set_rounds(num_images)
            del self._rounds[1:]
            self.compute_gradients()
            torch.cuda.synchronize(ballast.device)

        found = find_batch_gpu(try_round, share)
        return -round(largest_over_ranks(-found)[0])  # the smallest

    def _set_rounds(self, batch_gpu: int) -> None:
        self._rounds = _rounds(replace(self.config, batch_gpu=batch_gpu), self._ranks)

    def _compiling_pays(self) -> bool:
        seconds = time_steps(self.compute_gradients, self.weights[0].device).done
        steps_left = self.schedule.num_steps - self.num_steps
        return compiling_pays(largest_over_ranks(seconds)[0], steps_left, self.config.precision)

    def _record(self) -> bool:
        """Launch rounds as one CUDA graph; return whether one could be recorded."""
        self._compute_round = GraphedRound(self._forward_backward, record_graph)
        try:
            self.compute_gradients()
            return True
        except RuntimeError:  # such as memory that the graph would keep beside the plain steps'
            self._compute_round = self._forward_backward
            return False

    def _compile(self) -> bool:
        """Compile the network; return whether that worked."""
        quiet_compiler()
        self.network.compile(fullgraph=True)
        try:
            self.compute_gradients()
            return True
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the compiler meets, such as a missing C compiler
            if self.config.compile == "on":
                raise ConfigError(
                    f"The network cannot be compiled here ({type(error).__name__}: "
                    f"{short(' '.join(str(error).split()))}). Train with {{compile}} off.",
                    field="compile",
                ) from error
            self.network._compiled_call_impl = None
            return False

    def update_weights(self) -> None:
        """Do the rest, whose time depends on the number of weights: optimizer and average."""
        self.scaler.unscale_(self.optimizer)
        self._gradients.sanitize()

        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.lr(self.images_seen)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        update_average(self._averaged, self.weights, self.schedule.ema_beta(self.images_seen))
        self.num_steps += 1


def _rows(labels: Tensor | None, part: slice) -> Tensor | None:
    return None if labels is None else labels[part]


def _default_generator(device: torch.device) -> Any:
    """What has `manual_seed` for torch's own generator of a device.

    `torch.manual_seed` seeds those of all devices, at a hundred times the cost.
    """
    if device.type == "cpu":
        return torch.default_generator
    if device.type != "cuda":
        return torch.random
    torch.cuda.init()  # type: ignore[no-untyped-call]
    number = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[number]


def _optimizer(config: TrainingConfig, network: nn.Module) -> torch.optim.Optimizer:
    # One fused kernel for all weights, where torch offers it.
    fused = all(p.device.type in ("cpu", "cuda") for p in network.parameters())
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            # torch's fused SGD never fills its momentum buffers if fp16 skips the first step.
            fused=fused and config.precision != "fp16",
        )
    return torch.optim.Adam(
        network.parameters(),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def _rounds(config: TrainingConfig, ranks: Ranks) -> list[slice]:
    """Split this rank's share of a batch into the parts that are computed one after another."""
    share, rest = divmod(config.batch_size, ranks.num_ranks)
    if rest or not share:
        raise ConfigError(
            f"A batch of {config.batch_size} images cannot be shared out evenly among "
            f"{ranks.num_ranks} processes; choose a {{batch_size}} that is a multiple of that.",
            field="batch_size",
        )
    batch_gpu = config.batch_gpu or share
    if share % batch_gpu:
        raise ConfigError(
            f"A device's share of {share} images cannot be computed {batch_gpu} at a time; choose "
            "a {batch_gpu} that divides it.",
            field="batch_gpu",
        )
    starts = range(ranks.rank * share, (ranks.rank + 1) * share, batch_gpu)
    return [slice(first, first + batch_gpu) for first in starts]


def _seed(seed: int, step: int, *place: int) -> int:
    """Derive a seed for a step and a place in it, unrelated to all others and to other runs'."""
    sequence = np.random.SeedSequence((seed, step), spawn_key=place)
    return int(sequence.generate_state(1, np.uint64)[0])
