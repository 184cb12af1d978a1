"""Image encoders that the user provides as TorchScript files: images → feature vectors.

Unlike checkpoints, which are read without running anything in them, a TorchScript file *is* a
program: loading and calling it runs its code. Open only files that you trust.

Legend: B images, F features.
"""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from memaudit.audit.neighbors.config import PreprocessingName
from memaudit.errors import CheckpointError, DataError

ENCODING_BATCH = 64


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
    """SHA-256 of the file."""
    preprocessing: Preprocessing
    device: torch.device
    module: torch.jit.ScriptModule

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
        starts = range(0, max(1, len(images)), ENCODING_BATCH)
        return np.concatenate([self._encode(images[i : i + ENCODING_BATCH]) for i in starts])

    def _encode(self, images: np.ndarray) -> np.ndarray:
        x = self._preprocess(images)
        try:
            with torch.no_grad():
                features = self.module(x)
        except Exception as error:  # whatever the user's code raises
            raise CheckpointError(
                f"{self.path} cannot encode images of float32 {list(x.shape)}: "
                f"{str(error).strip().splitlines()[-1]}. Check the size and the preprocessing that "
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
        CheckpointError: the file is missing or not TorchScript.
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
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        with warnings.catch_warnings():
            # Deprecated in favor of torch.export, but what published encoders are stored as.
            warnings.simplefilter("ignore", FutureWarning)
            load: Callable[..., torch.jit.ScriptModule] = torch.jit.load
            module = load(str(path), map_location=device).eval()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} is not a TorchScript file ({str(error).splitlines()[0]}). Save the encoder "
            "with torch.jit.trace(encoder, example).save(path)."
        ) from error
    return Encoder(
        str(path),
        sha256,
        chosen if resize is None else replace(chosen, resize=resize),
        torch.device(device),
        module,
    )


def _form(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"a {type(value).__name__}"
