"""Encoders: images → feature vectors. An encoder may be any callable of the user's own.

Two come ready-made: networks of published weights, which are read without running anything in them
(`published_encoders.py`), and TorchScript files, which are programs (`torchscript.py`).

Legend: B images, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from memaudit.audit.neighbors.preprocessing import Preprocessing
from memaudit.errors import CheckpointError
from memaudit.models.arithmetic import fp32_products
from memaudit.models.memory import GroupSize, is_out_of_memory
from memaudit.time_limit import call_within

ENCODING_BATCH = 64
MAX_SECONDS = 600
"""Longest time for the encoding of ENCODING_BATCH images, or for loading. The largest encoders in
use need a quarter of it on one core of a CPU."""
CHECKED = 32
"""Training images that an encoder is tried on; fewer if they are large."""
CHECKED_VALUES = 1 << 24
REPEATS = 1e-4
"""Vectors of the same image may differ by this share of ‖a‖² + ‖b‖²: 1 % of their length, which is
more than any arithmetic does."""
SAME = 1e-10
"""Vectors nearer than this share of ‖a‖² + ‖b‖² are equal: an encoder's features of an image differ
that much from batch to batch."""
NEAR = 8
"""RMS distance in gray levels within which an image is found as well as the one sought."""


@runtime_checkable
class Encoder(Protocol):
    """Describes images by vectors, and says what it is."""

    @property
    def name(self) -> str:
        """What messages and reports call it."""

    @property
    def path(self) -> str | None:
        """The file that it was read from; None for a function."""

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the bytes that decide its features; None where they are not known."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What it does to images first; None where only it knows."""

    @property
    def device(self) -> torch.device:
        """Where it runs, and the search with it."""

    @property
    def is_program(self) -> bool:
        """Whether it is code of the user's, not weights of a network that is known."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Encode images uint8 [B, C, H, W]; float32 [B, F], one finite vector per image."""


@dataclass(frozen=True)
class NetworkEncoder:
    """A network with the preprocessing that it was made for."""

    name: str
    """That of published weights, or the path of a program."""
    path: str
    """The file that it was read from."""
    sha256: str
    """SHA-256 of the bytes that were loaded."""
    preprocessing: Preprocessing
    device: torch.device
    module: Callable[[Tensor], object]
    """float32 [B, C, H, W] on the device → floats [B, F]."""
    is_program: bool
    group: GroupSize = field(init=False)
    """Images that are encoded at a time."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", GroupSize(ENCODING_BATCH, self.device))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Encode.

        Args:
            images: uint8 [B, C, H, W].

        Returns:
            float32 [B, F].

        Raises:
            DataError: the images have another number of channels than the preprocessing.
            CheckpointError: the encoder fails, or returns anything but a finite vector per image.
        """
        if not len(images):
            return self._encode(images)
        first, features = 0, []
        while first < len(images):
            part = images[first : first + self.group.size]
            found = self.group.attempt(partial(self._encode_group, part))
            if found is not None:
                features.append(found)
                first += len(part)
        return np.concatenate(features)

    def _encode_group(self, images: np.ndarray) -> np.ndarray:
        """Encode some images and fill up the group, whose size decides how kernels round."""
        rows = np.minimum(np.arange(self.group.size), len(images) - 1)
        return self._encode(images[rows])[: len(images)]

    def _encode(self, images: np.ndarray) -> np.ndarray:
        x = self.preprocessing(images, self.device)
        try:
            with fp32_products(False):
                features = call_within(MAX_SECONDS, self._call, x)
        except TimeoutError as error:
            raise CheckpointError(
                f"{self.path} has not encoded {len(images)} images of float32 {list(x.shape)} "
                f"within {MAX_SECONDS:,} seconds. It may never end; if it is only slow, run it on "
                "a GPU, or give it smaller images."
            ) from error
        except Exception as error:  # whatever the user's code raises
            if is_out_of_memory(error):
                raise
            raise CheckpointError(
                f"{self.path} cannot encode images of float32 {list(x.shape)}: "
                f"{_last_line(error)}. Check the size and the preprocessing that "
                "it needs."
            ) from error
        return checked_features(features, len(images), self.path)

    def _call(self, x: Tensor) -> object:
        with torch.no_grad():
            return self.module(x)


@dataclass(frozen=True)
class FunctionEncoder:
    """A callable of the user's own as an encoder."""

    function: Callable[[np.ndarray], object]
    """uint8 [B, C, H, W] → floats [B, F], an array or a tensor."""
    device: torch.device = torch.device("cpu")
    """Where the search runs."""
    path: None = None
    sha256: None = None
    preprocessing: None = None
    is_program: bool = True

    @property
    def name(self) -> str:
        """The function's own name."""
        module = getattr(self.function, "__module__", None) or type(self.function).__module__
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return f"{module}.{name}"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Encode images uint8 [B, C, H, W]; float32 [B, F].

        Raises:
            CheckpointError: the function fails, or returns anything but a finite vector per image.
        """
        parts = []
        for first in range(0, max(1, len(images)), ENCODING_BATCH):
            part = np.array(images[first : first + ENCODING_BATCH])
            try:
                features = self.function(part)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                raise CheckpointError(
                    f"{self.name} cannot encode images uint8 {list(part.shape)}: "
                    f"{_last_line(error)}."
                ) from error
            if isinstance(features, np.ndarray):
                features = torch.from_numpy(features)
            parts.append(checked_features(features, len(part), self.name))
        return np.concatenate(parts)


def as_encoder(
    encoder: Encoder | Callable[[np.ndarray], object], *, device: str | torch.device = "cpu"
) -> Encoder:
    """An encoder as it is, or a callable as one.

    Args:
        encoder: an encoder, or any callable uint8 [B, C, H, W] → floats [B, F].
        device: where the search runs for a callable.
    """
    if isinstance(encoder, Encoder):
        return encoder
    return FunctionEncoder(encoder, torch.device(device))


def checked_features(features: object, number: int, name: str) -> np.ndarray:
    """What an encoder returned, as float32 [number, F].

    Raises:
        CheckpointError: it is anything but a finite vector per image.
    """
    if (
        not isinstance(features, Tensor)
        or not features.is_floating_point()
        or features.ndim != 2
        or len(features) != number
    ):
        raise CheckpointError(
            f"{name} returns {_form(features)} for {number} images; one vector per image is "
            f"needed, floats [{number}, F]."
        )
    features = features.detach().to(torch.float32)
    if not features.isfinite().all():
        raise CheckpointError(
            f"{name} returns numbers that are not finite. Check the preprocessing."
        )
    return features.cpu().numpy()


def check_features(
    images: np.ndarray, encode: Callable[[np.ndarray], np.ndarray], name: str
) -> None:
    """Refuse features that could not find a copy: random ones, constant ones, hashes.

    An encoder that is made to hide copies may still pass; these are the faults that need no intent.

    Args:
        images: training images, uint8 [N, C, H, W]; some are tried.
        encode: their vectors [B, F], as the search compares them.
        name: the encoder's, for messages.

    Raises:
        CheckpointError: the vectors of an image do not repeat, most images have the same one, or
            an image with noise of one gray level is nearer to other images than to itself.
    """
    number = max(2, min(CHECKED, CHECKED_VALUES // images[0].size))
    rows = np.unique(np.linspace(0, len(images) - 1, number).round().astype(int))
    chosen = np.array(images[rows])
    vectors = encode(chosen).astype(np.float64)
    again = encode(chosen[::-1]).astype(np.float64)[::-1]
    size = np.square(vectors).sum(1) + np.square(again).sum(1)
    if (np.square(vectors - again).sum(1) > REPEATS * size).any():
        raise CheckpointError(
            f"{name} returns other features when it is given the same images again, in another "
            "order: copies would not be found. Save it in evaluation mode, without random parts."
        )
    rng = np.random.default_rng(0)
    noise = rng.integers(-1, 2, chosen.shape)
    noisy = (chosen + noise).clip(0, 255).astype(np.uint8)
    distance = _squared_distances(encode(noisy).astype(np.float64), vectors)
    apart = _squared_distances(*(chosen.reshape(len(chosen), -1).astype(np.float64),) * 2)
    different = apart > chosen[0].size * NEAR**2
    same = _squared_distances(vectors, vectors) <= SAME * (size[:, None] + size) / 2
    if (different & same).sum() > 0.5 * different.sum():
        raise CheckpointError(
            f"{name} returns the same features for images that differ: every image would be as "
            "near as a copy. Check the preprocessing that it needs."
        )
    nearest = distance.argmin(1)
    if 2 * different[np.arange(len(chosen)), nearest].sum() > len(chosen):
        raise CheckpointError(
            f"{name} does not recognize images with noise of one gray level: of {len(chosen)} "
            "training images, most are then nearer to another one than to themselves. Copies would "
            "not be found. Check the preprocessing that it needs."
        )


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """‖a − b‖² of all pairs of float64 [N, F] and [M, F]: float64 [N, M]."""
    return np.stack([np.square(b - vector).sum(1) for vector in a])


def _last_line(error: Exception) -> str:
    """The last line of an error's message, where the failing code's own is."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _form(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"a {type(value).__name__}"
