"""Image encoders that the user provides as TorchScript files: images → feature vectors.

Unlike checkpoints, which are read without running anything in them, a TorchScript file *is* a
program: loading and calling it runs its code. Open only files that you trust. What is run are the
very bytes that were hashed, and a call that never ends is given up after a time limit.

Legend: B images, F features.
"""

import hashlib
import io
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from memaudit.audit.neighbors.config import PreprocessingName
from memaudit.data.room import free_memory
from memaudit.errors import CheckpointError, DataError
from memaudit.files import read_regular
from memaudit.models.arithmetic import fp32_products
from memaudit.models.memory import GroupSize, is_out_of_memory
from memaudit.time_limit import call_within

ENCODING_BATCH = 64
MAX_SECONDS = 600
"""Longest time for the encoding of ENCODING_BATCH images, or for loading. The largest encoders in
use need a quarter of it on one core of a CPU."""
MAX_BYTES = 16 << 30
"""Largest file, all of it read into memory."""
MAX_SOURCE = 64 << 20
"""Most bytes of source code that are searched for what runs when a file is loaded."""
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


@dataclass(frozen=True)
class Preprocessing:
    """What an encoder is given: (u/255 - mean) / std for bytes u, after resizing."""

    mean: tuple[float, ...]
    """One number, or one per channel."""
    std: tuple[float, ...]
    resize: int | None = None
    """Pixels of the shorter edge; None keeps the images' own size."""


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PREPROCESSING: dict[PreprocessingName, Preprocessing] = {
    "unit": Preprocessing(mean=(0.0,), std=(1.0,)),  # [0, 1]
    "signed": Preprocessing(mean=(0.5,), std=(0.5,)),  # [-1, 1]
    "imagenet": IMAGENET,
    # Pizzi et al., "A self-supervised descriptor for image copy detection", arXiv:2202.10261.
    "sscd": replace(IMAGENET, resize=288),
}


@dataclass(frozen=True)
class Encoder:
    """A TorchScript module with the preprocessing that it was made for."""

    path: str
    sha256: str
    """SHA-256 of the bytes that were loaded."""
    preprocessing: Preprocessing
    device: torch.device
    module: torch.jit.ScriptModule
    group: GroupSize
    """Images that are encoded at a time."""

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
        channels = images.shape[1]
        if len(self.preprocessing.mean) not in (1, channels):
            raise DataError(
                f"The images have {channels} channel(s), but the preprocessing is for "
                f"{len(self.preprocessing.mean)}. Use unit or signed, with an encoder for such "
                "images."
            )
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
        x = self._preprocess(images)
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
        if (
            not isinstance(features, Tensor)
            or not features.is_floating_point()
            or features.ndim != 2
            or len(features) != len(images)
        ):
            raise CheckpointError(
                f"{self.path} returns {_form(features)} for {len(images)} images; one vector per "
                f"image is needed, floats [{len(images)}, F]."
            )
        if not features.isfinite().all():
            raise CheckpointError(
                f"{self.path} returns numbers that are not finite. Check the preprocessing."
            )
        return features.to(torch.float32).cpu().numpy()

    def _call(self, x: Tensor) -> object:
        with torch.no_grad():
            return self.module(x)

    def _preprocess(self, images: np.ndarray) -> Tensor:
        """uint8 → float32 [B, C, H, W], as the encoder needs it."""
        x = torch.from_numpy(np.array(images)).to(self.device).to(torch.float32) / 255
        if self.preprocessing.resize is not None:
            H, W = x.shape[2:]
            scale = self.preprocessing.resize / min(H, W)
            size = (round(H * scale), round(W * scale))
            x = interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (
            torch.tensor(values, device=self.device).view(-1, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        return (x - mean) / std


def open_encoder(
    path: str | Path,
    *,
    preprocessing: PreprocessingName = "unit",
    resize: int | None = None,
    device: str | torch.device = "cpu",
) -> Encoder:
    """Open a TorchScript file (`torch.jit.save`). **This runs code of the file.**

    Args:
        path: the file. Called with float32 [B, C, H, W], the encoder returns floats [B, F].
        preprocessing: "unit" for values in [0, 1], "signed" for [-1, 1], "imagenet" for ImageNet's
            mean and standard deviation, "sscd" for the same at 288 pixels.
        resize: pixels of the shorter edge; None leaves this to the preprocessing.
        device: where to run the encoder.

    Raises:
        CheckpointError: the file is missing, not a regular one, not TorchScript, or does not load
            within MAX_SECONDS.
        ValueError: the preprocessing is unknown, or the size is below 1.
    """
    if preprocessing not in PREPROCESSING:
        raise ValueError(
            f"preprocessing must be one of {', '.join(PREPROCESSING)}; got {preprocessing!r}"
        )
    if resize is not None and resize < 1:
        raise ValueError(f"resize must be at least 1, got {resize}")
    chosen = PREPROCESSING[preprocessing]
    try:
        free = free_memory()
        content = read_regular(path, MAX_BYTES if free is None else min(MAX_BYTES, free))
        if _runs_when_loaded(content):
            _try_loading(content)
        module = _load(content, device)
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(
            f"{path} has not loaded within {MAX_SECONDS:,} seconds: its code may never end."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # the file's code may raise anything
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{path} is not a TorchScript file ({_last_line(error, 0)}). Save the encoder "
            "with torch.jit.trace(encoder, example).save(path)."
        ) from error
    return Encoder(
        str(path),
        hashlib.sha256(content).hexdigest(),
        chosen if resize is None else replace(chosen, resize=resize),
        torch.device(device),
        module,
        GroupSize(ENCODING_BATCH, device),
    )


def check_features(
    images: np.ndarray, encode: Callable[[np.ndarray], np.ndarray], path: str
) -> None:
    """Refuse features that could not find a copy: random ones, constant ones, hashes.

    An encoder that is made to hide copies may still pass; these are the faults that need no intent.

    Args:
        images: training images, uint8 [N, C, H, W]; some are tried.
        encode: their vectors [B, F], as the search compares them.
        path: the encoder's name, for messages.

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
            f"{path} returns other features when it is given the same images again, in another "
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
            f"{path} returns the same features for images that differ: every image would be as "
            "near as a copy. Check the preprocessing that it needs."
        )
    nearest = distance.argmin(1)
    if 2 * different[np.arange(len(chosen)), nearest].sum() > len(chosen):
        raise CheckpointError(
            f"{path} does not recognize images with noise of one gray level: of {len(chosen)} "
            "training images, most are then nearer to another one than to themselves. Copies would "
            "not be found. Check the preprocessing that it needs."
        )


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """‖a − b‖² of all pairs of float64 [N, F] and [M, F]: float64 [N, M]."""
    return np.stack([np.square(b - vector).sum(1) for vector in a])


def _load(content: bytes, device: str | torch.device) -> torch.jit.ScriptModule:
    """Run the code in a file that makes its module."""
    with warnings.catch_warnings():
        # Deprecated in favor of torch.export, but what published encoders are stored as.
        warnings.simplefilter("ignore", FutureWarning)
        load: Callable[..., torch.jit.ScriptModule] = torch.jit.load
        return load(io.BytesIO(content), map_location=device).eval()


def _runs_when_loaded(content: bytes) -> bool:
    """Whether loading a file may run code in it: methods named `__setstate__` alone do."""
    if b"PK\5\6" not in content:  # no archive, hence nothing that torch loads
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            sources = [entry for entry in archive.infolist() if entry.filename.endswith(".py")]
            return sum(entry.file_size for entry in sources) > MAX_SOURCE or any(
                b"__setstate__" in archive.read(entry) for entry in sources
            )
    except Exception:  # a damaged file raises many kinds; torch reads archives in its own way
        return True


def _try_loading(content: bytes) -> None:
    """Load a file in another process, since torch holds Python's lock while its code runs.

    Raises:
        RuntimeError: it does not load.
        subprocess.TimeoutExpired: it does not load within MAX_SECONDS.
    """
    code = "import io, sys, torch; torch.jit.load(io.BytesIO(sys.stdin.buffer.read()), 'cpu')"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=content,
        capture_output=True,
        timeout=MAX_SECONDS,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"loading ended with {done.returncode}")


def _last_line(error: Exception, line: int = -1) -> str:
    """A line of an error's message, the last where the file's own code raised it."""
    return (str(error).strip() or type(error).__name__).splitlines()[line]


def _form(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"a {type(value).__name__}"
