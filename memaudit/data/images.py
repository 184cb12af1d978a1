"""A set of images as one array, and the one pair of conversions between bytes and numbers.

At rest images are uint8 [N, C, H, W] in 0…255; networks see float32 in [-1, 1].
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from memaudit.data.preparation import AS_STORED, Preparation
from memaudit.errors import DataError
from memaudit.wording import counted, short, shown

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, repr=False)
class ImageSet:
    """Images with their names, and labels if they have any."""

    images: np.ndarray
    """uint8 [N, C, H, W]; memory-mapped when large."""
    names: Sequence[str]
    """One name per image: its path inside the source, or `file[index]`. Traces a leak to a file."""
    labels: np.ndarray | None = None
    """int64 [N], each in 0 … num_classes - 1, or None."""
    class_names: tuple[str, ...] = ()
    """One name per class, or empty if the source names none."""
    source: str = "memory"
    """Where the images came from, as the user wrote it."""
    indices: np.ndarray | None = field(default=None)
    """int64 [N]: positions in the whole source, if this is a part of it."""
    unread: Mapping[str, int] = field(default_factory=dict)
    """Number of files in the source that were not taken as images, by suffix."""
    captions: Sequence[str | None] | None = None
    """[N]: the text that each image was described by, or None for an image without one; None where
    the source has no texts."""
    groups: Sequence[str | None] | None = None
    """[N]: what each image belongs to, such as a person or a scene, or None if that is unknown."""
    repeats: np.ndarray | None = None
    """int64 [N]: how often a training shows each image in an epoch, where the source says so. Each
    image is in the set once."""
    split: str | None = None
    """The split that was taken of a source that has some, or `all`."""
    other_splits: tuple[str, ...] = ()
    """Splits of the source whose images were not taken."""
    labels_from: str | None = None
    """Where the labels come from, if the user chose it: see `Layout`."""
    groups_from: str | None = None
    """Where the groups come from, if the user chose it: see `Layout`. Only then do they count in an
    audit."""
    group_kind: str = "group"
    """What a group is: `patient`, where the user says so."""
    notes: tuple[str, ...] = ()
    """What a reader must know of how the source was understood."""
    preparation: Preparation = AS_STORED
    """How the pixels were prepared when the source was opened."""
    kinds: Mapping[str, int] = field(default_factory=dict)
    """Number of images in the source that were not plain 8-bit gray or RGB, by kind: those that
    were converted, and those with an EXIF orientation (`ORIENTED`)."""

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise DataError(
                f"{self.source} holds {self.images.dtype} {list(self.images.shape)}; images must "
                "be uint8 [N, C, H, W]. ImageSet.from_array takes other layouts."
            )
        check_shape(self.images.shape, self.source)
        num_images = len(self.images)
        if len(self.names) != num_images:
            raise DataError(f"{self.source} has {num_images} images but {len(self.names)} names.")
        for what in ("labels", "captions", "groups", "repeats"):
            values = getattr(self, what)
            if values is not None and len(values) != num_images:
                raise DataError(f"{self.source} has {num_images} images but {len(values)} {what}.")

    @classmethod
    def from_array(
        cls,
        array: np.ndarray,
        names: Sequence[str] | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        source: str = "array",
    ) -> ImageSet:
        """Images that are already in memory.

        Args:
            array: uint8 [N, C, H, W], [N, H, W, C] or [N, H, W], with C = 1 (gray) or 3 (RGB). It
                is not copied.
            names: one per image; by default `source[index]`.
            labels: one class per image, counted from 0.
            source: what messages and reports call the images.

        Raises:
            DataError: another type or shape, a shape that can be read in two ways, or names or
                labels that do not match.

        Examples:
            >>> import numpy as np
            >>> from memaudit.data.images import ImageSet
            >>> ImageSet.from_array(np.zeros([50, 32, 32, 3], np.uint8), source="zeros")
            ImageSet(50 images, 3 x 32 x 32, no labels, source='zeros')
        """
        images = channels_first(np.asarray(array), source).view()
        images.flags.writeable = False
        if names is None:
            names = [f"{source}[{i}]" for i in range(len(images))]
        checked = None if labels is None else as_labels(labels, len(images), source)
        return cls(images, names, checked, source=source)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"ImageSet({self.summary}, source={short(self.source)!r})"

    @property
    def summary(self) -> str:
        """Number, shape and classes: `1,000 images, 3 x 32 x 32, 10 classes`."""
        C, H, W = self.image_shape
        num_classes = self.num_classes
        classes = counted(num_classes, "class", "classes") if num_classes else "no labels"
        return f"{counted(len(self), 'image', 'images')}, {C} x {H} x {W}, {classes}"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, C, H, W = self.images.shape
        return C, H, W

    @cached_property
    def num_classes(self) -> int:
        """Number of classes; 0 without labels."""
        return count_classes(self.labels, self.class_names)

    @cached_property
    def group_numbers(self) -> np.ndarray | None:
        """int64 [N]: the same number for images of one group, counted from 0 in the order of the
        groups' names; None where groups do not count."""
        if self.groups_from is None or self.groups is None:
            return None
        number = {name: i for i, name in enumerate(sorted(set(map(str, self.groups))))}
        return np.array([number[str(name)] for name in self.groups], dtype=np.int64)

    @property
    def num_groups(self) -> int | None:
        """Number of groups; None where they do not count."""
        numbers = self.group_numbers
        return None if numbers is None else int(numbers.max(initial=-1)) + 1

    def grouped(
        self, groups: Sequence[str], *, groups_from: str = "given", kind: str = "group"
    ) -> ImageSet:
        """The same images with groups that count in an audit.

        Args:
            groups: what each image belongs to, such as the name of a patient.
            groups_from: where that comes from, in a report.
            kind: what a group is: `patient`.

        Raises:
            DataError: there is not one name, not empty, for each image.

        Examples:
            >>> import numpy as np
            >>> from memaudit.data.images import ImageSet
            >>> slices = ImageSet.from_array(np.zeros([4, 8, 8, 1], np.uint8))
            >>> slices.grouped(["a", "a", "b", "b"], kind="patient").num_groups
            2
        """
        if not all(isinstance(name, str) and name for name in groups):
            raise DataError(f"Groups of {self.source} need a name each, a text that is not empty.")
        return replace(self, groups=list(groups), groups_from=groups_from, group_kind=kind)

    @property
    def groups_fingerprint(self) -> str | None:
        """SHA-256 of the groups' names in the order of the images; None where they do not count."""
        if self.groups_from is None or self.groups is None:
            return None
        return hashlib.sha256(json.dumps(list(self.groups)).encode()).hexdigest()

    @cached_property
    def independent_rows(self) -> np.ndarray:
        """Positions of one image of each group, drawn at random and always the same, int64
        ascending; all where groups do not count.

        Images of one group are not independent of each other, and these are as far as groups are.
        """
        order = np.random.default_rng(0).permutation(len(self))
        numbers = self.group_numbers
        if numbers is None:
            return np.arange(len(self))
        _, first = np.unique(numbers[order], return_index=True)
        return np.sort(order[first])

    def one_per_group(self) -> ImageSet:
        """The images at `independent_rows`."""
        return self if self.group_numbers is None else self.take(self.independent_rows)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the shape and the pixels in order; names and labels are not part of it."""
        return fingerprint_of(self.images)

    def take(self, indices: np.ndarray) -> ImageSet:
        """The images at `indices` (int64 [M]), in that order, with all that belongs to each."""
        indices = np.asarray(indices, dtype=np.int64)
        origin = indices if self.indices is None else self.indices[indices]
        return replace(
            self,
            images=self.images[indices],
            names=[self.names[i] for i in indices],
            labels=None if self.labels is None else self.labels[indices],
            captions=None if self.captions is None else [self.captions[i] for i in indices],
            groups=None if self.groups is None else [self.groups[i] for i in indices],
            repeats=None if self.repeats is None else self.repeats[indices],
            indices=origin,
        )


def fingerprint_of(images: np.ndarray) -> str:
    """SHA-256 of the shape and the pixels of images [N, C, H, W] in order, in hex."""
    digest = start_fingerprint(images.shape)
    # 16 MiB at a time: the images may be a map of a file larger than memory.
    rows = max(1, (16 << 20) // max(1, images[:1].nbytes))
    for start in range(0, len(images), rows):
        digest.update(np.ascontiguousarray(images[start : start + rows]).data)
    return digest.hexdigest()


def start_fingerprint(shape: Sequence[int]) -> hashlib._Hash:
    """The hash of a fingerprint, to be updated with the pixels of [N, C, H, W] in order."""
    return hashlib.sha256(f"uint8 {list(shape)}\n".encode())


def count_classes(labels: np.ndarray | None, class_names: Sequence[str]) -> int:
    """The number of classes of labels int64 [N]; 0 without labels."""
    if labels is None or not len(labels):
        return 0
    return max(int(labels.max()) + 1, len(class_names))


def channels_first(array: np.ndarray, what: str) -> np.ndarray:
    """An array of images as uint8 [N, C, H, W], without a copy.

    Args:
        array: uint8 [N, C, H, W], [N, H, W, C] or [N, H, W], with C = 1 (gray) or 3 (RGB).
        what: the array's name in an error.

    Raises:
        DataError: another type or shape, or a shape that can be read in two ways.
    """
    shape = list(array.shape)
    found = f"{what} is {array.dtype} {shape}"
    if array.dtype != np.uint8:
        raise DataError(
            f"{found}; images must be uint8 0…255. Convert x in [-1, 1] with "
            "memaudit.data.images.float_to_uint8, and x in [0, 1] with "
            "(255 * x).round().astype('uint8')."
        )
    order = layout_of(array.shape, found)
    return array[:, None] if order[0] == 0 else array.transpose(0, *order)


def layout_of(dims: tuple[int, ...], found: str) -> tuple[int, int, int]:
    """Which axes of an array of images are channels, height and width.

    Args:
        dims: of [N, C, H, W], [N, H, W, C] or [N, H, W], with C = 1 (gray) or 3 (RGB).
        found: the array's name and shape in an error.

    Returns:
        (1, 2, 3), (3, 1, 2), or (0, 1, 2) without an axis of channels.

    Raises:
        DataError: another shape, or one that can be read in two ways.
    """
    shape = list(dims)
    if len(shape) == 3:
        N, H, W = shape
        if W > 4 and (N == 3 or (H != W and N in (H, W))):
            other = (
                f"one RGB image of {H} x {W} pixels"
                if N == 3
                else f"{W if N == H else H} gray images of {N} x {N} pixels along another axis"
            )
            raise DataError(
                f"{found}, which could be {N} gray images of {H} x {W} pixels or {other}. Say "
                f"which with a fourth dimension: [{N}, 1, {H}, {W}] is the former."
            )
        if W > 4:
            return 0, 1, 2
        raise DataError(
            f"{found}, which could be {N} gray images of {H} x {W} pixels or one image of {N} x "
            f"{H} pixels with {W} channels. Say which with a fourth dimension: [{N}, 1, {H}, {W}] "
            f"or [1, {N}, {H}, {W}]."
        )
    is_first = len(shape) == 4 and shape[1] in (1, 3)
    is_last = len(shape) == 4 and shape[3] in (1, 3)
    if is_first and is_last:
        _, A, B, C = shape
        raise DataError(
            f"{found}, which could be [N, C, H, W] with images of {A} channels, {B} x {C} pixels, "
            f"or [N, H, W, C] with images of {C} channels, {A} x {B} pixels. Pad or crop the "
            "images so that height and width are neither 1 nor 3."
        )
    if not is_first and not is_last:
        raise DataError(
            f"{found}. It must be [N, H, W], [N, C, H, W] or [N, H, W, C] with 1 channel (gray) or "
            "3 (RGB). Transpose or reshape it."
        )
    return (1, 2, 3) if is_first else (3, 1, 2)


def check_shape(shape: tuple[int, ...], source: str) -> None:
    """Refuse [N, C, H, W] that no images have: other channels than gray or RGB, or no pixels."""
    _, C, H, W = shape
    if C not in (1, 3):
        raise DataError(f"{source} has {C} channels; gray (1) or RGB (3) is needed.")
    if H < 1 or W < 1:
        raise DataError(f"{source} holds images of {H} x {W} pixels, which show nothing.")


MAX_CLASSES = 10**6
"""Most classes of a set that has fewer images: a count is kept for each."""


def as_labels(labels: Any, num_images: int, source: str) -> np.ndarray:
    """`labels` as int64 [N], or a DataError that says what is wrong with them."""
    if isinstance(labels, list | tuple):
        # Before numpy makes texts, floats or objects of them, or fails at it.
        wrong = [label for label in labels if type(label) is bool or not _is_integer(label)]
        if wrong:
            raise DataError(f"{source} holds the label {shown(wrong[0])}; integers are needed.")
        low, high = min(labels, default=0), max(labels, default=0)
    else:
        labels = np.asarray(labels)
        if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
            raise DataError(
                f"The labels of {source} are {labels.dtype} {list(labels.shape)}; one integer per "
                f"image is needed, [{num_images}]."
            )
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if len(labels) != num_images:
        raise DataError(f"{source} holds {num_images} images but {len(labels)} labels.")
    if low < 0:
        raise DataError(f"{source} holds the label {shown(low)}; labels count from 0.")
    if high >= max(MAX_CLASSES, num_images):
        raise DataError(
            f"{source} holds the label {shown(high)}; labels count from 0, and at most "
            f"{max(MAX_CLASSES, num_images):,} classes make sense here. Number the classes anew."
        )
    return np.asarray(labels, np.int64)


def number_classes(names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int64 [N] for the name of each image's class, and the names of all classes, sorted."""
    class_names = sorted(set(names))
    index = {class_name: i for i, class_name in enumerate(class_names)}
    return np.array([index[name] for name in names], dtype=np.int64), tuple(class_names)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer)


def uint8_to_float(images: Tensor) -> Tensor:
    """uint8 0…255 of any shape → float32 in [-1, 1]: x = u / 127.5 - 1."""
    import torch

    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, got {images.dtype}")
    return images.to(torch.float32) / 127.5 - 1


def float_to_uint8(x: Tensor) -> Tensor:
    """Floating x of any shape, data in [-1, 1] → uint8: u = floor(clip(127.5·x + 128, 0, 255)).

    The published pipeline rounds this way before it measures. -1 → 0, 0 → 128, 1 → 255.
    """
    import torch

    if not x.is_floating_point():
        raise ValueError(f"x must be floating, got {x.dtype}")
    return (x * 127.5 + 128).clip(0, 255).to(torch.uint8)
