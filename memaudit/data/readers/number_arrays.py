"""Images in an array of any numbers and layout, whose pixels are read when they are needed.

Numbers other than bytes become bytes by a window that the user states; nothing is guessed, since
the same numbers are different images in [0, 1] and in [-1, 1].
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from memaudit.data.images import as_labels, channels_first, check_shape, layout_of
from memaudit.data.preparation import CLIPPED, DEEP
from memaudit.data.readers.deep_images import num_clipped, to_bytes
from memaudit.data.readers.lazy_images import Contents, array_contents, batch_rows
from memaudit.errors import DataError

Window = tuple[float, float]


class Rows(Protocol):
    """Whatever has numbers in rows, as a numpy array does."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, …)."""

    @property
    def dtype(self) -> Any:
        """Kind of the numbers."""

    def __getitem__(self, rows: slice) -> Any:
        """The numbers of some rows."""


def number_contents(
    array: Rows,
    source: str,
    what: str,
    names: Sequence[str],
    *,
    window: Window | None,
    labels: Any = None,
    class_names: tuple[str, ...] = (),
) -> Contents:
    """The contents of a source whose images are numbers.

    Args:
        array: [N, C, H, W], [N, H, W, C] or [N, H, W].
        source: the path as the user wrote it.
        what: the array's name in an error.
        names: one per image, [N].
        window: the numbers that become 0 and 255, or None.
        labels: integers [N] or [N, 1], or None.
        class_names: one name per class, or empty.

    Raises:
        DataError: an array of another shape or kind, or of numbers that are not bytes without a
            window.
    """
    dtype = np.dtype(array.dtype)
    labels = None if labels is None else flat_labels(labels)
    if isinstance(array, np.ndarray) and dtype == np.uint8:
        images = channels_first(array, what)
        return array_contents(images, source, names, labels, class_names)
    if dtype.kind not in "biuf":
        raise DataError(f"{what} holds {dtype} {list(array.shape)}, which are not images.")
    order = layout_of(array.shape, f"{what} is {dtype} {list(array.shape)}")
    num_images = array.shape[0]
    if num_images == 0:
        raise DataError(f"{what} holds no images.")
    C, H, W = (array.shape[axis] if axis else 1 for axis in order)
    check_shape((num_images, C, H, W), what)
    if window is None and dtype != np.uint8:
        low, high = _extremes(array)
        raise DataError(
            f"{what} holds {dtype} numbers from {low:.6g} to {high:.6g}, and images have bytes. "
            "Say which numbers become 0 and 255, such as {window} 0,1 or {window}=-1,1; others are "
            "rounded.",
            field="window",
        )
    size = max(1, batch_rows(C * H * W * dtype.itemsize))
    kinds: Counter[str] = Counter()

    def images_of(found: np.ndarray, first: int) -> np.ndarray:
        if found.ndim == 3:
            found = found[:, None]
        elif order[0] == 3:
            found = found.transpose(0, 3, 1, 2)
        if dtype == np.uint8:
            return np.ascontiguousarray(found)
        assert window is not None
        return to_bytes(found, window, f"{source}: {names[first]}")

    def batches(rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        kinds.clear()
        if rows is None:
            parts = [slice(start, start + size) for start in range(0, num_images, size)]
        else:
            parts = [slice(int(row), int(row) + 1) for row in rows]
        for part in parts:
            numbers = np.asarray(array[part])
            if window is not None and dtype != np.uint8:
                kinds[DEEP] += len(numbers)
                kinds[CLIPPED] += num_clipped(numbers, window)
            yield images_of(numbers, part.start)

    checked = None if labels is None else as_labels(labels, num_images, source)
    shape = (num_images, C, H, W)
    return Contents(source, shape, names, batches, checked, class_names, kinds=kinds)


def flat_labels(labels: Any) -> Any:
    """Labels [N, 1], [1, N] or [N, 1, 1, 1] as [N]; any others as they are."""
    labels = np.asarray(labels)
    if labels.ndim > 1 and labels.size == max(labels.shape):
        labels = labels.reshape(-1)
    return labels


def one_class_each(labels: Any, what: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels [N] of images, or None and a note where they are not one class for each.

    Args:
        labels: numbers; [N, K] with one 1 in each row are classes, too.
        what: their name in the note.
    """
    labels = flat_labels(labels)
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "biuf":
        if np.all((labels == 0) | (labels == 1)) and np.all(labels.sum(axis=1) == 1):
            return labels.argmax(axis=1), ()
    if labels.ndim == 1 and labels.dtype.kind in "iu":
        return labels, ()
    kind = f"{labels.dtype} {list(labels.shape)}"
    return None, (f"{what} is {kind}, not one class for each image, and was not read.",)


def whole_numbers(labels: np.ndarray) -> np.ndarray:
    """Floating labels as integers if that is what they are: MATLAB has no other numbers."""
    if labels.dtype.kind == "f" and labels.size and np.abs(labels).max() < 1 << 53:
        if np.all(labels == np.floor(labels)):
            return labels.astype(np.int64)
    return labels


def _extremes(array: Rows) -> tuple[float, float]:
    """The smallest and the largest number of an array; NaN where that is in it."""
    step = max(1, (16 << 20) // max(1, math.prod(array.shape[1:]) * np.dtype(array.dtype).itemsize))
    low, high = math.inf, -math.inf
    for start in range(0, array.shape[0], step):
        part = np.asarray(array[start : start + step])
        low, high = min(low, float(part.min())), max(high, float(part.max()))
    return low, high
