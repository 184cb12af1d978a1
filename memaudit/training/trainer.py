"""A training step, and everything that it changes."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError
from memaudit.models.build import build_network
from memaudit.training.augment import augment, draw_augmentation
from memaudit.training.batches import Batches, add_mirror_images
from memaudit.training.config import TrainingConfig
from memaudit.training.distributed import Ranks, current_ranks
from memaudit.training.ema import copy_for_average, update_average
from memaudit.training.gradients import Gradients
from memaudit.training.loss import LOSSES
from memaudit.training.network import configure_network
from memaudit.training.precision import autocast, make_loss_scaler
from memaudit.training.schedule import Schedule


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
        self.num_steps = 0
        # Drawn on the CPU, so that the weights are the same on every device.
        torch.manual_seed(config.seed)
        self.network = build_network(self.network_config).train().to(device)
        self.average = copy_for_average(self.network)
        self._weights = list(self.network.parameters())
        self._averaged = list(self.average.parameters())
        self._gradients = Gradients(self._weights, ranks)
        self._generator = _default_generator(device)
        self.optimizer = _optimizer(config, self.network)
        self.scaler = make_loss_scaler(config.precision, device)
        self._values_per_batch = config.batch_size * images.images[0].size
        self._loss = LOSSES[config.precond]()
        self._rounds = _rounds(config, ranks)
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

        self._gradients.clear()
        for part in self._rounds:
            self._generator.manual_seed(_seed(seed, self.num_steps, part.start))  # of dropout
            with autocast(self.config.precision, y.device):
                loss = self._loss.at(
                    partial(self.network, augment_labels=_rows(augment_labels, part)),
                    y[part],
                    sigma[part],
                    noise[part],
                    _rows(class_labels, part),
                )
            total = loss.sum()
            scaled = self.scaler.scale(total / batch_size)
            self._gradients.add(total, scaled, is_last=part is self._rounds[-1])

        self._gradients.finish()

    def update_weights(self) -> None:
        """Do the rest, whose time depends on the number of weights: optimizer and average."""
        self.scaler.unscale_(self.optimizer)
        self._gradients.sanitize()

        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.lr(self.images_seen)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        update_average(self._averaged, self._weights, self.schedule.ema_beta(self.images_seen))
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
