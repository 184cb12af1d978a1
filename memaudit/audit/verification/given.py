"""The images and the checkpoint that a report should be about: are they the ones given?

Nothing is taken from a cache: what lies there may be older than the files, or somebody else's.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memaudit.audit.report.schema import Data, Report
from memaudit.audit.report.tables import LeakNames, MatchTable, caption_text
from memaudit.audit.source import OPTIMUM
from memaudit.audit.verification.check import Check, check
from memaudit.data.images import ImageSet
from memaudit.data.layout import LABELS_FROM, Layout
from memaudit.data.preparation import AS_STORED
from memaudit.data.sources import open_images
from memaudit.errors import ConfigError, DataError
from memaudit.files import open_regular
from memaudit.models.checkpoints import open_checkpoint
from memaudit.progress import Progress
from memaudit.wording import parse_ranges, shown

LARGEST_PREPARED = 1024
"""Images are prepared at this size, or a smaller one, whatever a report says of them."""
LARGEST_GROWTH = 4
"""At a larger size they may have this many times the pixels that they are stored with."""


@dataclass(frozen=True)
class Given:
    """What was opened, where it is what the report says."""

    data: ImageSet | None = None
    """The training images."""
    images: ImageSet | None = None
    """The generated images that were given, in the order of the rows."""
    checkpoint: Path | None = None
    """The checkpoint, whose bytes have the hash that the report states."""


# ------------------------------------------------------------------------------------------------
# Training images


def open_data(
    path: Path,
    stated: Data,
    progress: Progress,
    *,
    labels_file: Path | None = None,
    groups_from: str | None = None,
) -> ImageSet | str:
    """The part of the images at `path` that a report names, or what is wrong with it.

    Args:
        path: the training images as a whole.
        stated: what the report says of them.
        progress: told how many images are read.
        labels_file: the file that the report's labels come from, if it names one: a file that a
            report names is not opened.
        groups_from: what the report's groups come from, if it has some: a file or a regular
            expression that a report names is neither opened nor run.

    Raises:
        ConfigError: the report's labels come from a file, or it has groups, which was not given.
        DataError: the images cannot be read.
    """
    labels_from = stated.labels_from
    if labels_from is not None and labels_from not in LABELS_FROM:
        if labels_file is None:
            raise ConfigError(
                f"The report's labels come from the file {shown(labels_from)}; give it with "
                "{labels_file}.",
                field="labels_file",
            )
        labels_from = str(labels_file)
    if stated.groups_from is None:
        groups_from = None
    elif groups_from is None:
        raise ConfigError(
            f"The report's groups come from {shown(stated.groups_from)}; give it with "
            "{groups_from}.",
            field="groups_from",
        )
    layout = Layout(stated.split, labels_from, groups_from)
    _, H, W = stated.image_shape
    preparation = stated.preparation
    if preparation.resolution not in (None, (H, W)):
        return f"are said to be prepared as {preparation}, not at {H} x {W} as reported"
    if preparation.resolution is not None and H * W > LARGEST_PREPARED**2:
        stored = preparation.at_stored_size()
        images = open_images(path, stored, layout=layout, cache_dir=False, progress=progress)
        height, width = images.image_shape[1:]
        if H * W > LARGEST_GROWTH * height * width:
            return f"are {height} x {width} pixels, not {H} x {W} as reported"
    images = open_images(path, preparation, layout=layout, cache_dir=False, progress=progress)
    height, width = images.image_shape[1:]
    if (height, width) != (H, W):
        return f"are {height} x {width} pixels, not {H} x {W} as reported"
    if stated.indices is not None:
        try:
            indices = np.array(parse_ranges(stated.indices, most=len(images)), dtype=np.int64)
        except ValueError:
            return f"are {len(images):,}, from which the positions reported cannot be taken"
        if indices.size and not 0 <= indices.min() <= indices.max() < len(images):
            return f"are {len(images):,}; the report names the position {int(indices.max()):,}"
        if len(np.unique(indices)) < len(indices):
            return "are said to have been taken more than once from a position"
        images = images.take(indices)
    if images.fingerprint != stated.fingerprint:
        return (
            f"are not those reported, {shown(stated.fingerprint)}, but "
            f"{shown(images.fingerprint)}; perhaps others were given"
        )
    return images


def check_data(
    data: ImageSet, report: Report, known: LeakNames | None, table: MatchTable | None
) -> Iterator[Check]:
    """Compare what a report says of its training images with the images themselves."""
    stated = report.data
    facts = {
        "num_images": (stated.num_images, len(data)),
        "image_shape": (tuple(stated.image_shape), data.image_shape),
        "num_classes": (stated.num_classes, data.num_classes),
        "class_names": (stated.class_names, data.class_names),
        "split": (stated.split, data.split),
        "other_splits": (stated.other_splits, data.other_splits),
        "groups": (
            (stated.num_groups, stated.groups_fingerprint),
            (data.num_groups, data.groups_fingerprint),
        ),
    }
    differing = [name for name, (said, found) in facts.items() if said != found]
    yield check("facts of the training images", not differing, f"differ: {', '.join(differing)}")
    if known is not None:
        wrong = [
            index
            for index, name in known.names.items()
            if not 0 <= index < len(data) or name != as_written(data.names[index])
        ]
        yield check(
            "names in leaks.csv",
            not wrong,
            f"are not those of the training images, such as that of image {wrong[:1]}",
        )
    if known is not None and known.groups is not None:
        named = data.groups or [None] * len(data)
        wrong = [
            index
            for index, group in known.groups.items()
            if not 0 <= index < len(data) or group != as_written(str(named[index]))
        ]
        yield check(
            "groups in leaks.csv",
            not wrong,
            f"are not those of the training images, such as that of image {wrong[:1]}",
        )
    if table is not None and table.groups is not None:
        found = MatchTable.groups_of(table.matches, data.group_numbers)
        same = found is not None and np.array_equal(found, table.groups)
        yield check("groups in matches.csv", same, "are not those of the training images")
    if known is not None and known.captions is not None:
        texts = data.captions or [None] * len(data)
        wrong = [
            index
            for index, text in known.captions.items()
            if not 0 <= index < len(data) or text != caption_text(texts[index])
        ]
        yield check(
            "captions in leaks.csv",
            not wrong,
            f"are not those of the training images, such as that of image {wrong[:1]}",
        )


# ------------------------------------------------------------------------------------------------
# Sources


def open_like_data(
    path: Path,
    data: Data,
    fingerprint: str | None,
    progress: Progress,
    *,
    layout: Layout | None = None,
) -> ImageSet:
    """Images prepared as the training images were; as they are stored, if that gives others.

    Of groups, the one image each that a scan takes for its controls.

    Args:
        path: the images.
        data: what the report says of the training images.
        fingerprint: that of the images wanted, or None if it is unknown.
        progress: told how many images are read.
        layout: the split to take, and the groups.
    """
    preparation = data.preparation
    if preparation.resolution is not None and max(preparation.resolution) > LARGEST_PREPARED:
        preparation = AS_STORED  # a report must not choose how long this takes
    images = open_images(
        path, preparation, layout=layout, cache_dir=False, progress=progress
    ).one_per_group()
    if preparation.is_plain or fingerprint in (None, images.fingerprint):
        return images
    stored = None
    with suppress(DataError):  # such as images of several sizes
        stored = open_images(
            path, layout=layout, cache_dir=False, progress=progress
        ).one_per_group()
    return images if stored is None or stored.fingerprint != fingerprint else stored


def open_given_images(
    path: Path, table: MatchTable, report: Report, progress: Progress
) -> tuple[ImageSet | None, list[Check]]:
    """The generated images at `path`, or those that were judged of them, and what is wrong."""
    whole = open_like_data(path, report.data, report.source.sha256, progress)
    images, num_rows = whole, len(table.keys)
    name = f"source {path}"
    if images.fingerprint != report.source.sha256 and num_rows < len(whole):
        images = whole.take(np.arange(num_rows))
    if images.fingerprint != report.source.sha256:
        return None, [Check(name, False, f"is not the one reported, {report.source.sha256}")]
    if len(images) != num_rows:
        detail = f"are {num_rows:,}, but {path} holds {len(images):,} images"
        return None, [Check("rows of the source", False, detail)]
    checks = [Check(name, True, "")]
    names = tuple(map(as_written, images.names))
    wrong = [position for position in range(num_rows) if names[position] != table.keys[position]]
    detail = ""
    if wrong:
        first = wrong[0]
        detail = (
            f"are not its images in their order: row {first + 1:,} is "
            f"{shown(table.keys[first])}, not {shown(names[first])}"
        )
    checks.append(check("rows of the source", not wrong, detail))
    is_same = same_classes(images.labels, table.class_index)
    checks.append(check("classes of the source", is_same, "are not those in matches.csv"))
    if len(whole) > num_rows:
        named = any(
            "only a part of the generated images" in each for each in report.conclusion.choices
        )
        detail = f"only {num_rows:,} of {len(whole):,} images were judged, and the report hides it"
        checks.append(check("part of the source", named, detail))
    return (images if not wrong else None), checks


def same_classes(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Whether images have the same classes, or none."""
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def checkpoint_hash(path: Path, data: ImageSet | None) -> str | None:
    """The SHA-256 that a report holds of a checkpoint."""
    if str(path) == OPTIMUM:
        return None if data is None else data.fingerprint
    if path.is_file():  # not opened, since bare weights could not be without their architecture
        digest = hashlib.sha256()
        with open_regular(path) as file:
            while part := file.read(1 << 20):
                digest.update(part)
        return digest.hexdigest()
    return open_checkpoint(path).sha256


def as_written(name: str) -> str:
    """A name as a table has it: what is not text is an escape there."""
    return name.encode(errors="backslashreplace").decode()
