"""Training sets on disk, each with a manifest that says what it was made of."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import memaudit
from memaudit.data.images import ImageSet
from memaudit.data.writers import NamedImage, read_manifest, write_images
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
    """Write a set that `open_images` reads again, in its order, with its labels and fingerprint.

    The manifest has `schema`, `memaudit` (the version), `fingerprint`, `shape` [N, C, H, W],
    `class_names`, `sources` (path, fingerprint and num_images of each), `choices`, and `names`:
    what each image is called in its source, [N].

    Args:
        path: one of SET_FORMS; see `write_images`.
        images: the set.
        sources: the whole sets that its images were taken from.
        choices: how they were taken, as values that JSON has.
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


def set_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a set that `write_set` wrote, or None of any other."""
    manifest = read_manifest(path)
    return manifest if manifest is not None and manifest.get("schema") == SCHEMA else None


def _named(images: ImageSet, progress: Progress) -> Iterator[NamedImage]:
    for i, pixels in enumerate(images.images):
        label = None if images.labels is None else int(images.labels[i])
        yield NamedImage(f"img{i:08d}", pixels, label)
        progress("Writing images", i + 1, len(images))
