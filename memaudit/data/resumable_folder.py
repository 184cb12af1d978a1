"""A folder of generated images that is filled one by one, and resumed where it stopped.

`manifest.json`, written first, says what the images depend on besides their names. Each image
appears whole or not at all, with its class in a text chunk `class` of its PNG. `dataset.json`, with
the classes of all images, comes last.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from memaudit.data.readers.decoding import decode_image
from memaudit.data.readers.image_files import LABELS_FILE
from memaudit.data.writers import (
    MANIFEST_FILE,
    NamedImage,
    check_writable,
    labels_text,
    read_manifest,
    to_picture,
)
from memaudit.errors import ConfigError, DataError
from memaudit.files import atomic_write, exclusive

SCHEMA = "memaudit.samples/1"
_LOCK = ".samples.lock"


def check_resumable(path: Path) -> None:
    """Refuse a folder that holds something else, before any work is done.

    Raises:
        ConfigError: as `check_writable`, except for a folder that `resumable_folder` began.
    """
    # A process that was killed before it wrote anything else leaves the lock's file.
    began = (path / _LOCK).is_file() and not _visible(path)
    if not began and not (path / MANIFEST_FILE).is_file():
        check_writable(path)


@contextmanager
def resumable_folder(
    path: Path, names: Sequence[str], *, identity: Mapping[str, Any]
) -> Iterator["ResumableFolder"]:
    """A folder in which to write the images that are missing; complete if left without an error.

    Args:
        path: the folder.
        names: names of all the images that it is to hold, without suffix.
        identity: what they depend on besides their names, as JSON holds it; messages use the keys
            as words.

    Raises:
        ConfigError: it holds images of another identity, or files with other names, or another
            process is filling it.
    """
    path.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive(path / _LOCK):
            _begin(path, names, {"schema": SCHEMA, **identity})
            folder = ResumableFolder(path, names)
            yield folder
            folder.write_labels()
    except BlockingIOError as error:
        raise ConfigError(
            f"Another process is sampling into {path}. Wait for it, or name another folder."
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
                self._labels[_file(name)] = _read_label(path / _file(name))
            except (OSError, DataError, ValueError):
                missing.append(name)
        self.missing = tuple(missing)

    def add(self, image: NamedImage) -> None:
        """Write one image."""
        about = PngImagePlugin.PngInfo()
        if image.label is not None:
            about.add_text("class", str(image.label))
        with atomic_write(self._path / _file(image.name)) as file:
            to_picture(image.pixels).save(file, format="png", pnginfo=about)
        self._labels[_file(image.name)] = image.label

    def write_labels(self) -> None:
        """Write the classes of all images, if they have any."""
        if None not in self._labels.values():
            with atomic_write(self._path / LABELS_FILE) as file:
                file.write(labels_text(dict(sorted(self._labels.items()))).encode())


def _begin(path: Path, names: Sequence[str], manifest: dict[str, Any]) -> None:
    """Check that the images present belong with those to come, and write the manifest."""
    for part in path.glob(".*.part"):  # left by a process that was killed
        part.unlink()
    present = _visible(path) - {MANIFEST_FILE, LABELS_FILE}
    saved = read_manifest(path) or {}
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
    if changed:
        with atomic_write(path / MANIFEST_FILE) as file:
            file.write(json.dumps(manifest, indent=1).encode())
    (path / LABELS_FILE).unlink(missing_ok=True)  # of fewer images


def _visible(path: Path) -> set[str]:
    """Names in a folder, without hidden ones."""
    return {file.name for file in path.iterdir() if not file.name.startswith(".")}


def _file(name: str) -> str:
    return f"{name}.png"


def _read_label(path: Path) -> int | None:
    """The class in one of our images; an error if the image is absent or incomplete."""
    decode_image(path.read_bytes(), path.name)
    with Image.open(path) as picture:
        label = picture.info.get("class")
    return None if label is None else int(label)
