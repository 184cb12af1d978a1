"""`memaudit dataset`: make training sets, look into them, find what they hold twice."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memaudit.cli.options import choose_device, data_options, device_option, select_data
from memaudit.errors import ConfigError
from memaudit.wording import counted

if TYPE_CHECKING:
    from memaudit.audit.neighbors.duplicates import Duplicates
    from memaudit.data.images import ImageSet

SHOWN_CLASSES = 20
"""Classes whose number of images is listed in the terminal."""
SHOWN_GROUPS = 10
"""Groups of duplicates listed in the terminal; the page and the table have more."""
SHOWN_NAMES = 3
"""Names listed of a set or a group."""

set_argument = click.argument("path", type=click.Path(path_type=Path), metavar="PATH")


@click.group()
def dataset() -> None:
    """Make training sets, look into them, find what they hold twice.

    \b
    memaudit dataset build --data cifar10.zip --size 1000 --balanced --out cifar10-1000.zip
    memaudit dataset inspect cifar10-1000.zip
    memaudit dataset duplicates cifar10.zip --out duplicates
    """


@dataset.command()
@data_options
@click.option(
    "--mix",
    "mix_path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Draw a share of the images from this source, at random by --order-seed; the other "
    "options choose what the rest is drawn from.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    metavar="A",
    help="Of the images that are from --mix, between 0 and 1.",
)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="K",
    help="Take each image K times.",
)
@click.option(
    "--labels",
    type=click.Choice(["true", "random", "unique", "none"]),
    help="Labels to write: the source's, random ones, one of its own for each image, or none.  "
    "[default: the source's, if any]",
)
@click.option(
    "--num-classes", type=click.IntRange(min=1), metavar="C", help="Classes of random labels."
)
@click.option("--label-seed", type=int, default=0, show_default=True, help="Seed of random labels.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="SET",
    help="Write a .zip in EDM's form, an .npz or a folder, with a manifest of how it was made.",
)
def build(
    data_path: Path,
    mix_path: Path | None,
    share: float | None,
    repeat: int,
    labels: Any,
    num_classes: int | None,
    label_seed: int,
    out: Path,
    **selection: Any,
) -> None:
    """Make a training set of the images of one or two sources.

    The images are selected, mixed, repeated and labeled, in this order. The same options give
    the same pixels and labels on every machine.

    \b
    # the paper's class-balanced subset of 1,000 images, at 16x16
    memaudit dataset build --data cifar10.zip --size 1000 --balanced --resolution 16 --out a.zip
    # random labels of 10 classes; a class of its own for each image
    memaudit dataset build --data a.zip --labels random --num-classes 10 --out b.zip
    memaudit dataset build --data a.zip --labels unique --out c.zip
    # dogs of two sources, a fifth of them from the second
    memaudit dataset build --data cifar10.zip --label dog --mix ./dogs --share 0.2 --size 1000 \\
        --resolution 32 --out dogs.zip
    """
    from memaudit.cli.console import progress_bars, remark
    from memaudit.data.built_sets import write_set
    from memaudit.data.derived_sets import mix, repeated, with_labels
    from memaudit.data.sources import open_images
    from memaudit.data.writers import SET_FORMS, check_writable

    size = selection["size"]
    _check_mix(mix_path, share, size=size, balanced=selection["balanced"])
    if (labels == "random") != (num_classes is not None):
        raise ConfigError("--labels random and --num-classes go together; give both or neither.")
    check_writable(out, SET_FORMS)
    choices = {
        **selection,
        "share": share,
        "repeat": repeat,
        "labels": labels,
        "num_classes": num_classes,
        "label_seed": label_seed,
    }
    resolution = selection.pop("resolution")
    with progress_bars() as progress:
        sources = [open_images(data_path, resolution=resolution, progress=progress)]
        if mix_path is None or share is None:
            images = select_data(sources[0], **selection)
        else:
            sources.append(open_images(mix_path, resolution=resolution, progress=progress))
            first = select_data(sources[0], **selection | {"size": None})
            seed = selection["order_seed"]
            images = mix(first, sources[1], share=share, size=size, seed=seed)
        images = repeated(images, repeat)
        if labels is not None:
            images = with_labels(images, labels, num_classes=num_classes, seed=label_seed)
        write_set(out, images, sources=sources, choices=choices, progress=progress)
    remark(f"{out}: {_contents(images)}, fingerprint {images.fingerprint}")


@dataset.command()
@set_argument
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def inspect(path: Path, as_json: bool) -> None:
    """Say what a training set holds, and what it was made of.

    Number, shape and fingerprint of the images, the classes with their numbers of images, names,
    and the manifest of a set that `memaudit dataset build` made.

    \b
    memaudit dataset inspect cifar10.zip
    """
    from memaudit.cli.console import progress_bars
    from memaudit.data.built_sets import set_manifest
    from memaudit.data.sources import open_images

    with progress_bars() as progress:
        images = open_images(path, progress=progress)
        fingerprint = images.fingerprint
    manifest = set_manifest(path)
    counts = _class_counts(images)
    if as_json:
        _print_json(
            {
                "path": images.source,
                "fingerprint": fingerprint,
                "num_images": len(images),
                "image_shape": images.image_shape,
                "num_classes": images.num_classes,
                "class_names": images.class_names,
                "class_counts": counts,
                "names": list(images.names),
                "manifest": manifest,
            }
        )
        return
    _print_row("path", images.source)
    _print_row("images", _contents(images))
    _print_row("fingerprint", fingerprint)
    if len(counts) <= SHOWN_CLASSES:
        for i, count in enumerate(counts):
            name = f" {images.class_names[i]}" if images.class_names else ""
            _print_row(f"  class {i}{name}", f"{count:,}")
    else:
        _print_row("images a class", f"{min(counts):,} to {max(counts):,}")
    _print_row("names", _some(images.names))
    if manifest is not None:
        _print_row("made by", f"memaudit {manifest['memaudit']}")
        for source in manifest["sources"]:
            _print_row("  of", f"{source['path']}, fingerprint {source['fingerprint']}")
        for name, choice in _made(manifest["choices"]).items():
            _print_row(f"  {name.replace('_', ' ')}", _written(choice))


@dataset.command()
@set_argument
@click.option(
    "--duplicate-rms",
    type=click.FloatRange(min=0),
    default=8.0,
    show_default=True,
    metavar="LEVELS",
    help="Images this close (RMS gray levels of 0-255) are duplicates; 0 finds equal ones only.",
)
@click.option("--flips", is_flag=True, help="Find mirrored duplicates, too.")
@device_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write a page to look at, duplicates.html, and duplicates.csv there.",
)
@click.option(
    "--write",
    "kept",
    type=click.Path(path_type=Path),
    metavar="SET",
    help="Write the set with the first of each group only: a .zip, .npz or folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the groups as JSON.")
def duplicates(
    path: Path,
    duplicate_rms: float,
    flips: bool,
    device: str,
    out: Path | None,
    kept: Path | None,
    as_json: bool,
) -> None:
    """Find images that a training set holds twice, exactly or nearly.

    A model copies such images first, and the published rule for copies does not see it.

    \b
    memaudit dataset duplicates cifar10.zip --out duplicates
    # equal images only, and the set without them
    memaudit dataset duplicates cifar10.zip --duplicate-rms 0 --write distinct.zip
    """
    from memaudit.audit.neighbors.duplicates import find_duplicates
    from memaudit.audit.report.duplicates_page import write_duplicates
    from memaudit.cli.console import progress_bars, remark
    from memaudit.data.built_sets import write_set
    from memaudit.data.sources import open_images
    from memaudit.data.writers import SET_FORMS, check_writable

    if out is not None:
        check_writable(out, {"": "a folder"})
    if kept is not None:
        check_writable(kept, SET_FORMS)
    where = choose_device(device)
    with progress_bars() as progress:
        images = open_images(path, progress=progress)
        found = find_duplicates(
            images, duplicate_rms=duplicate_rms, flips=flips, device=where, progress=progress
        )
        if out is not None:
            page = write_duplicates(found, images, out)
        if kept is not None:
            left_out = [
                {"name": images.names[i], "duplicate_of": images.names[group.indices[0]]}
                for group in found.groups
                for i in group.indices[1:]
            ]
            choices = {"duplicate_rms": duplicate_rms, "flips": flips, "left_out": left_out}
            without = images.take(found.kept)
            write_set(kept, without, sources=[images], choices=choices, progress=progress)
    if as_json:
        _print_json(_duplicates_json(found, images))
    else:
        _print_duplicates(found, images)
    if out is not None:
        remark(f"Page: {page}")
    if kept is not None:
        remark(
            f"{kept}: {_contents(without)}, {counted(len(left_out), 'image', 'images')} left out"
        )


def _check_mix(
    mix_path: Path | None, share: float | None, *, size: int | None, balanced: bool
) -> None:
    """Refuse options of a mixture that do not go together."""
    if (mix_path is None) != (share is None):
        raise ConfigError("--mix and --share go together; give both or neither.")
    if mix_path is None:
        return
    if size is None:
        raise ConfigError("--mix needs --size, the number of images of both sources together.")
    if balanced:
        raise ConfigError("--mix draws whatever the classes are; leave --balanced out.")


def _contents(images: "ImageSet") -> str:
    """`1,000 images, 3 x 32 x 32, 10 classes`."""
    C, H, W = images.image_shape
    num_classes = images.num_classes
    classes = counted(num_classes, "class", "classes") if num_classes else "no labels"
    return f"{counted(len(images), 'image', 'images')}, {C} x {H} x {W}, {classes}"


def _made(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a manifest's choices that make a difference to the set."""
    defaults = {"order": "first", "repeat": 1}
    seeds = {
        "order_seed": choices.get("order") == "random" or choices.get("share") is not None,
        "label_seed": choices.get("labels") == "random",
    }
    return {
        name: choice
        for name, choice in choices.items()
        if choice is not None
        and choice is not False
        and choice != []
        and (name not in defaults or choice != defaults[name])
        and seeds.get(name, True)
    }


def _written(choice: Any) -> str:
    """A choice as a person writes it."""
    if isinstance(choice, list):
        return _some([_written(item) for item in choice])
    if isinstance(choice, dict):  # an image that was left out
        return f"{choice['name']} (duplicate of {choice['duplicate_of']})"
    if isinstance(choice, float):
        return f"{choice:g}"
    return "yes" if choice is True else str(choice)


def _class_counts(images: "ImageSet") -> list[int]:
    """How many images each class has."""
    import numpy as np

    if images.labels is None:
        return []
    return np.bincount(images.labels, minlength=images.num_classes).tolist()


def _duplicates_json(found: "Duplicates", images: "ImageSet") -> dict[str, Any]:
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
        "groups": [
            {
                "indices": group.indices,
                "names": [images.names[i] for i in group.indices],
                "squared_distance": group.squared_distance,
                "exact": group.is_copy,
            }
            for group in found.groups
        ],
    }


def _print_duplicates(found: "Duplicates", images: "ImageSet") -> None:
    from rich import box
    from rich.table import Table

    from memaudit.audit.neighbors.units import rms_gray_levels
    from memaudit.audit.report.duplicates_page import largest_groups
    from memaudit.cli.console import out
    from memaudit.cli.wording import percent, printable

    share = percent(found.num_in_groups / found.num_images)
    _print_row("images", f"{found.num_images:,}")
    _print_row("groups of duplicates", f"{len(found.groups):,}")
    _print_row("images in them", f"{found.num_in_groups:,} ({share})")
    _print_row("  equal to an earlier one", f"{found.num_copies:,}")
    _print_row(
        "  near an earlier one", f"{found.num_near:,}, within {found.duplicate_rms:g} gray levels"
    )
    _print_row("left without them", f"{len(found.kept):,}")
    if not found.groups:
        return
    table = Table(title="Largest groups", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("group", justify="right")
    table.add_column("images", justify="right")
    table.add_column("equal", justify="right")
    table.add_column("RMS distance", justify="right")
    table.add_column("names", overflow="fold")
    for number, group in largest_groups(found)[:SHOWN_GROUPS]:
        farthest = rms_gray_levels(max(group.squared_distance), images.image_shape)
        table.add_row(
            f"{number:,}",
            f"{len(group.indices):,}",
            f"{sum(group.is_copy):,}",
            f"{farthest:.2f}",
            printable(_some([images.names[i] for i in group.indices])),
        )
    out.print(table)


def _some(names: Sequence[str]) -> str:
    """The first names, and how many there are besides."""
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def _print_row(name: str, value: str) -> None:
    from rich.text import Text

    from memaudit.cli.console import out
    from memaudit.cli.wording import printable

    # Not a table: a fingerprint cut in two is of no use.
    out.print(Text.assemble((f"{name:<25} ", "bold"), printable(value)), soft_wrap=True)


def _print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, indent=2, allow_nan=False))
