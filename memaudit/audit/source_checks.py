"""What a source and training images must have in common to be audited together."""

from typing import Literal

import numpy as np

from memaudit.data.images import ImageSet
from memaudit.data.preparation import ORIENTED
from memaudit.errors import ConfigError, DataError
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.denoiser import Denoiser, image_shape
from memaudit.wording import joined


def check_comparable(source: Checkpoint | ImageSet, data: ImageSet) -> None:
    """Refuse a source without images, or whose images have another shape than the training images.

    Raises:
        DataError: before anything is sampled; with both shapes if they differ.
    """
    check_same_shape(source, data)
    if isinstance(source, ImageSet) and not len(source):
        raise DataError(f"{source.source} holds no images. At least 1 generated image is needed.")
    if len(data) < 2:
        raise DataError(
            f"{data.source} holds {len(data)} image. The distance ratio needs a second neighbor, "
            "and a control more than one image, so at least 2 are required."
        )


def check_same_shape(source: Checkpoint | ImageSet, data: ImageSet) -> None:
    """Refuse images of another shape than those of a source.

    Raises:
        DataError: with both shapes, and what makes them alike.
    """
    if isinstance(source, ImageSet):
        name, shape = source.source, source.image_shape
    else:
        name, shape = source.path, image_shape(source.network)
    if shape != data.image_shape:
        wanted = {1: "gray", 3: "RGB"}.get(shape[0], f"{shape[0]}-channel")
        C, H, W = shape
        advice = f"Pass {wanted} images of the same size."
        options = []
        if (H, W) != data.image_shape[1:]:
            options.append(f"{{resolution}} {H}" if H == W else f"{{resolution}} {H}x{W}")
            if data.image_shape[1] * W != data.image_shape[2] * H:
                options.append("{fit}")
        if C != data.image_shape[0] and C in (1, 3):
            options.append(f"{{mode}} {'gray' if C == 1 else 'rgb'}")
        if options:
            advice = f"Prepare all of them alike with {joined(options)}."
        raise DataError(
            f"{name} gives images of {_described(shape)} but the images in {data.source} are "
            f"{_described(data.image_shape)}. They must be alike. {advice}",
            field=("resolution", "fit", "mode"),
        )


def check_may_pass(source: Checkpoint | ImageSet, data: ImageSet) -> None:
    """Refuse what under a limit would hide copies.

    Raises:
        ConfigError: images that are stored turned; a model that lacks classes of the images.
    """
    if isinstance(source, ImageSet):
        check_orientation(source)
    else:
        check_knows_classes(source.network, data)


def check_orientation(source: ImageSet) -> None:
    """Refuse images to be judged under a limit that their files say are stored turned.

    A copy that is stored turned, with the orientation that shows it upright, would not be counted.

    Raises:
        ConfigError: some have an EXIF orientation that was not applied.
    """
    turned = source.kinds.get(ORIENTED, 0)
    if turned and source.preparation.exif == "ignore":
        raise ConfigError(
            f"{turned:,} of the images in {source.source} have an EXIF orientation: they are "
            "stored turned, and a copy among them would not be counted. Give {exif} apply, or save "
            "them upright without it.",
            field="exif",
        )


def check_fits(denoiser: Denoiser, images: ImageSet) -> None:
    """Refuse images that a model cannot be tried on: another shape, no labels, or a single image.

    Raises:
        DataError: with what the model needs.
    """
    shape = image_shape(denoiser)
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


def weigh_classes(
    denoiser: Denoiser, data: ImageSet, frequencies: Literal["uniform", "data"]
) -> tuple[float, ...] | None:
    """How often each class of a model is to be drawn.

    Args:
        denoiser: the model.
        data: its training images.
        frequencies: `uniform` for all classes alike, `data` for as often as in the training images.

    Returns:
        A number per class, or None for all alike.

    Raises:
        ConfigError: the model has no classes.
        DataError: the training images have no labels, or more classes than the model.
    """
    if frequencies == "uniform":
        return None
    if not denoiser.label_dim:
        raise ConfigError(
            "{class_frequencies} is data, but the model has no classes. Leave it out.",
            field="class_frequencies",
        )
    if data.labels is None or data.num_classes > denoiser.label_dim:
        raise DataError(
            f"{{class_frequencies}} is data, but {data.source} has {data.num_classes or 'no'} "
            f"classes and the model has {denoiser.label_dim}. Pass the labels that the model was "
            "trained with, or leave it out.",
            field="class_frequencies",
        )
    counts = np.bincount(data.labels, minlength=denoiser.label_dim)
    return tuple(float(count) for count in counts)


def _described(shape: tuple[int, int, int]) -> str:
    return f"{list(shape)} (D = {int(np.prod(shape))})"


def check_knows_classes(denoiser: Denoiser, data: ImageSet) -> None:
    """Refuse to judge a model under a limit that may have a class which it is never asked for.

    Raises:
        ConfigError: the training images have classes that the model has not.
    """
    for warning in class_warnings(denoiser, data):
        raise ConfigError(
            f"{warning} Open the model with all its classes, or give {{labels_from}} none if those "
            "of the images are others.",
            field="labels_from",
        )


def class_warnings(denoiser: Denoiser, data: ImageSet) -> tuple[str, ...]:
    """What a user should know where the training images have classes that the model has not."""
    if not denoiser.label_dim or data.num_classes <= denoiser.label_dim:
        return ()
    return (
        f"The training images have {data.num_classes:,} classes, but the model "
        f"{denoiser.label_dim:,}. If those are its own, it is never asked for the others, as where "
        "its last class was taken for none (null_label).",
    )
