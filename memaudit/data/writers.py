"""Write images one by one into a file: a zip in EDM's form, an npz, or one picture."""

import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from memaudit.data.readers.npy_format import npy_array, texts
from memaudit.data.readers.reader import first_member, parse_json, side_file_bytes
from memaudit.data.readers.tree_contents import LABELS_FILE
from memaudit.data.readers.zip_members import opened_zip, zip_members
from memaudit.errors import ConfigError, DataError
from memaudit.files import atomic_write, read_regular

SET_FORMS = {"": "a folder", ".zip": ".zip", ".npz": ".npz"}
"""Suffix → words, for the forms that `open_images` reads again."""
FORMS = {**SET_FORMS, ".png": ".png (a grid)"}
"""Every form that can be written."""
FILE_FORMS = {suffix: words for suffix, words in FORMS.items() if suffix}
"""Those that are one file."""

MANIFEST_FILE = "manifest.json"
"""The file of a folder or zip that says how its images were made."""
UNFINISHED = "unfinished"
"""The key of a folder's manifest that is true until its last image is written."""
_MANIFEST_ARRAY = "manifest"
"""The array of an npz that holds the same text."""
_MAX_MANIFEST = 64 << 20
"""Most bytes of a manifest where the number of images is not known."""
_DATE = (1980, 1, 1, 0, 0, 0)
"""The date of every file in a zip, so that equal images give equal zips."""


class NamedImage(NamedTuple):
    """One image to write."""

    name: str
    """Without suffix, such as `000017`."""
    pixels: np.ndarray
    """uint8 [C, H, W], gray or RGB."""
    label: int | None = None
    """The image's class, or None."""


def check_writable(path: Path, forms: Mapping[str, str] = FORMS) -> None:
    """Refuse an output that could not be written, before any work is done.

    Args:
        path: the output.
        forms: those of FORMS that are accepted.

    Raises:
        ConfigError: a form that is not accepted, a folder that is not empty, a file that exists, or
            no permission.
    """
    check_form(path, forms)
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


def write_images(
    path: Path, images: Iterable[NamedImage], *, manifest: Mapping[str, Any] | None = None
) -> None:
    """Write images into one file, in the form that the suffix of `path` asks for.

    Args:
        path: `.zip` (EDM's form: PNG files in folders of 1,000, labels in dataset.json), `.npz`
            (`images` [N, C, H, W], `names`, `labels`) or `.png` (one grid). It appears whole or not
            at all. `resumable_folder` writes folders.
        images: images of one shape; taken one by one, so that a zip may have any size.
        manifest: how they were made, stored with them as JSON: in a file manifest.json of the zip,
            written last, or in an array `manifest` of the npz. A grid has none.

    Raises:
        ConfigError: the suffix is not one of these.
    """
    check_form(path, FILE_FORMS)
    text = None if manifest is None else json.dumps(manifest, indent=1)
    with atomic_write(path) as file:
        if path.suffix == ".zip":
            _write_zip(file, images, text)
        elif path.suffix == ".npz":
            _write_npz(file, images, text)
        else:
            _write_grid(file, images)


def read_manifest(path: Path, *, num_images: int | None = None) -> dict[str, Any] | None:
    """The manifest that `write_images` was given, or None if there is no readable one.

    Args:
        path: a folder, zip or npz.
        num_images: number of images in it, which decides how long its manifest may be; None if
            unknown, as of a folder that is unfinished.

    Raises:
        DataError, OSError: it is longer, or not a regular file, or the zip is damaged.
    """
    limit = _MAX_MANIFEST if num_images is None else side_file_bytes(num_images)
    try:
        if path.is_dir():
            manifest = parse_json(read_regular(path / MANIFEST_FILE, limit))
        else:
            manifest = parse_json(_manifest_in_zip(path, limit))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return manifest if isinstance(manifest, dict) else None


def _manifest_in_zip(path: Path, limit: int) -> bytes:
    """The text of the manifest in a zip or npz, which is a zip of arrays; empty without one."""
    if first_member(path) is None:
        return b""
    array = f"{_MANIFEST_ARRAY}.npy"
    members = zip_members(path, (array, MANIFEST_FILE).__contains__)
    name = array if array in members else MANIFEST_FILE
    if name not in members:
        return b""
    # An array has four bytes for each character.
    limit *= 4 if name == array else 1
    if members[name].file_size > limit:
        raise DataError(
            f"{path}: its {name} is said to be {members[name].file_size:,} bytes long; at most "
            f"{limit:,} make sense."
        )
    try:
        with opened_zip(path, members) as read:
            data = read(name)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: its {name} cannot be read: {error}.") from error
    if name == MANIFEST_FILE:
        return data
    text = npy_array(data, f"{name} in {path}")
    return texts(text.reshape(-1), f"{name} in {path}")[0].encode() if text.size == 1 else b""


def grid(images: np.ndarray, *, columns: int | None = None) -> Image.Image:
    """Images uint8 [N, C, H, W] in a grid, row by row; a square one if `columns` is None."""
    num_images, C, H, W = images.shape
    columns = columns or math.ceil(math.sqrt(num_images))
    rows = math.ceil(num_images / columns)
    canvas = np.full([C, rows * H, columns * W], 255, dtype=np.uint8)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        canvas[:, row * H : (row + 1) * H, column * W : (column + 1) * W] = image
    return to_picture(canvas)


def to_picture(pixels: np.ndarray) -> Image.Image:
    """Pixels uint8 [C, H, W], gray or RGB, as a picture."""
    return Image.fromarray(
        pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    )


def png(picture: Image.Image, about: PngImagePlugin.PngInfo | None = None) -> bytes:
    """A picture as the bytes of a PNG.

    Pillow writes into a file itself, but on a full disk it does not say which error there was.
    """
    file = io.BytesIO()
    picture.save(file, format="png", pnginfo=about)
    return file.getvalue()


def check_form(path: Path, forms: Mapping[str, str]) -> None:
    """Refuse a path whose suffix none of the forms has.

    Raises:
        ConfigError: it has another suffix.
    """
    if path.suffix not in forms:
        *others, last = forms.values()
        words = f"{', '.join(others)} or {last}" if others else last
        raise ConfigError(f"{path} ends in {path.suffix}; {words} can be written.")


def _write_zip(file: BinaryIO, images: Iterable[NamedImage], manifest: str | None) -> None:
    labels = {}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for i, image in enumerate(images):
            member = f"{i // 1000:05d}/{image.name}.png"
            archive.writestr(zipfile.ZipInfo(member, _DATE), png(to_picture(image.pixels)))
            labels[member] = image.label
        archive.writestr(zipfile.ZipInfo(LABELS_FILE, _DATE), labels_text(labels))
        if manifest is not None:
            archive.writestr(zipfile.ZipInfo(MANIFEST_FILE, _DATE), manifest)


def labels_text(labels: Mapping[str, int | None]) -> str:
    """The text of dataset.json: the labels of all images, or null if any image has none."""
    labeled = labels and None not in labels.values()
    return json.dumps({"labels": list(labels.items()) if labeled else None})


def _write_npz(file: BinaryIO, images: Iterable[NamedImage], manifest: str | None) -> None:
    names, pixels, labels = zip(*images, strict=True)
    arrays: dict[str, Any] = {"images": np.stack(pixels), "names": np.array(names)}
    if None not in labels:
        arrays["labels"] = np.array(labels, dtype=np.int64)
    if manifest is not None:
        arrays[_MANIFEST_ARRAY] = np.array(manifest)
    np.savez(file, **arrays)


def _write_grid(file: BinaryIO, images: Iterable[NamedImage]) -> None:
    file.write(png(grid(np.stack([image.pixels for image in images]))))
