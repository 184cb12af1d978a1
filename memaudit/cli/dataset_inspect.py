"""`memaudit dataset inspect`: what a training set holds, and how it was made."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memaudit.cli.options import config_options, from_options
from memaudit.data.layout import Layout
from memaudit.data.preparation import Preparation
from memaudit.wording import joined, shown, some

if TYPE_CHECKING:
    from memaudit.data.images import ImageSet

SHOWN_CLASSES = 20
"""Classes whose number of images is listed in the terminal."""


@click.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="PATH")
@config_options(Layout)
@config_options(Preparation)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def inspect(path: Path, as_json: bool, **options: Any) -> None:
    """Say what a training set holds, and how it was made.

    Number, shape and fingerprint of the images, the number of images per class, names, and the
    manifest of a set that `memaudit dataset build` made.

    \b
    memaudit dataset inspect cifar10.zip
    """
    from memaudit.cli.console import print_json, progress_bars, warn_about
    from memaudit.data.built_sets import read_set_manifest
    from memaudit.data.sources import open_images

    layout = from_options(Layout, options)
    preparation = from_options(Preparation, options)
    with progress_bars() as progress:
        images = open_images(path, preparation, layout=layout, progress=progress)
        fingerprint = images.fingerprint
    warn_about(images)
    manifest = read_set_manifest(path, num_images=len(images))
    if not as_json:
        _print_set(images, manifest)
        return
    about = {
        "path": images.source,
        "fingerprint": fingerprint,
        "num_images": len(images),
        "image_shape": images.image_shape,
        "num_classes": images.num_classes,
        "class_names": images.class_names,
        "class_counts": _class_counts(images),
        "preparation": asdict(images.preparation),
        "kinds": dict(images.kinds),
        "split": images.split,
        "other_splits": images.other_splits,
        "labels_from": images.labels_from,
        "captions": None if images.captions is None else list(images.captions),
        "groups": None if images.groups is None else list(images.groups),
        "groups_from": images.groups_from,
        "controls_fingerprint": _controls(images),
        "repeats": None if images.repeats is None else images.repeats.tolist(),
        "names": list(images.names),
        "manifest": manifest,
    }
    print_json(about)


def _controls(images: "ImageSet") -> str:
    """The fingerprint that a report has of these as held-out images: of one of each group."""
    return images.one_per_group().fingerprint


def _print_set(images: "ImageSet", manifest: Mapping[str, Any] | None) -> None:
    from memaudit.cli.console import print_row

    print_row("path", images.source)
    print_row("images", images.summary)
    if not images.preparation.is_plain:
        print_row("prepared", str(images.preparation))
    print_row("fingerprint", images.fingerprint)
    if images.split is not None:
        left_out = f", without {joined(images.other_splits)}" if images.other_splits else ""
        print_row("split", f"{images.split}{left_out}")
    if images.labels_from is not None:
        print_row("labels from", images.labels_from)
    if images.captions is not None:
        described = [caption for caption in images.captions if caption is not None]
        print_row("captions", f"{len(described):,}, such as {shown(described[0])}")
    if images.groups is not None:
        print_row("groups", f"{len(set(images.groups)):,}")
    if images.groups_from is not None:
        print_row("groups from", images.groups_from)
        print_row(
            "as held-out images",
            f"one of each {images.group_kind}, fingerprint {_controls(images)}",
        )
    if images.repeats is not None:
        print_row("repeats", f"{images.repeats.min()} to {images.repeats.max()} in an epoch")
    counts = _class_counts(images)
    if len(counts) <= SHOWN_CLASSES:
        for i, count in enumerate(counts):
            name = f" {images.class_names[i]}" if images.class_names else ""
            print_row(f"  class {i}{name}", f"{count:,}")
    else:
        print_row("images per class", f"{min(counts):,} to {max(counts):,}")
    print_row("names", some(images.names))
    if manifest is not None:
        print_row("made by", f"memaudit {manifest['memaudit']}")
        for source in manifest["sources"]:
            print_row("  from", f"{source['path']}, fingerprint {source['fingerprint']}")
        for name, choice in _effective(manifest["choices"]).items():
            print_row(
                f"  {'recipe' if name == 'rule' else name.replace('_', ' ')}", _written(choice)
            )


def _effective(choices: Mapping[str, Any]) -> dict[str, Any]:
    """The choices in a manifest that made a difference to the set."""
    defaults = {"subset": "first", "repeat": 1, "fit": "none", "exif": "ignore"}
    is_mixture, has_random = choices.get("share") is not None, choices.get("labels") == "random"
    matters = {
        "subset_seed": choices.get("subset") == "random"
        or (is_mixture and choices.get("rule") != "published"),
        "label_seed": has_random,
        "rule": is_mixture or has_random,
    }
    return {
        name: choice
        for name, choice in choices.items()
        if choice is not None
        and choice is not False
        and choice != []
        and (name not in defaults or choice != defaults[name])
        and matters.get(name, True)
    }


def _written(choice: Any) -> str:
    """A choice as a person writes it."""
    if isinstance(choice, list):
        return some([_written(item) for item in choice])
    if isinstance(choice, dict):  # an image that was left out
        return f"{choice['name']} (duplicate of {choice['duplicate_of']})"
    if isinstance(choice, float):
        return f"{choice:g}"
    return "yes" if choice is True else str(choice)


def _class_counts(images: "ImageSet") -> list[int]:
    """The number of images of each class."""
    import numpy as np

    if images.labels is None:
        return []
    return [int(count) for count in np.bincount(images.labels, minlength=images.num_classes)]
