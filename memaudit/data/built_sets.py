"""Training sets on disk, each with a manifest that says how it was made."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

import memaudit
from memaudit.data.images import ImageSet
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.readers.reader import side_file_bytes
from memaudit.data.resumable_folder import holds_only_the_lock, resumable_folder
from memaudit.data.writers import (
    SET_FORMS,
    UNFINISHED,
    NamedImage,
    check_form,
    check_writable,
    read_manifest,
    write_images,
)
from memaudit.errors import ConfigError, DataError
from memaudit.progress import Progress, silent
from memaudit.wording import joined

SCHEMA = "memaudit.dataset/1"
_DESCRIBED = ("captions", "groups", "repeats")
_TOO_LONG = "too long"
"""What a manifest has in the place of values that would make it longer than what is read."""


def write_set(
    path: Path,
    images: ImageSet,
    *,
    sources: Sequence[ImageSet],
    choices: Mapping[str, Any],
    overwrite: bool = False,
    progress: Progress = silent,
) -> None:
    """Write a set that `open_images` reads again with the same order, labels and fingerprint.

    The manifest has `schema`, `memaudit` (the version), `fingerprint`, `shape` [N, C, H, W],
    `class_names`, `sources` (path, fingerprint and num_images of each), `choices`, and `names`:
    the name of each image in its source, [N]. Where the set has them, it has `captions`, `groups`
    and `repeats`, too, [N] each.

    Args:
        path: one of SET_FORMS; see `write_images`. A file appears whole or not at all; a folder is
            marked as unfinished until it is whole, and resumed where an earlier process stopped.
        images: the set.
        sources: the whole sets from which its images were taken.
        choices: how they were taken, as JSON values.
        overwrite: replace the images of another set in the folder.
        progress: told how many images are written.

    Raises:
        ConfigError: the folder holds something else, or another process is writing into it.
        OSError: it cannot be written.
    """
    manifest = {
        "memaudit": memaudit.__version__,
        "fingerprint": images.fingerprint,
        "shape": list(images.images.shape),
        "class_names": list(images.class_names),
        "sources": [
            {"path": whole.source, "fingerprint": whole.fingerprint, "num_images": len(whole)}
            for whole in sources
        ],
        "choices": dict(choices),
        "names": list(images.names),
        **_described(images),
    }
    if path.suffix:
        manifest = {"schema": SCHEMA, **manifest}
        write_images(path, _named(images, progress), manifest=manifest)
        return
    names = [_member(i) for i in range(len(images))]
    with resumable_folder(
        path, names, identity=manifest, schema=SCHEMA, overwrite=overwrite
    ) as folder:
        for image in _named(images, progress):
            if not folder.holds(image):
                folder.add(image, durable=False)


def check_set_writable(path: Path, *, overwrite: bool | None = None) -> None:
    """Refuse a set that could not be written, before any work is done.

    Args:
        path: where `write_set` will write.
        overwrite: whether a set that is there may be replaced; None if that cannot be chosen.

    Raises:
        ConfigError: as `check_writable`, except for a folder that `write_set` did not finish, or a
            set that is to be replaced.
    """
    manifest = (read_set_manifest(path) or {}) if path.is_dir() else {}
    if path.is_dir() and manifest.get(UNFINISHED):
        return
    exists = bool(manifest) if path.is_dir() else path.is_file()
    if exists and overwrite is False:
        raise ConfigError(
            f"{path} holds a set already; name another place, or replace it with {{overwrite}}.",
            field="overwrite",
        )
    if exists and overwrite:
        check_form(path, SET_FORMS)
        return
    if not holds_only_the_lock(path):
        check_writable(path, SET_FORMS)


def check_finished(path: Path) -> None:
    """Refuse a folder that memaudit did not finish: it would be taken for a smaller set.

    Raises:
        DataError: its manifest says so.
    """
    manifest = read_manifest(path) if path.is_dir() else None
    if manifest is not None and manifest.get(UNFINISHED):
        raise DataError(
            f"{path} is unfinished: what wrote its images stopped before the last one. Give the "
            "command that began it again, which resumes it, or remove the folder."
        )


def read_set_manifest(path: Path, *, num_images: int | None = None) -> dict[str, Any] | None:
    """The manifest of a set that `write_set` wrote, or None for anything else.

    Args:
        path: what `open_images` opened, or a set that is unfinished.
        num_images: number of images in it, or None if unknown.

    Raises:
        DataError: it claims to be such a manifest, and its values are of other types; or as
            `read_manifest`.
    """
    manifest = read_manifest(path, num_images=num_images)
    if manifest is None or manifest.get("schema") != SCHEMA:
        return None
    wrong = [name for name, is_right in _TYPES.items() if not is_right(manifest.get(name))]
    if wrong:
        raise DataError(
            f"{path}: its manifest claims that memaudit wrote the set, but its {joined(wrong)} "
            f"{'is' if len(wrong) == 1 else 'are'} malformed. Build the set again, or remove the "
            "manifest to open the images with the names that they have here."
        )
    return manifest


def restore_source_names(contents: Contents, path: Path) -> Contents:
    """The same images with the names that a set's manifest gives to them and to their classes.

    Args:
        contents: what the folder, zip or npz at `path` holds.
        path: a set that `write_set` wrote, or anything else.

    Returns:
        `contents` itself if the manifest is missing, foreign, or describes other images.
    """
    manifest = read_set_manifest(path, num_images=len(contents.names))
    if manifest is None:
        return contents
    names, class_names = manifest["names"], manifest["class_names"]
    members = [_member(i) for i in range(len(contents.names))]
    if [PurePosixPath(name).stem for name in contents.names] != members:
        return contents  # images were added, removed or renamed
    num_classes = 0 if contents.labels is None else int(contents.labels.max()) + 1
    if len(names) != len(members) or (class_names and len(class_names) < num_classes):
        return contents
    notes = contents.notes
    found: dict[str, Any] = {}
    for what in _DESCRIBED:
        values = manifest.get(what)
        if values == _TOO_LONG:
            notes += (f"The {what} of {path} were too long to be written with it.",)
        elif values is not None and len(values) == len(members) and not _has(contents, what):
            found[what] = np.array(values, np.int64) if what == "repeats" else values
    return replace(contents, names=names, class_names=tuple(class_names), notes=notes, **found)


def _has(contents: Contents, what: str) -> bool:
    return getattr(contents, what) is not None


def _described(images: ImageSet) -> dict[str, Any]:
    """What a set says of its images beside names and labels, unless that is too long to be read."""
    found: dict[str, Any] = {}
    for what in _DESCRIBED:
        values = getattr(images, what)
        if values is not None:
            listed = [None if value is None else _plain(value) for value in values]
            is_short = len(json.dumps(listed, indent=1)) <= side_file_bytes(len(images)) // 4
            found[what] = listed if is_short else _TOO_LONG
    return found


def _plain(value: Any) -> str | int:
    return value if isinstance(value, str) else int(value)


def _are_texts_or_none(value: Any) -> bool:
    return value in (None, _TOO_LONG) or (
        isinstance(value, list) and all(text is None or isinstance(text, str) for text in value)
    )


def _are_counts(value: Any) -> bool:
    return value in (None, _TOO_LONG) or (
        isinstance(value, list) and all(type(n) is int and 0 < n < 1 << 31 for n in value)
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _are_sources(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(source, dict)
        and isinstance(source.get("path"), str)
        and isinstance(source.get("fingerprint"), str)
        for source in value
    )


def _are_choices(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_choice, value.values()))


def _is_choice(value: Any) -> bool:
    """Whether this is a value, a list of values, or the images that were left out."""
    return all(
        item is None
        or isinstance(item, str | int | float)
        or (isinstance(item, dict) and _are_texts([item.get("name"), item.get("duplicate_of")]))
        for item in (value if isinstance(value, list) else [value])
    )


_TYPES: dict[str, Callable[[Any], bool]] = {
    "memaudit": lambda value: isinstance(value, str),
    "sources": _are_sources,
    "choices": _are_choices,
    "names": _are_texts,
    "class_names": _are_texts,
    "captions": _are_texts_or_none,
    "groups": _are_texts_or_none,
    "repeats": _are_counts,
}
"""What a manifest must hold, and whether a value can be it."""


def _member(i: int) -> str:
    """The name of the i-th image in a set, without suffix."""
    return f"img{i:08d}"


def _named(images: ImageSet, progress: Progress) -> Iterator[NamedImage]:
    for i, pixels in enumerate(images.images):
        label = None if images.labels is None else int(images.labels[i])
        yield NamedImage(_member(i), pixels, label)
        progress("Writing images", i + 1, len(images))
