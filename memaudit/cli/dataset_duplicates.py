"""`memaudit dataset duplicates`: images that a training set holds more than once."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memaudit.audit.memorization.rule import Rule
from memaudit.cli.options import (
    choose_device,
    choose_pictures,
    config_options,
    device_option,
    from_options,
    pictures_options,
)
from memaudit.data.layout import Layout
from memaudit.data.preparation import Preparation
from memaudit.wording import counted, plural, some

if TYPE_CHECKING:
    from memaudit.audit.neighbors.duplicates import DuplicateGroup, Duplicates
    from memaudit.data.images import ImageSet

SHOWN_GROUPS = 10
"""Groups of duplicates listed in the terminal; the page and the table have more."""


@click.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="PATH")
@config_options(Layout)
@config_options(Preparation)
@config_options(Rule, "duplicate_rms")
@click.option("--flips", is_flag=True, help="Find mirrored duplicates, too.")
@device_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write a page to look at, duplicates.html, and duplicates.csv there.",
)
@pictures_options
@click.option(
    "--write",
    "kept",
    type=click.Path(path_type=Path),
    metavar="SET",
    help="Write the set with only the first image of each group: a .zip, .npz or folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the groups as JSON.")
def duplicates(
    path: Path,
    flips: bool,
    device: str,
    out: Path | None,
    no_images: bool,
    blur: bool,
    kept: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find images that a training set holds twice, exactly or nearly.

    A model copies such images first, and the published rule for copies does not notice it.

    \b
    memaudit dataset duplicates cifar10.zip --out duplicates
    # only images that are equal, and the set without them
    memaudit dataset duplicates cifar10.zip --duplicate-rms 0 --write distinct.zip
    """
    from memaudit.audit.neighbors.duplicates import find_duplicates
    from memaudit.audit.report.duplicates_page import write_duplicates
    from memaudit.cli.console import print_json, progress_bars, remark, warn_about
    from memaudit.cli.forecast import say_search_time
    from memaudit.cli.long_work import finish
    from memaudit.data.built_sets import check_set_writable, write_set
    from memaudit.data.sources import open_images
    from memaudit.data.writers import check_writable

    layout = from_options(Layout, options)
    preparation = from_options(Preparation, options)
    duplicate_rms = from_options(Rule, options).duplicate_rms
    pictures = choose_pictures(no_images, blur)
    if out is not None:
        check_writable(out, {"": "a folder"})
    if kept is not None:
        check_set_writable(kept)
    where = choose_device(device)
    with progress_bars() as progress:
        images = open_images(path, preparation, layout=layout, progress=progress)
        warn_about(images)
        say_search_time(images, len(images), device=where, flips=flips)
        found = find_duplicates(
            images, duplicate_rms=duplicate_rms, flips=flips, device=where, progress=progress
        )
        if out is not None:
            page = write_duplicates(found, images, out, pictures=pictures)
        if kept is not None:
            left_out = [
                {"name": images.names[i], "duplicate_of": images.names[group.indices[0]]}
                for group in found.groups
                for i in group.indices[1:]
            ]
            choices = {"duplicate_rms": duplicate_rms, "flips": flips, "left_out": left_out}
            choices |= images.preparation.choices
            without = images.take(found.kept)
            write_set(kept, without, sources=[images], choices=choices, progress=progress)
    if as_json:
        print_json(_as_dict(found, images))
    else:
        _print_duplicates(found, images)
    if out is not None:
        remark(f"Page: {page}")
    if kept is not None:
        remark(f"{kept}: {without.summary}, {counted(len(left_out), 'image', 'images')} left out")
    finish(f"{found.num_copies:,} of {found.num_images:,} images repeat another")


def _as_dict(found: "Duplicates", images: "ImageSet") -> dict[str, Any]:
    from memaudit.audit.report.duplicates_page import num_shared

    return {
        "path": images.source,
        "fingerprint": images.fingerprint,
        "num_images": found.num_images,
        "duplicate_rms": found.duplicate_rms,
        "flips": found.flips,
        "num_groups": len(found.groups),
        "num_in_groups": found.num_in_groups,
        "num_copies": found.num_copies,
        "num_near": found.num_near,
        "num_shared": num_shared(found, images),
        "groups": [
            {
                "indices": group.indices,
                "names": [images.names[i] for i in group.indices],
                "squared_distance": group.squared_distance,
                "exact": group.is_copy,
                **_belonging(images, group),
            }
            for group in found.groups
        ],
    }


def _belonging(images: "ImageSet", group: "DuplicateGroup") -> dict[str, Any]:
    """The patients or whatever else the images of a group belong to, where that counts."""
    if images.groups_from is None or images.groups is None:
        return {}
    return {"belongs_to": [images.groups[i] for i in group.indices]}


def _print_duplicates(found: "Duplicates", images: "ImageSet") -> None:
    from rich import box
    from rich.table import Table

    from memaudit.audit.neighbors.units import rms_gray_levels
    from memaudit.audit.report.duplicates_page import largest_groups, num_shared
    from memaudit.cli.console import out, print_row
    from memaudit.cli.wording import percent

    share = percent(found.num_in_groups / found.num_images)
    print_row("images", f"{found.num_images:,}")
    print_row("groups of duplicates", f"{len(found.groups):,}")
    print_row("images in them", f"{found.num_in_groups:,} ({share})")
    print_row("  equal to an earlier one", f"{found.num_copies:,}")
    print_row(
        "  near an earlier one", f"{found.num_near:,}, within {found.duplicate_rms:g} gray levels"
    )
    print_row("left without them", f"{len(found.kept):,}")
    shared = num_shared(found, images)
    if shared is not None:
        print_row(f"groups with several {plural(images.group_kind)}", f"{shared:,}")
    if not found.groups:
        return
    table = Table(title="Largest groups", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("group", "images", "equal", "RMS distance"):
        table.add_column(column, justify="right")
    table.add_column("names", overflow="fold")
    for number, group in largest_groups(found)[:SHOWN_GROUPS]:
        farthest = rms_gray_levels(max(group.squared_distance), images.image_shape)
        table.add_row(
            f"{number:,}",
            f"{len(group.indices):,}",
            f"{sum(group.is_copy):,}",
            f"{farthest:.2f}",
            some([images.names[i] for i in group.indices]),
        )
    out.print(table)
