"""Write duplicates to look at and to sort: duplicates.html and duplicates.csv.

Its words are in templates/words.en.toml, its look in templates/report.css.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import memaudit
from memaudit.audit.neighbors.duplicates import DuplicateGroup, Duplicates
from memaudit.audit.neighbors.units import rms_gray_levels
from memaudit.audit.report.folder import write_texts
from memaudit.audit.report.html import LARGEST_PICTURE, Picture, embed, render_template
from memaudit.audit.report.pictures import Pictures
from memaudit.data.images import ImageSet
from memaudit.escapes import csv_text
from memaudit.wording import short

PAGE = "duplicates.html"
TABLE = "duplicates.csv"
OPEN_GROUPS = 12
"""Groups that stand open; the others are folded away."""
SHOWN_GROUPS = 100
"""Groups shown. These limits keep a page of 64×64 images under 15 MB."""
SHOWN_IMAGES = 8
"""Images shown per group."""


@dataclass(frozen=True)
class ShownImage:
    """An image of a group, ready to be shown."""

    index: int
    name: str
    is_first: bool
    is_copy: bool
    """Whether it equals an earlier one."""
    rms: float
    """Distance to the first image of the group, in RMS gray levels."""
    belongs_to: str
    """The patient or whatever else it belongs to, where that counts; else empty."""
    picture: Picture | None


@dataclass(frozen=True)
class ShownGroup:
    """A group, with as many of its images as are shown."""

    number: int
    """Number of the group in duplicates.csv."""
    size: int
    num_copies: int
    images: tuple[ShownImage, ...]


def write_duplicates(
    found: Duplicates, images: ImageSet, folder: str | Path, *, pictures: Pictures = "full"
) -> Path:
    """Write the page and the table.

    Args:
        found: the result of `find_duplicates(images)`.
        images: the images that were searched.
        folder: where to write; created if necessary.
        pictures: what the page shows of the images; as in `write_report`.

    Returns:
        Path of duplicates.html.
    """
    texts = {TABLE: duplicates_csv(found, images), PAGE: duplicates_page(found, images, pictures)}
    write_texts(folder, texts)
    return Path(folder) / PAGE


def duplicates_csv(found: Duplicates, images: ImageSet) -> str:
    """The text of duplicates.csv, with one row per image that has a duplicate.

    `group` counts from 1 in the order of the groups' first images, `squared_distance` and `rms`
    are distances to the group's first image, and `exact` is 1 if an earlier image is equal.
    `belongs_to` is the patient or whatever else the image belongs to, where that counts.
    """
    owners = _owners(images)
    header = ["group", "index", "name", "squared_distance", "rms", "exact"]
    return csv_text(
        header if owners is None else [*header, "belongs_to"],
        (
            [
                number,
                i,
                images.names[i],
                S,
                rms_gray_levels(S, images.image_shape),
                int(is_copy),
                *([] if owners is None else [owners[i]]),
            ]
            for number, group in enumerate(found.groups, start=1)
            for i, S, is_copy in _members(group)
        ),
    )


def num_shared(found: Duplicates, images: ImageSet) -> int | None:
    """How many groups of duplicates hold images of several patients, or None where images belong to
    nobody.

    An image that belongs to two is a mistake in the set, or a person who is in it twice.
    """
    owners = _owners(images)
    if owners is None:
        return None
    return sum(len({owners[i] for i in group.indices}) > 1 for group in found.groups)


def _owners(images: ImageSet) -> Sequence[str | None] | None:
    return images.groups if images.groups_from is not None else None


def duplicates_page(found: Duplicates, images: ImageSet, pictures: Pictures = "full") -> str:
    """Render duplicates.html."""
    shown = largest_groups(found)[:SHOWN_GROUPS]
    return render_template(
        "duplicates.html.j2",
        found=found,
        data=images,
        groups=[_shown(number, group, images, pictures) for number, group in shown],
        open_groups=OPEN_GROUPS,
        num_kept=len(found.kept),
        num_shared=num_shared(found, images),
        shown=pictures,
        reduced=pictures == "full" and max(images.image_shape[1:]) > LARGEST_PICTURE,
        version=memaudit.__version__,
    )


def largest_groups(found: Duplicates) -> list[tuple[int, DuplicateGroup]]:
    """The groups with their numbers, largest first; among groups of equal size, closest first."""
    return sorted(
        enumerate(found.groups, start=1),
        key=lambda item: (-len(item[1].indices), max(item[1].squared_distance)),
    )


def _members(group: DuplicateGroup) -> Iterator[tuple[int, int, bool]]:
    return zip(group.indices, group.squared_distance, group.is_copy, strict=True)


def _shown(number: int, group: DuplicateGroup, images: ImageSet, pictures: Pictures) -> ShownGroup:
    members = list(_members(group))[:SHOWN_IMAGES]
    owners = _owners(images)
    return ShownGroup(
        number=number,
        size=len(group.indices),
        num_copies=sum(group.is_copy),
        images=tuple(
            ShownImage(
                index=i,
                name=images.names[i],
                is_first=i == group.indices[0],
                is_copy=is_copy,
                rms=rms_gray_levels(S, images.image_shape),
                belongs_to="" if owners is None else owners[i] or "",
                picture=embed(images.images[i], f"Image {i}, {short(images.names[i])}", pictures),
            )
            for i, S, is_copy in members
        ),
    )
