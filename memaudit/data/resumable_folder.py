"""A folder of generated images that is filled one by one, and goes on where it was if that stops.

`manifest.json`, written first, says what the images depend on besides their names. Each image
appears whole or not at all, with its class in a text chunk `class` of its PNG; `dataset.json`, with
the classes of all, comes last.
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
    edm_labels,
    read_manifest,
    to_picture,
)
from memaudit.errors import ConfigError, DataError
from memaudit.files import atomic_write, exclusive

SCHEMA = "memaudit.samples/1"
_LOCK = ".samples.lock"


def check_growable(path: Path) -> None:
    """Refuse a folder that holds something else, before any work is done.

    Raises:
        ConfigError: as `check_writable`, but for a folder that `growing_folder` began.
    """
    # The lock is there where one was killed before it wrote anything else.
    if not (path / _LOCK).is_file() and not (path / MANIFEST_FILE).is_file():
        check_writable(path)


@contextmanager
def growing_folder(
    path: Path, names: Sequence[str], *, identity: Mapping[str, Any]
) -> Iterator["GrowingFolder"]:
    """A folder to add the images to that are not there yet; left without an error, it is whole.

    Args:
        path: the folder.
        names: of all images that it shall hold, without suffix.
        identity: what they depend on besides their names, as JSON holds it; the keys are words of
            a message.

    Raises:
        ConfigError: it holds images of another identity, or files by other names; another process
            is filling it.
    """
    path.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive(path / _LOCK):
            _begin(path, names, {"schema": SCHEMA, **identity})
            folder = GrowingFolder(path, names)
            yield folder
            folder.write_labels()
    except BlockingIOError as error:
        raise ConfigError(
            f"Another process is sampling into {path}. Wait for it, or name another folder."
        ) from error


class GrowingFolder:
    """Images on their way into a folder; made by `growing_folder`."""

    missing: tuple[str, ...]
    """Names of the images that were not there, or not whole, at the beginning."""

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
        """Write the classes of all images, where they have some."""
        if None not in self._labels.values():
            with atomic_write(self._path / LABELS_FILE) as file:
                file.write(edm_labels(dict(sorted(self._labels.items()))).encode())


def _begin(path: Path, names: Sequence[str], manifest: dict[str, Any]) -> None:
    """Make sure that what is there goes with what is to come, and say what that is."""
    for part in path.glob(".*.part"):  # of a process that was killed
        part.unlink()
    visible = {file.name for file in path.iterdir() if not file.name.startswith(".")}
    there = visible - {MANIFEST_FILE, LABELS_FILE}
    saved = read_manifest(path) or {}
    changed = [name for name, value in manifest.items() if saved.get(name) != value]
    if there and changed:
        others = f"another {', '.join(changed)}" if saved else "an origin that nothing tells"
        raise ConfigError(
            f"{path} holds images of {others}. Go on with the options it began with, or name "
            "another folder."
        )
    if strange := sorted(there - set(map(_file, names))):
        raise ConfigError(
            f"{path} holds {strange[0]}, which is none of the images asked for. Ask for all that "
            "are there and more, or name another folder."
        )
    if changed:
        with atomic_write(path / MANIFEST_FILE) as file:
            file.write(json.dumps(manifest, indent=1).encode())
    (path / LABELS_FILE).unlink(missing_ok=True)  # of fewer images


def _file(name: str) -> str:
    return f"{name}.png"


def _read_label(path: Path) -> int | None:
    """The class in an image of ours; an error where that is missing or not whole."""
    decode_image(path.read_bytes(), path.name)
    with Image.open(path) as picture:
        label = picture.info.get("class")
    return None if label is None else int(label)
