"""Windows of images, and sums over boxes in them that bound distances from below.

By Cauchy–Schwarz, Σ (x − y)² over the n values of a box is at least (Σ x − Σ y)² / n. With
f(x) = Σ x / √n for each of R boxes without overlap, ‖f(x) − f(y)‖² ≤ S(x, y). The sums come from an
integral image, for all places of a window at once.

Legend: n images, R boxes, P places of a window.
"""

from dataclasses import dataclass

import numpy as np

MOST_PARTS = 4
"""Parts of the places along an axis, each of which is searched as one ball."""


@dataclass(frozen=True)
class Window:
    """A part of an image, and how far it may have moved in a training image."""

    top: int
    left: int
    height: int
    width: int
    reach: tuple[int, int] = (0, 0)
    """Pixels by which it moves up or down, and to the left or right, at most."""

    def of(self, images: np.ndarray) -> np.ndarray:
        """The window where it has not moved: uint8 [n, C·height·width]."""
        return self.cut(images).reshape(len(images), images.shape[1] * self.height * self.width)

    def cut(self, images: np.ndarray) -> np.ndarray:
        """As `of`, as images: uint8 [n, C, height, width]."""
        part = images[..., self.top : self.top + self.height, self.left : self.left + self.width]
        return np.ascontiguousarray(part)

    def moved(self, images: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
        """The window of each image at a place of its own.

        Args:
            images: uint8 [n, C, H, W].
            dy, dx: pixels that it moves down and to the right, int64 [n] each.

        Returns:
            uint8 [n, C·height·width].
        """
        if not any(self.reach):
            return self.of(images)
        view = np.lib.stride_tricks.sliding_window_view(images, (self.height, self.width), (2, 3))
        rows = np.arange(len(images))
        return view[rows, :, self.top + dy, self.left + dx].reshape(len(images), -1)

    @property
    def parts(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """All places in parts of near ones: (dy, dx), int64 each, of which every pair is meant."""
        axes = [
            np.array_split(np.arange(-reach, reach + 1), min(MOST_PARTS, 2 * reach + 1))
            for reach in self.reach
        ]
        return tuple((dy, dx) for dy in axes[0] for dx in axes[1])


@dataclass(frozen=True)
class Boxes:
    """A grid of boxes in a window, over all channels."""

    window: Window
    num_channels: int
    most: int
    """Boxes along an axis, at most."""

    @property
    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        sizes = (self.window.height, self.window.width)
        return (
            np.rint(np.linspace(0, sizes[0], min(self.most, sizes[0]) + 1)).astype(np.int64),
            np.rint(np.linspace(0, sizes[1], min(self.most, sizes[1]) + 1)).astype(np.int64),
        )

    @property
    def width(self) -> int:
        """R."""
        rows, columns = self._edges
        return (len(rows) - 1) * (len(columns) - 1)

    def features(
        self, integral: np.ndarray, dy: np.ndarray | int = 0, dx: np.ndarray | int = 0
    ) -> np.ndarray:
        """f of the window at all places (dy, dx) of two lists.

        Args:
            integral: of n images, `integral_image`.
            dy, dx: pixels that the window moves down and to the right.

        Returns:
            float64 [n, P, R].
        """
        rows, columns = self._edges
        dy, dx = np.atleast_1d(dy), np.atleast_1d(dx)
        y = self.window.top + dy[:, None] + rows  # [Py, R1 + 1]
        x = self.window.left + dx[:, None] + columns
        bands = np.diff(integral[:, y], axis=2)  # [n, Py, R1, W + 1]
        sums = np.diff(bands[..., x], axis=4)  # [n, Py, R1, Px, R2]
        size = self.num_channels * np.outer(np.diff(rows), np.diff(columns))
        found = sums.transpose(0, 1, 3, 2, 4) / np.sqrt(size)
        shape = (len(integral), len(dy) * len(dx), self.width)
        features: np.ndarray = found.reshape(shape)
        return features


def integral_image(images: np.ndarray) -> np.ndarray:
    """I[y, x] = the sum of all channels above and to the left: int32 [n, H + 1, W + 1].

    The largest sum is 255·2²² < 2³¹: a search takes no larger images.
    """
    n, _, H, W = images.shape
    integral = np.zeros((n, H + 1, W + 1), dtype=np.int32)
    gray = images[:, 0].astype(np.int32)
    for channel in range(1, images.shape[1]):
        gray += images[:, channel]
    gray.cumsum(1, out=gray)
    gray.cumsum(2, out=integral[:, 1:, 1:])
    return integral
