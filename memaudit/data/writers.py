"""Images to disk, as they come: a folder, a zip in EDM's form, an npz, or one picture."""

import io
import json
import math
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from memaudit.errors import ConfigError
from memaudit.files import atomic_write


class NamedImage(NamedTuple):
    """One image to write."""

    name: str
    """Without suffix, such as `000017`."""
    pixels: np.ndarray
    """uint8 [C, H, W], grey or RGB."""
    label: int | None = None
    """Its class, or None."""


def check_writable(path: Path) -> None:
    """Refuse an output that could not be written, before any work is done.

    Raises:
        ConfigError: a folder that holds something, a file that exists, or no permission.
    """
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError(f"{path} is not empty; name a new folder, or empty it first.")
    if path.is_file():
        raise ConfigError(f"{path} exists; name another file, or remove it first.")
    try:
        folder = path.parent if path.suffix else path
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} cannot be written: permission denied.")


def write_images(path: Path, images: Iterable[NamedImage]) -> None:
    """Write images in the form that the suffix of `path` asks for.

    Args:
        path: `.zip` (EDM's form: PNG files in folders of 1,000, labels in dataset.json), `.npz`
            (`images` [N, C, H, W], `names`, `labels`), `.png` (one grid), or a folder of PNG files.
        images: all of one shape; taken one by one, so that a folder or zip may be of any size.

    Raises:
        ConfigError: another suffix.
    """
    writers = {".zip": _write_zip, ".npz": _write_npz, ".png": _write_grid}
    if not path.suffix:
        _write_folder(path, images)
    elif path.suffix not in writers:
        raise ConfigError(
            f"{path} ends in {path.suffix}; a folder, .zip, .npz or .png (a grid) can be written."
        )
    else:
        with atomic_write(path) as file:
            writers[path.suffix](file, images)


def grid(images: np.ndarray, *, columns: int | None = None) -> Image.Image:
    """Images uint8 [N, C, H, W] side by side, row by row, in a square if `columns` is None."""
    num_images, C, H, W = images.shape
    columns = columns or math.ceil(math.sqrt(num_images))
    rows = math.ceil(num_images / columns)
    canvas = np.full([C, rows * H, columns * W], 255, dtype=np.uint8)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        canvas[:, row * H : (row + 1) * H, column * W : (column + 1) * W] = image
    return to_picture(canvas)


def to_picture(pixels: np.ndarray) -> Image.Image:
    """uint8 [C, H, W], grey or RGB, as a picture."""
    return Image.fromarray(
        pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    )


def _write_folder(path: Path, images: Iterable[NamedImage]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for image in images:
        to_picture(image.pixels).save(path / f"{image.name}.png")


def _write_zip(file: BinaryIO, images: Iterable[NamedImage]) -> None:
    labels: list[list[str | int]] = []
    labelled = True
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for i, image in enumerate(images):
            member = f"{i // 1000:05d}/{image.name}.png"
            picture = io.BytesIO()
            to_picture(image.pixels).save(picture, format="png")
            # A fixed date, so that equal images give equal files.
            archive.writestr(zipfile.ZipInfo(member, (1980, 1, 1, 0, 0, 0)), picture.getvalue())
            labelled = labelled and image.label is not None
            if image.label is not None:
                labels.append([member, image.label])
        text = json.dumps({"labels": labels if labelled and labels else None})
        archive.writestr(zipfile.ZipInfo("dataset.json", (1980, 1, 1, 0, 0, 0)), text)


def _write_npz(file: BinaryIO, images: Iterable[NamedImage]) -> None:
    names, pixels, labels = zip(*images, strict=True)
    arrays: dict[str, Any] = {"images": np.stack(pixels), "names": np.array(names)}
    if None not in labels:
        arrays["labels"] = np.array(labels, dtype=np.int64)
    np.savez(file, **arrays)


def _write_grid(file: BinaryIO, images: Iterable[NamedImage]) -> None:
    grid(np.stack([image.pixels for image in images])).save(file, format="png")
