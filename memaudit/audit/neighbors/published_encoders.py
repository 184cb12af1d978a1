"""Published encoders by name, and the door through which every encoder is opened.

To add one, write what reads its weights in models/encoders/, and add a name to `PublishedName` with
the file that it needs (config.py), and one line to `PUBLISHED`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from memaudit.audit.neighbors.config import WEIGHTS, PreprocessingName, PublishedName, is_published
from memaudit.audit.neighbors.encoder import Encoder, NetworkEncoder
from memaudit.audit.neighbors.preprocessing import CLIP, DINOV2, PREPROCESSING, Preprocessing
from memaudit.audit.neighbors.torchscript import open_torchscript
from memaudit.models.encoders.published_weights import OpenedNetwork


@dataclass(frozen=True)
class PublishedCut:
    """A similarity at which others begin to call two images copies of each other."""

    similarity: float
    """Cosine of the features."""
    source: str
    """Where it comes from, in a few words."""


@dataclass(frozen=True)
class PublishedEncoder:
    """A network whose weights are published, and how it is used."""

    open: Callable[[Path], OpenedNetwork]
    """Reads the weights."""
    preprocessing: Preprocessing
    """Resized and cropped to the network's own size, if it has only one."""
    cuts: tuple[PublishedCut, ...] = ()


def _open_sscd(path: Path) -> OpenedNetwork:
    from memaudit.models.encoders.sscd import open_sscd  # torchvision's networks load slowly

    return open_sscd(path)


def _open_dinov2(path: Path) -> OpenedNetwork:
    from memaudit.models.encoders.vision_transformer import open_dinov2

    return open_dinov2(path)


def _open_clip(path: Path) -> OpenedNetwork:
    from memaudit.models.encoders.vision_transformer import open_clip

    return open_clip(path, activation="quick_gelu")


def _open_openclip(path: Path) -> OpenedNetwork:
    from memaudit.models.encoders.vision_transformer import open_clip

    return open_clip(path, activation="gelu")


PUBLISHED: Mapping[PublishedName, PublishedEncoder] = {
    "sscd": PublishedEncoder(
        _open_sscd,
        PREPROCESSING["sscd"],
        (PublishedCut(0.75, "90 % precision on DISC2021, arXiv:2202.10261"),),
    ),
    "sscd-224": PublishedEncoder(
        _open_sscd,
        PREPROCESSING["sscd-224"],
        tuple(PublishedCut(cut, "in use for generated images") for cut in (0.5, 0.6, 0.7)),
    ),
    "dinov2": PublishedEncoder(_open_dinov2, DINOV2),
    "clip": PublishedEncoder(_open_clip, CLIP),
    "openclip": PublishedEncoder(_open_openclip, CLIP),
}


def published_cuts(encoder: Encoder) -> tuple[PublishedCut, ...]:
    """The cuts that others use with an encoder; none for one of the user's own."""
    if encoder.is_program or not is_published(encoder.name):
        return ()
    return PUBLISHED[encoder.name].cuts


def open_encoder(
    encoder: str | Path,
    weights: str | Path | None = None,
    *,
    preprocessing: PreprocessingName | None = None,
    resize: int | None = None,
    device: str | torch.device = "cpu",
) -> NetworkEncoder:
    """Open a published encoder, or a TorchScript file. **The latter runs code of the file.**

    Args:
        encoder: "sscd", "sscd-224", "dinov2", "clip" or "openclip"; or the path of a TorchScript
            file, which is called with float32 [B, C, H, W] and returns floats [B, F].
        weights: the file of a published encoder's weights, which is read without running anything.
        preprocessing: for a TorchScript file: "unit" for values in [0, 1] (used if None), "signed"
            for [-1, 1], "imagenet" for ImageNet's mean and standard deviation, "sscd" for the same
            at 288 pixels, "sscd-224" for [-1, 1] at 256 pixels of which the middle 224 are taken.
        resize: for a TorchScript file: pixels of the shorter edge; None leaves this to the
            preprocessing.
        device: where to run the encoder.

    Raises:
        CheckpointError: the file is missing, not a regular one, holds something else, or, where it
            is a program, does not load within MAX_SECONDS.
        ValueError: the preprocessing is unknown, the size is below 1, a published encoder lacks its
            weights or is given another preprocessing, or weights are given for a program.
    """
    name = str(encoder)
    if isinstance(encoder, str) and is_published(encoder):
        if weights is None:
            raise ValueError(f"weights must be given for {name}: {WEIGHTS[encoder]}")
        if preprocessing is not None or resize is not None:
            raise ValueError(
                f"{name} has its own preprocessing; leave out preprocessing and resize"
            )
        published = PUBLISHED[encoder]
        opened = published.open(Path(weights))
        prepared = published.preprocessing
        if opened.side is not None:
            resized = prepared.resize or opened.side
            prepared = replace(prepared, resize=resized, crop=opened.side)
        return NetworkEncoder(
            name=name,
            path=str(weights),
            sha256=opened.sha256,
            preprocessing=prepared,
            device=torch.device(device),
            module=opened.network.to(device),
            is_program=False,
        )
    if weights is not None:
        raise ValueError(f"weights are for {', '.join(PUBLISHED)}; {name} has its own")
    chosen = "unit" if preprocessing is None else preprocessing
    if chosen not in PREPROCESSING:
        raise ValueError(f"preprocessing must be one of {', '.join(PREPROCESSING)}; got {chosen!r}")
    if resize is not None and resize < 1:
        raise ValueError(f"resize must be at least 1, got {resize}")
    prepared = PREPROCESSING[chosen]
    if resize is not None:
        prepared = replace(prepared, resize=resize)
        if prepared.crop is not None and resize < prepared.crop:
            raise ValueError(f"resize must be at least {prepared.crop} with {chosen}, got {resize}")
    return open_torchscript(encoder, prepared, device=device)
