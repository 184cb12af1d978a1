"""`memaudit dataset build`: a training set from the images of one or two sources."""

from pathlib import Path
from typing import Any

import click

from memaudit.cli.options import config_options, data_option, from_options
from memaudit.data.layout import Layout
from memaudit.data.preparation import Preparation
from memaudit.data.selection import Selection
from memaudit.data.set_recipe import SetRecipe
from memaudit.errors import ConfigError
from memaudit.options import config_fields
from memaudit.wording import counted, listed, plural


@click.command()
@data_option
@config_options(Selection, but=["labels_from"])
@config_options(Preparation)
@config_options(SetRecipe, but=["labels"])
@click.option(
    "--labels",
    metavar="true|random|unique|none|folder|prefix|FILE",
    help="Labels to write: those of the source, random ones, a class of its own for each image, "
    "none, those of folders, of the prefixes of file names, or of a CSV file with a name and a "
    "label in each row.  [default: those of the source, if any]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="SET",
    help="Write a .zip in EDM's form, an .npz or a folder, with a manifest of how it was made.",
)
@click.option("--overwrite", is_flag=True, help="Replace a set that is there.")
def build(data_path: Path, out: Path, overwrite: bool, labels: str | None, **options: Any) -> None:
    """Make a training set of the images of one or two sources.

    The images are selected, mixed, repeated and labeled, in this order. The same options give
    the same pixels and labels on every machine. A folder is marked as unfinished, and refused by
    every command that reads images, until its last image is there; the same command resumes it.

    \b
    # a class-balanced subset of 1,000 images, at 16x16
    memaudit dataset build --data cifar10.zip --size 1000 --balanced \\
        --resolution 16 --out a.zip
    # the paper's random labels of 10 classes; a class of its own for each image
    memaudit dataset build --data a.zip --labels random --num-classes 10 \\
        --out b.zip
    memaudit dataset build --data a.zip --labels unique --out c.zip
    # dogs of two sources, a fifth of them from the second
    memaudit dataset build --data cifar10.zip --label dog --mix ./dogs \\
        --share 0.2 --size 1000 \\
        --resolution 32 --out dogs.zip
    """
    is_scheme = labels is None or labels in config_fields(SetRecipe)["labels"].choices
    preparation = from_options(Preparation, options)
    selection = from_options(Selection, options, labels_from=None if is_scheme else labels)
    scheme = {"labels": labels if is_scheme else None}
    recipe = from_options(SetRecipe, options, selection=selection, **scheme)

    from memaudit.cli.console import progress_bars, remark, warn_about
    from memaudit.cli.forecast import say_reading_time
    from memaudit.cli.long_work import finish
    from memaudit.data.built_sets import check_set_writable, write_set
    from memaudit.data.derived_sets import build_set, cut_groups
    from memaudit.data.sources import open_images

    paths = [data_path] if recipe.mix is None else [data_path, recipe.mix]
    if out.exists() and any(path.exists() and out.samefile(path) for path in paths):
        raise ConfigError(f"{out} is a source of the set; name another place for the set itself.")
    check_set_writable(out, overwrite=overwrite)
    beside = Layout(groups_from=selection.groups_from)
    with progress_bars() as progress:
        sources = [
            open_images(
                path,
                preparation,
                layout=selection if path is data_path else beside,
                progress=progress,
            )
            for path in paths
        ]
        images = build_set(recipe, *sources)
        say_reading_time(images)
        write_set(
            out,
            images,
            sources=sources,
            choices=recipe.choices | preparation.choices | {"split": sources[0].split},
            overwrite=overwrite,
            progress=progress,
        )
    warn_about(images)
    for source in sources:
        if cut := cut_groups(source, images):
            kinds = counted(len(cut), source.group_kind, plural(source.group_kind))
            remark(
                f"For {kinds} of {source.source} ({listed(cut)}), only a part of the images is in "
                "the set: do not hold out any of the others."
            )
    remark(f"{out}: {images.summary}, fingerprint {images.fingerprint}")
    finish(f"{images.summary}: {out}")
