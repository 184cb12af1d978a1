"""The nearest of pooled images by coarse features at any shift, for the label test.

The test needs a distance that does not know the labels, and 48 neighbors of each image by it. Mean
brightness in boxes, at the best of some shifts, is one that 48 neighbors can be found by.

Legend: B queries, N pooled images, K neighbors, R boxes.
"""

import numpy as np
import torch

from memaudit.audit.neighbors.results import Neighbors, SearchStatistics
from memaudit.audit.neighbors.rules.window import Boxes, Window, integral_image

BOXES = 8
"""Boxes along an axis."""
PLACES = 7
"""Places of the window along an axis, at most."""
QUERY_PART, POOL_PART, IMAGE_PART = 256, 8192, 256


class ShiftedBoxes:
    """Features of pooled images at each place of a window."""

    def __init__(self, images: np.ndarray, window: Window, *, flips: bool) -> None:
        """Compute them.

        Args:
            images: uint8 [N, C, H, W].
            window: what is compared, and how far it moves.
            flips: whether mirror images count as well.
        """
        self._flips = flips
        self._boxes = Boxes(window, images.shape[1], BOXES)
        dy, dx = (
            np.unique(np.rint(np.linspace(-reach, reach, min(PLACES, 2 * reach + 1))))
            for reach in window.reach
        )
        parts = []
        for start in range(0, len(images), IMAGE_PART):
            integral = integral_image(images[start : start + IMAGE_PART])
            found = self._boxes.features(integral, dy.astype(np.int64), dx.astype(np.int64))
            parts.append(found.astype(np.float32))
        self._features = torch.from_numpy(np.concatenate(parts)).transpose(0, 1).contiguous()

    def nearest(self, images: np.ndarray, k: int) -> Neighbors:
        """The k nearest, by the smallest squared distance of features over all places.

        Args:
            images: uint8 [B, C, H, W].
            k: 1 … N.
        """
        found = [self._nearest(images[i : i + QUERY_PART], k) for i in _starts(len(images))]
        index, S = (np.concatenate(each) for each in zip(*found, strict=True))
        return Neighbors(index, S, SearchStatistics("torch-cpu", num_searches=len(images)))

    def _nearest(self, images: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        queries = [images, images[..., ::-1]] if self._flips else [images]
        best = torch.empty(len(images), 0)
        index = torch.empty(len(images), 0, dtype=torch.int64)
        for start in range(0, self._features.shape[1], POOL_PART):
            places = self._features[:, start : start + POOL_PART]
            distance = torch.full((len(images), places.shape[1]), torch.inf)
            for each in queries:
                f = self._boxes.features(integral_image(each))[:, 0].astype(np.float32)
                x = torch.from_numpy(f)
                norm = x.square().sum(1, keepdim=True)
                for y in places:
                    apart = torch.addmm(y.square().sum(1) + norm, x, y.T, alpha=-2)
                    distance = torch.minimum(distance, apart)
            best = torch.cat([best, distance], 1)
            positions = torch.arange(start, start + places.shape[1]).expand(len(images), -1)
            index = torch.cat([index, positions], 1)
            best, order = best.topk(min(k, best.shape[1]), largest=False)
            index = index.gather(1, order)
        return index.numpy(), best.clamp_(min=0).double().numpy()


def _starts(number: int) -> range:
    return range(0, max(1, number), QUERY_PART)
