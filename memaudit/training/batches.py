"""The training set on its device, and the images that each step sees."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from memaudit.data.images import ImageSet, uint8_to_float


class Batch(NamedTuple):
    """The images of one step."""

    y: Tensor
    """Clean images, float32 [B, C, H, W] in [-1, 1]."""
    class_labels: Tensor | None
    """One-hot float32 [B, label_dim], or None."""


def add_mirror_images(images: ImageSet) -> ImageSet:
    """Return the images followed by the mirror image of each: what `xflip` trains on."""
    twice = images.take(np.tile(np.arange(len(images)), 2))
    twice.images[len(images) :] = images.images[..., ::-1]
    return twice


class Batches:
    """The batch of each step, from a training set kept on the device as uint8.

    The images come in one shuffled order that repeats (numpy's RandomState(seed)), as published: a
    batch may hold the end of one pass and the start of the next, or an image several times.

    Args:
        images: training images; their labels are used unless label_dim is 0.
        batch_size: images per step.
        seed: determines the order.
        label_dim: number of classes; 0 for batches without labels.
        device: where the training set and the batches are kept.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        seed: int,
        label_dim: int,
        device: torch.device,
    ) -> None:
        order = np.arange(len(images))
        np.random.RandomState(seed).shuffle(order)
        self.batch_size = batch_size
        self.label_dim = label_dim
        self._num_images = len(images)
        # Continued by one batch, so that each batch is a part of it and nothing is sent to the
        # device in a step: a copy would wait for all the steps before it.
        self._order = torch.tensor(np.resize(order, len(order) + batch_size), device=device)
        # torch.tensor copies: tensors cannot share a read-only memory map.
        self._images = torch.tensor(images.images, device=device)
        self._labels = torch.tensor(images.labels, device=device) if label_dim else None

    def at(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""
        first = step * self.batch_size % self._num_images
        indices = self._order[first : first + self.batch_size]
        y = uint8_to_float(self._images[indices])
        if self._labels is None:
            return Batch(y, None)
        return Batch(y, F.one_hot(self._labels[indices], self.label_dim).to(torch.float32))
