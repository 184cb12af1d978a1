"""What is audited: a model, which generates images, or images that exist already."""

import hashlib
import mmap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from memaudit.data.doubts import doubts_about
from memaudit.data.images import ImageSet
from memaudit.data.layout import Layout
from memaudit.data.path_ranges import is_range
from memaudit.data.preparation import AS_STORED, ORIENTED, Exif, Preparation
from memaudit.data.readers import torch_tensors
from memaudit.data.sources import READERS, open_images
from memaudit.errors import CheckpointError, DataError
from memaudit.files import open_regular
from memaudit.models.checkpoints import Checkpoint, open_checkpoint
from memaudit.models.checkpoints.containers.zip_file import zip_entries
from memaudit.models.checkpoints.folders import holds_model
from memaudit.models.denoiser import Denoiser
from memaudit.models.optimum.closed_form import ClosedFormOptimum
from memaudit.progress import Progress, silent
from memaudit.wording import short

CHECKPOINT_SUFFIXES = (".safetensors", ".pkl", ".pt", ".pth", ".ckpt", ".bin")
ZIP_HEAD = 1024
"""Bytes at the start of a zip that hold the name of its first entry."""
OPTIMUM = "optimum"
"""The source that names no file: the closed-form optimum of the training images."""
OTHER_IMAGES = "The training images given ("
"""How the warning begins that the model was trained on other images."""
MOST_IMAGES_SEEN = 10**15
"""Images seen in training beyond which a checkpoint's statement is not believed."""


@dataclass(frozen=True)
class ModelFacts:
    """What a report says of a model."""

    format: str
    """Name of the checkpoint's format."""
    arch: str | None
    """The published network that was named for weights without a configuration."""
    config: Mapping[str, Any]
    """Class and constructor's keywords of the network; empty for models of other kinds."""
    provenance: Mapping[str, Any]
    """What the checkpoint says of its training."""
    trained_on_data: bool | None
    """Whether the checkpoint says that the training images given are those that it was trained on,
    or None where it does not say."""

    @property
    def images_seen(self) -> int | None:
        """Images seen in training, as the checkpoint states; None where it states no such number.

        A checkpoint may state anything; what no training reaches would end in an overflow.
        """
        seen = self.provenance.get("images_seen")
        return seen if type(seen) is int and 0 <= seen <= MOST_IMAGES_SEEN else None


@dataclass(frozen=True)
class Source:
    """What a report says of what was audited."""

    kind: Literal["checkpoint", "images"]
    path: str
    sha256: str | None
    """SHA-256 of the checkpoint's bytes or of the images' pixels. None for a Python object that
    holds no parameters."""
    warnings: tuple[str, ...]
    """What a reader must know before trusting the numbers."""
    model: ModelFacts | None
    """None where the images were given."""


def describe_source(
    source: Checkpoint | ImageSet, data: ImageSet, *, warnings: tuple[str, ...] = ()
) -> Source:
    """What a report says of a source that was audited against `data`.

    Args:
        source: what was audited.
        data: the training images.
        warnings: what else a reader must know before trusting the numbers; shown first.
    """
    warnings = (*warnings, *doubts_about(data), *_group_warnings(data))
    if isinstance(source, ImageSet):
        warnings = (*warnings, *doubts_about(source), *_exchange_warnings(source, data))
        return Source("images", source.source, source.fingerprint, warnings, None)
    stated = source.provenance.get("data_fingerprint")
    trained_on_data = None if stated is None else stated == data.fingerprint
    return Source(
        kind="checkpoint",
        path=source.path,
        sha256=source.sha256,
        warnings=(*warnings, *source.warnings, *_data_warnings(source, data, trained_on_data)),
        model=ModelFacts(
            format=source.format,
            arch=source.arch,
            config=source.config,
            provenance=source.provenance,
            trained_on_data=trained_on_data,
        ),
    )


def _exchange_warnings(source: ImageSet, data: ImageSet) -> tuple[str, ...]:
    """That what was given as generated seems to be photographs, and the other the generated one."""
    turned = source.kinds.get(ORIENTED, 0)
    if not turned or data.kinds.get(ORIENTED, 0):
        return ()
    return (
        f"An EXIF orientation ({turned:,} images in {source.source}, none in {data.source}) is "
        "what a camera writes, and not what a generator does. Are the two exchanged? What was "
        "generated comes first, and copies are counted among its images.",
    )


def _group_warnings(data: ImageSet) -> tuple[str, ...]:
    if data.num_groups != len(data):
        return ()
    return (
        f"No two training images are of one {data.group_kind} according to "
        f"{short(str(data.groups_from))}, so groups make no difference. If some do belong "
        "together, copies of them may be overlooked: the pattern or table then names something "
        "other than the group.",
    )


def _data_warnings(
    checkpoint: Checkpoint, data: ImageSet, trained_on_data: bool | None
) -> tuple[str, ...]:
    if trained_on_data is not False:
        return ()
    trained = checkpoint.provenance
    number = trained.get("num_images")
    counted = f"{number:,} images" if isinstance(number, int) else "images"
    return (
        f"{OTHER_IMAGES}{len(data):,} of {data.source}) are not those that the "
        f"checkpoint says it was trained on ({counted} of {trained.get('data_source')}, "
        f"fingerprint {trained['data_fingerprint']}). Copies of images that are missing here are "
        "not found, and the ratio is not that of the training set. "
        + (_other_orientation(data, trained["data_fingerprint"]) or _what_differs(number, data)),
    )


def _what_differs(number: Any, data: ImageSet) -> str:
    """What the number of images says, which is all that a checkpoint tells besides."""
    if not isinstance(number, int):
        said = ""
    elif number == len(data):
        said = (
            "Their number is the same: they may be the same images in another order, cropped or "
            "resized otherwise. "
        )
    else:
        more = "more" if len(data) > number else "fewer"
        said = f"They are {abs(len(data) - number):,} {more}. "
    return f"{said}`memaudit dataset compare` says what two sets have in common."


def _other_orientation(data: ImageSet, fingerprint: str) -> str:
    """What to do if it is EXIF orientations that set images apart from those of a fingerprint."""
    if not data.kinds.get(ORIENTED):
        return ""
    exif: Exif = "apply" if data.preparation.exif == "ignore" else "ignore"
    with suppress(DataError):  # such as images of several sizes once they are turned
        other = open_images(
            data.source,
            replace(data.preparation, exif=exif),
            layout=Layout(split=data.split),
            choose=lambda _: data.indices,
        )
        if other.fingerprint == fingerprint:
            how = "turned upright" if exif == "apply" else "as they are stored"
            return (
                f"They are if their EXIF orientation is treated as in training: {how}, which is "
                f"exif {exif}."
            )
    return ""


def as_source(
    source: str | Path | np.ndarray | ImageSet | Checkpoint | Denoiser,
    data: ImageSet,
    *,
    conditional: bool = False,
    device: str = "cpu",
    check_all: bool = False,
    progress: Progress = silent,
) -> Checkpoint | ImageSet:
    """A source given as a path, a word, an array, an image set, a checkpoint or a denoiser.

    Args:
        source: what is audited; "optimum" is the closed-form optimum of `data`.
        data: the training images.
        conditional: whether the optimum has one optimum per class.
        device: where a checkpoint's network goes. A denoiser stays where it is.
        check_all: as for `open_images`.
        progress: told how far the decoding of images is.

    Raises:
        CheckpointError: a checkpoint that is missing, broken or unknown.
        DataError: images that are missing or broken.
        TypeError: none of these.
    """
    if isinstance(source, Checkpoint | ImageSet):
        return source
    if isinstance(source, str | Path):
        if str(source) == OPTIMUM:
            return optimum_of(data, conditional=conditional, device=device)
        return open_source(source, device=device, check_all=check_all, progress=progress)
    if isinstance(source, Denoiser):
        return checkpoint_of(source)
    if isinstance(source, np.ndarray):
        return ImageSet.from_array(source)
    raise TypeError(
        f"source is a {type(source).__name__}; a path, an array of images, an ImageSet, a "
        "Checkpoint or a denoiser is needed (a denoiser has img_channels, img_resolution, "
        "label_dim, sigma_min, sigma_max, round_sigma and D(x, sigma, class_labels))"
    )


def checkpoint_of(denoiser: Denoiser) -> Checkpoint:
    """A denoiser in memory, in the place of a checkpoint.

    Its SHA-256 is that of its parameters and buffers, by name; a denoiser without any has none.
    """
    sha256 = None
    weights = denoiser.state_dict() if isinstance(denoiser, nn.Module) else {}
    if weights:
        digest = hashlib.sha256()
        for name, tensor in sorted(weights.items()):
            value = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.flatten().view(torch.uint8).numpy().data)
        sha256 = digest.hexdigest()
    kind = type(denoiser)
    return Checkpoint(
        network=denoiser,
        config={},
        provenance={},
        sha256=sha256,
        format="Python object",
        path=f"{kind.__module__}.{kind.__qualname__}",
    )


def optimum_of(data: ImageSet, *, conditional: bool = False, device: str = "cpu") -> Checkpoint:
    """The closed-form optimum of `data`, in the place of a trained model.

    Args:
        data: training images.
        conditional: one optimum per class, by the images' labels.
        device: where it computes.

    Raises:
        DataError: no labels for a conditional optimum.
    """
    if conditional and data.labels is None:
        raise DataError(
            f"The optimum was asked for by class, but {data.source} has no labels. Use images with "
            "labels, or leave {class_index} and {guidance} out.",
            field=("class_index", "guidance"),
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
    path: str | Path,
    *,
    preparation: Preparation = AS_STORED,
    device: str = "cpu",
    arch: str | None = None,
    check_all: bool = False,
    progress: Progress = silent,
) -> Checkpoint | ImageSet:
    """Open a source as a checkpoint or as generated images, told apart by content.

    Args:
        path: whatever `open_checkpoint` opens, or a folder, zip, npz or npy of generated images.
        preparation: how generated images are prepared.
        device: where the checkpoint's network goes.
        arch: name of the published network whose weights come without their configuration.
        check_all: as for `open_images`.
        progress: told how far the decoding of images is.

    Raises:
        CheckpointError: a checkpoint that is missing, broken or unknown.
        DataError: images that are missing or broken.
    """
    if holds_images(Path(path)):
        return open_images(path, preparation, check_all=check_all, progress=progress)
    return open_checkpoint(path, device=device, arch=arch)


def holds_images(path: Path) -> bool:
    """Whether `path` is a folder or file of images rather than a checkpoint."""
    if path.is_dir():
        return not holds_model(path)
    if not path.exists():
        return is_range(path)
    if not path.is_file() or _is_checkpoint_zip(path):
        return False
    return any(reader.may_be_generated and reader.recognizes(path) for reader in READERS)


def check_roles(source: str | Path, data: str | Path) -> None:
    """Refuse a checkpoint in the place of the training images, and images in that of the model.

    Raises:
        DataError: they seem to be exchanged, or both are checkpoints; says what to give.
    """
    path = Path(data)
    if not path.exists() or not _looks_like_checkpoint(path):
        return
    what = f"{path} holds a checkpoint, but it was given as training images"
    if Path(source).exists() and holds_images(Path(source)):
        raise DataError(
            f"{what}, and the images in {source} were given as the source. They seem to be "
            f"exchanged: the model comes first, as in `memaudit scan {path} --data {source}`."
        )
    raise DataError(f"{what}. Name a folder, zip or array of the images that it was trained on.")


def _looks_like_checkpoint(path: Path) -> bool:
    """Whether a path that no reader of images recognizes is named or laid out as a checkpoint."""
    if path.is_dir():
        return not holds_images(path)
    named = path.suffix.lower() in CHECKPOINT_SUFFIXES
    recognized = any(reader.recognizes(path) for reader in READERS)
    return named and (not recognized or _is_checkpoint_zip(path))


def _is_checkpoint_zip(path: Path) -> bool:
    """Whether torch.save wrote a file of something other than images."""
    return _is_torch_zip(path) and not torch_tensors.holds_images(path)


def _is_torch_zip(path: Path) -> bool:
    """Whether a file is one of torch.save, which is a zip with a pickle inside, whole or not."""
    try:
        with open_regular(path) as file:
            head = file.read(ZIP_HEAD)
            if not head.startswith(b"PK\3\4"):
                return False
            # A damaged file is told by its first entry, which is the pickle of what torch wrote.
            if head[30 : 30 + int.from_bytes(head[26:28], "little")].endswith(b"data.pkl"):
                return True
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            names = zip_entries(memoryview(content)).keys()
    except (OSError, CheckpointError):
        return False
    return any(name.endswith("data.pkl") for name in names)
