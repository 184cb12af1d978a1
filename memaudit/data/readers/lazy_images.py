"""What a source holds, before its pixels are read: the form that all readers return."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np

from memaudit.data.fitting import check_proportions, fit_image, to_channels
from memaudit.data.images import ImageSet, as_labels, check_shape
from memaudit.data.preparation import Preparation
from memaudit.data.room import check_memory
from memaudit.errors import DataError

BATCH_BYTES = 4 << 20
"""Bytes of pixels that are read, decoded and reported at a time."""


class ReadBatches(Protocol):
    """Reads the pixels of images from the start."""

    def __call__(self, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Yield uint8 [B, C, H, W], in order.

        Args:
            rows: which images, int64 [M], ascending; None means all N.
        """


@dataclass(frozen=True)
class Contents:
    """The images of a source: everything but their pixels, and a function that reads those."""

    source: str
    """The path as the user wrote it."""
    shape: tuple[int, int, int, int]
    """(N, C, H, W)."""
    names: Sequence[str]
    """One name per image, [N]."""
    batches: "ReadBatches"
    """Reads the pixels, of all images or of some."""
    labels: np.ndarray | None = None
    """int64 [N], or None."""
    class_names: tuple[str, ...] = ()
    """One name per class, or empty if the source names none."""
    array: np.ndarray | None = None
    """uint8 [N, C, H, W], if the pixels are an array already."""
    unread: Mapping[str, int] = field(default_factory=dict)
    """Number of files beside the images that were not taken as images, by suffix."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Images that were not plain 8-bit gray or RGB, by kind, among those that the last call of
    `batches` has read so far."""
    encoded_bytes: int = 0
    """Bytes of image files that are decoded for the pixels; 0 where nothing is decoded."""
    indices: np.ndarray | None = None
    """int64 [N]: positions in the whole source, if this is a part of it."""
    captions: Sequence[str | None] | None = None
    """What ImageSet has of the same name, and so on."""
    groups: Sequence[str | None] | None = None
    repeats: np.ndarray | None = None
    split: str | None = None
    other_splits: tuple[str, ...] = ()
    labels_from: str | None = None
    groups_from: str | None = None
    group_kind: str = "group"
    notes: tuple[str, ...] = ()

    def with_pixels(self, images: np.ndarray, fingerprint: str | None = None) -> ImageSet:
        """The images with their pixels, uint8 [N, C, H, W], and their fingerprint if known."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        own["kinds"] = dict(self.kinds)
        taken = {field.name: own[field.name] for field in fields(ImageSet) if field.name in own}
        found = ImageSet(images, **taken)
        if fingerprint is not None:
            vars(found)["fingerprint"] = fingerprint
        return found

    @property
    def num_bytes(self) -> int:
        """Bytes of all pixels."""
        return math.prod(self.shape)

    def take(self, rows: np.ndarray) -> "Contents":
        """The images at `rows` (int64 [M], ascending) alone; of the others nothing is read."""
        num_images = len(self.names)

        whole = rows

        def batches(rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
            return self.batches(whole if rows is None else whole[rows])

        def chosen(values: Sequence[Any] | None) -> list[Any] | None:
            return None if values is None else [values[i] for i in rows]

        return replace(
            self,
            shape=(len(rows), *self.shape[1:]),
            names=[self.names[i] for i in rows],
            batches=batches,
            labels=None if self.labels is None else self.labels[rows],
            array=None if self.array is None else self.array[rows],
            captions=chosen(self.captions),
            groups=chosen(self.groups),
            repeats=None if self.repeats is None else self.repeats[rows],
            encoded_bytes=self.encoded_bytes * len(rows) // max(1, num_images),
            indices=rows if self.indices is None else self.indices[rows],
        )

    def prepared(self, preparation: Preparation) -> "Contents":
        """The same images as `preparation` makes them, if the reader has not prepared them.

        Raises:
            UnlikeError: they have other proportions, and no way to cut them was chosen.
        """
        N, C, H, W = self.shape
        channels = preparation.channels or C
        height, width = preparation.resolution or (H, W)
        if (C, H, W) == (channels, height, width):
            return self
        check_proportions(self.source, H, W, preparation)

        def batches(rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
            self.kinds.clear()
            for batch in self.batches(rows):
                if channels != C:
                    self.kinds["gray" if C == 1 else "RGB"] += len(batch)
                yield np.stack(
                    [
                        fit_image(to_channels(image, channels), self.source, preparation)
                        for image in batch
                    ]
                )

        return replace(self, shape=(N, channels, height, width), batches=batches, array=None)


def array_contents(
    array: np.ndarray,
    source: str,
    names: Sequence[str],
    labels: Any = None,
    class_names: tuple[str, ...] = (),
) -> Contents:
    """The contents of a source whose pixels are an array, uint8 [N, C, H, W]."""
    num_images = len(array)
    if num_images == 0:
        raise DataError(f"{source} holds no images.")
    check_shape(array.shape, source)
    size = batch_rows(array[0].nbytes)

    def batches(rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        for start in range(0, num_images if rows is None else len(rows), size):
            part = slice(start, start + size)
            yield array[part if rows is None else rows[part]]

    if labels is not None:
        labels = as_labels(labels, num_images, source)
    _, C, H, W = array.shape
    return Contents(source, (num_images, C, H, W), names, batches, labels, class_names, array)


_NAME_BYTES = 100
"""Bytes that Python needs for a short text and its place in a list."""


def numbered_names(file: str, num_images: int) -> list[str]:
    """`file[0]`, `file[1]`, …, for images that have no names of their own.

    Raises:
        DataError: the names do not fit into memory.
    """
    check_memory(num_images * _NAME_BYTES, f"Naming the {num_images:,} images of {file}")
    return [f"{file}[{i}]" for i in range(num_images)]


def batch_rows(image_bytes: int) -> int:
    """The number of images of `image_bytes` bytes in a batch."""
    return max(1, BATCH_BYTES // image_bytes)
