"""A folder of images that is filled one by one, and resumed where it stopped.

`manifest.json`, written first, says what the images depend on besides their names, and that the
folder is unfinished: until the last image is there, `open_images` refuses it. Each image appears
whole or not at all, with its class in a text chunk `class` of its PNG. `dataset.json`, with the
classes of all images, comes last.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from memaudit.data.readers.decoding import decode_image
from memaudit.data.readers.tree_contents import LABELS_FILE
from memaudit.data.writers import (
    MANIFEST_FILE,
    UNFINISHED,
    NamedImage,
    check_writable,
    labels_text,
    png,
    read_manifest,
    to_picture,
)
from memaudit.errors import ConfigError, DataError
from memaudit.files import atomic_write, exclusive, read_regular, remove_parts

SCHEMA = "memaudit.samples/1"
_LOCK = ".samples.lock"
_MAX_IMAGE_BYTES = 1 << 30


def check_resumable(path: Path) -> None:
    """Refuse a folder that holds something else, before any work is done.

    Raises:
        ConfigError: as `check_writable`, except for a folder that `resumable_folder` began.
    """
    if not holds_only_the_lock(path) and not (path / MANIFEST_FILE).is_file():
        check_writable(path)


def holds_only_the_lock(path: Path) -> bool:
    """Whether a process was killed in the folder before it wrote anything else."""
    return (path / _LOCK).is_file() and not _visible(path)


@contextmanager
def resumable_folder(
    path: Path,
    names: Sequence[str],
    *,
    identity: Mapping[str, Any],
    schema: str = SCHEMA,
    overwrite: bool = False,
) -> Iterator["ResumableFolder"]:
    """A folder in which to write the images that are missing; complete if left without an error.

    Args:
        path: the folder.
        names: names of all the images that it is to hold, without suffix.
        identity: what they depend on besides their names, for the manifest;
            messages use the keys as words.
        schema: what the manifest calls itself.
        overwrite: remove the images of another identity, if `resumable_folder` wrote them.

    Raises:
        ConfigError: it holds images of another identity, or files with other names, or another
            process is filling it.
        OSError: it cannot be written.
    """
    path.mkdir(parents=True, exist_ok=True)
    manifest = json.loads(json.dumps({"schema": schema, **identity}))  # tuples become lists
    try:
        with exclusive(path / _LOCK):
            remove_parts(path)
            if overwrite:
                _empty(path)
            _begin(path, names, manifest)
            folder = ResumableFolder(path, names)
            yield folder
            folder.write_labels()
            _write_manifest(path, manifest)
    except BlockingIOError as error:
        raise ConfigError(
            f"Another process is writing into {path}. Wait for it, or name another folder."
        ) from error


class ResumableFolder:
    """Images on their way into a folder; made by `resumable_folder`."""

    missing: tuple[str, ...]
    """Names of the images that were absent or incomplete at the beginning."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path = path
        self._labels: dict[str, int | None] = {}
        missing = []
        for name in names:
            try:
                _, self._labels[_file(name)] = _read(path / _file(name))
            except (OSError, DataError, ValueError):
                missing.append(name)
        self.missing = tuple(missing)

    def add(self, image: NamedImage, *, durable: bool = True) -> None:
        """Write one image.

        Args:
            image: one of the names.
            durable: whether it is on the disk for sure before the next one. That takes
                milliseconds, which are worth it where the image took longer.
        """
        about = PngImagePlugin.PngInfo()
        if image.label is not None:
            about.add_text("class", str(image.label))
        data = png(to_picture(image.pixels), about)
        place = self._path / _file(image.name)
        with atomic_write(place, sweep=False, durable=durable) as file:
            file.write(data)
        self._labels[_file(image.name)] = image.label

    def holds(self, image: NamedImage) -> bool:
        """Whether the image is there with these pixels and this class."""
        try:
            pixels, label = _read(self._path / _file(image.name))
        except (OSError, DataError, ValueError):
            return False
        return label == image.label and np.array_equal(pixels, image.pixels)

    def write_labels(self) -> None:
        """Write the classes of all images, if they have any."""
        if None not in self._labels.values():
            with atomic_write(self._path / LABELS_FILE) as file:
                file.write(labels_text(dict(sorted(self._labels.items()))).encode())


def _begin(path: Path, names: Sequence[str], manifest: dict[str, Any]) -> None:
    """Check that the images present belong with those to come, and write the manifest."""
    present = _visible(path) - {MANIFEST_FILE, LABELS_FILE}
    saved = read_manifest(path, num_images=len(names)) or {}
    changed = [name for name, value in manifest.items() if saved.get(name) != value]
    if present and changed:
        others = f"another {', '.join(changed)}" if saved else "an unknown origin"
        raise ConfigError(
            f"{path} holds images of {others}. Continue with the options it began with, or name "
            "another folder."
        )
    if unexpected := sorted(present - set(map(_file, names))):
        raise ConfigError(
            f"{path} holds {unexpected[0]}, which is not one of the images asked for. Ask for all "
            "the images in it and more, or name another folder."
        )
    _write_manifest(path, {**manifest, UNFINISHED: True})
    (path / LABELS_FILE).unlink(missing_ok=True)  # of fewer images


def _empty(path: Path) -> None:
    """Remove the images of a folder that we wrote; it is marked as unfinished first."""
    present = sorted(_visible(path) - {MANIFEST_FILE, LABELS_FILE})
    saved = read_manifest(path)
    foreign = [name for name in present if not name.endswith(".png") or (path / name).is_dir()]
    if present and (foreign or saved is None or "schema" not in saved):
        raise ConfigError(
            f"{path} holds {(foreign or present)[0]}, which is not of a set that memaudit wrote; "
            "nothing was removed. Name another folder, or empty it first."
        )
    if saved is not None:
        _write_manifest(path, {**saved, UNFINISHED: True})
    for name in (*present, LABELS_FILE):
        (path / name).unlink(missing_ok=True)


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    with atomic_write(path / MANIFEST_FILE) as file:
        file.write(json.dumps(manifest, indent=1).encode())


def _visible(path: Path) -> set[str]:
    """Names in a folder, without hidden ones."""
    return {file.name for file in path.iterdir() if not file.name.startswith(".")}


def _file(name: str) -> str:
    return f"{name}.png"


def _read(path: Path) -> tuple[np.ndarray, int | None]:
    """Pixels and class of one of our images; an error if it is absent or incomplete."""
    data = read_regular(path, _MAX_IMAGE_BYTES)
    pixels = decode_image(data, path.name)
    with Image.open(io.BytesIO(data)) as picture:
        label = picture.info.get("class")
    return pixels, None if label is None else int(label)
