"""`memaudit dataset build`: a training set from the images of one or two sources."""

from pathlib import Path
from typing import Any

import click

from memaudit.cli.options import config_options, data_options, from_options
from memaudit.data.selection import Selection
from memaudit.data.set_recipe import SetRecipe
from memaudit.errors import ConfigError


@click.command()
@data_options
@config_options(SetRecipe)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="SET",
    help="Write a .zip in EDM's form, an .npz or a folder, with a manifest of how it was made.",
)
@click.option("--overwrite", is_flag=True, help="Replace a set that is there.")
def build(data_path: Path, out: Path, overwrite: bool, **options: Any) -> None:
    """Make a training set of the images of one or two sources.

    The images are selected, mixed, repeated and labeled, in this order. The same options give
    the same pixels and labels on every machine. A folder is marked as unfinished, and refused by
    every command that reads images, until its last image is there; the same command resumes it.

    \b
    # a class-balanced subset of 1,000 images, at 16x16
    memaudit dataset build --data cifar10.zip --size 1000 --balanced --resolution 16 --out a.zip
    # the paper's random labels of 10 classes; a class of its own for each image
    memaudit dataset build --data a.zip --labels random --num-classes 10 --out b.zip
    memaudit dataset build --data a.zip --labels unique --out c.zip
    # dogs of two sources, a fifth of them from the second
    memaudit dataset build --data cifar10.zip --label dog --mix ./dogs --share 0.2 --size 1000 \\
        --resolution 32 --out dogs.zip
    """
    selection = from_options(Selection, options)
    recipe = from_options(SetRecipe, options, selection=selection)

    from memaudit.cli.console import progress_bars, remark, warn_about
    from memaudit.data.built_sets import check_set_writable, write_set
    from memaudit.data.derived_sets import build_set
    from memaudit.data.sources import open_images

    paths = [data_path] if recipe.mix is None else [data_path, recipe.mix]
    if out.exists() and any(path.exists() and out.samefile(path) for path in paths):
        raise ConfigError(f"{out} is a source of the set; name another place for the set itself.")
    check_set_writable(out, overwrite=overwrite)
    with progress_bars() as progress:
        sources = [
            open_images(path, resolution=selection.resolution, progress=progress) for path in paths
        ]
        images = build_set(recipe, *sources)
        write_set(
            out,
            images,
            sources=sources,
            choices=recipe.choices,
            overwrite=overwrite,
            progress=progress,
        )
    warn_about(images)
    remark(f"{out}: {images.summary}, fingerprint {images.fingerprint}")
