"""What is audited: a checkpoint or the optimum, which generate images, or images as they are."""

import zipfile
from pathlib import Path

import numpy as np

from memaudit.data.images import ImageSet
from memaudit.data.sources import open_images
from memaudit.errors import DataError
from memaudit.models.checkpoints import Checkpoint, open_checkpoint
from memaudit.models.denoiser import Denoiser
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.progress import Progress, silent

OPTIMUM = "optimum"
"""The SOURCE that names no file: the closed-form optimum of the training images."""


def optimum_of(data: ImageSet, *, conditional: bool = False, device: str = "cpu") -> Checkpoint:
    """The closed-form optimum of `data`, in the place of a trained model.

    Args:
        data: training images, square.
        conditional: one optimum a class, by the images' labels.
        device: where it computes.

    Raises:
        DataError: images that are not square, or no labels for a conditional optimum.
    """
    if conditional and data.labels is None:
        raise DataError(
            f"One class of the optimum was asked for, but {data.source} has no labels. Use images "
            "with labels, or leave the class out."
        )
    optimum = ClosedFormOptimum(
        data.images,
        data.labels if conditional else None,
        label_dim=data.num_classes if conditional else None,
        device=device,
    )
    return Checkpoint(
        network=optimum,
        config={},
        provenance={"optimum_of": data.source, "conditional": conditional},
        sha256=data.fingerprint,
        format="closed-form optimum",
        path=OPTIMUM,
    )


def open_source(
    path: str | Path, *, device: str = "cpu", arch: str | None = None, progress: Progress = silent
) -> Checkpoint | ImageSet:
    """Open SOURCE as a checkpoint or as generated images, told apart by content.

    Args:
        path: whatever `open_checkpoint` opens, or a folder, zip, npz or npy of generated images.
        device: where the checkpoint's network goes.
        arch: preset for weights that come without their configuration.
        progress: told how far the decoding of images is.

    Raises:
        CheckpointError: a checkpoint that is missing, broken or unknown.
        DataError: images that are missing or broken.
    """
    if holds_images(Path(path)):
        return open_images(path, progress=progress)
    return open_checkpoint(path, device=device, arch=arch)


def holds_images(path: Path) -> bool:
    """True where `path` is a folder, zip or array of images rather than a checkpoint."""
    if path.is_dir():
        return not (path / "model_index.json").is_file() and not (path / "config.json").is_file()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:  # a torch file is a zip too, with its pickle inside
        return not any(name.endswith("data.pkl") for name in archive.namelist())


def check_comparable(source: Checkpoint | ImageSet, name: str, data: ImageSet) -> None:
    """Refuse a source whose images have another shape than the training images.

    Raises:
        DataError: with both shapes, before anything is sampled.
    """
    if isinstance(source, ImageSet):
        shape = source.image_shape
    else:
        network = source.network
        shape = (network.img_channels, network.img_resolution, network.img_resolution)
    if shape != data.image_shape:
        wanted = {1: "gray", 3: "RGB"}.get(shape[0], f"{shape[0]}-channel")
        advice = f"Pass {wanted} images of the same size."
        if shape[0] == data.image_shape[0] and shape[1] == shape[2]:
            advice = f"Square images are resized by --resolution {shape[2]}."
        raise DataError(
            f"{name} gives images of {_described(shape)} but the images in {data.source} are "
            f"{_described(data.image_shape)}. They must be alike: {advice}"
        )
    if len(data) < 2:
        raise DataError(
            f"{data.source} holds {len(data)} image. The distance ratio needs a second neighbor, "
            "so at least 2 are required."
        )


def check_fits(denoiser: Denoiser, images: ImageSet) -> None:
    """Refuse images that a model cannot be tried on: of another shape, unlabeled, or one alone.

    Raises:
        DataError: with what the model needs.
    """
    shape = (denoiser.img_channels, denoiser.img_resolution, denoiser.img_resolution)
    if images.image_shape != shape:
        raise DataError(
            f"{images.source} holds images of {list(images.image_shape)} but the model makes "
            f"{list(shape)}; pass images of the model's shape."
        )
    if len(images) < 2:
        raise DataError(f"{images.source} holds {len(images)} image; an interval needs 2 or more.")
    if denoiser.label_dim and (images.labels is None or images.num_classes > denoiser.label_dim):
        raise DataError(
            f"{images.source} has {images.num_classes or 'no'} classes but the model has "
            f"{denoiser.label_dim}; pass the labels that the model was trained with."
        )


def _described(shape: tuple[int, int, int]) -> str:
    return f"{list(shape)} (D = {int(np.prod(shape))})"
