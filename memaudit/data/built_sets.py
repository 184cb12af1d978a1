"""Training sets on disk, each with a manifest that says how it was made."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

import memaudit
from memaudit.data.images import ImageSet
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.reader import Files, stats
from memaudit.data.writers import MANIFEST_FILE, NamedImage, read_manifest, write_images
from memaudit.progress import Progress, silent

SCHEMA = "memaudit.dataset/1"


def write_set(
    path: Path,
    images: ImageSet,
    *,
    sources: Sequence[ImageSet],
    choices: Mapping[str, Any],
    progress: Progress = silent,
) -> None:
    """Write a set that `open_images` reads again with the same order, labels and fingerprint.

    The manifest has `schema`, `memaudit` (the version), `fingerprint`, `shape` [N, C, H, W],
    `class_names`, `sources` (path, fingerprint and num_images of each), `choices`, and `names`:
    the name of each image in its source, [N].

    Args:
        path: one of SET_FORMS; see `write_images`.
        images: the set.
        sources: the whole sets from which its images were taken.
        choices: how they were taken, as JSON values.
        progress: told how many images are written.
    """
    manifest = {
        "schema": SCHEMA,
        "memaudit": memaudit.__version__,
        "fingerprint": images.fingerprint,
        "shape": images.images.shape,
        "class_names": images.class_names,
        "sources": [
            {"path": whole.source, "fingerprint": whole.fingerprint, "num_images": len(whole)}
            for whole in sources
        ],
        "choices": choices,
        "names": list(images.names),
    }
    write_images(path, _named(images, progress), manifest=manifest)


def manifest_files(path: Path) -> Files:
    """The manifest's file in a folder; empty if there is none, or it is inside the source's file.

    It gives images their names, so that a change to it changes the set.
    """
    file = path / MANIFEST_FILE
    return stats([file]) if file.is_file() else {}


def read_set_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a set that `write_set` wrote, or None for anything else."""
    manifest = read_manifest(path)
    return manifest if manifest is not None and manifest.get("schema") == SCHEMA else None


def restore_source_names(contents: Contents, path: Path) -> Contents:
    """The same images with the names that a set's manifest gives to them and to their classes.

    Args:
        contents: what the folder, zip or npz at `path` holds.
        path: a set that `write_set` wrote, or anything else.

    Returns:
        `contents` itself if the manifest is missing, foreign, or describes other images.
    """
    manifest = read_set_manifest(path)
    if manifest is None:
        return contents
    names, class_names = manifest.get("names"), manifest.get("class_names")
    members = [_member(i) for i in range(len(contents.names))]
    if [PurePosixPath(name).stem for name in contents.names] != members:
        return contents  # images were added, removed or renamed
    num_classes = 0 if contents.labels is None else int(contents.labels.max()) + 1
    if (
        not _are_texts(names)
        or not _are_texts(class_names)
        or len(names) != len(members)
        or (class_names and len(class_names) < num_classes)
    ):
        return contents
    return replace(contents, names=names, class_names=tuple(class_names))


def _are_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _member(i: int) -> str:
    """The name of the i-th image in a set, without suffix."""
    return f"img{i:08d}"


def _named(images: ImageSet, progress: Progress) -> Iterator[NamedImage]:
    for i, pixels in enumerate(images.images):
        label = None if images.labels is None else int(images.labels[i])
        yield NamedImage(_member(i), pixels, label)
        progress("Writing images", i + 1, len(images))
