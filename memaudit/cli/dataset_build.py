"""`memaudit dataset build`: a training set from the images of one or two sources."""

from pathlib import Path
from typing import Any

import click

from memaudit.cli.options import config_options, data_options, from_options
from memaudit.data.selection import Selection
from memaudit.data.set_recipe import SetRecipe


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
def build(data_path: Path, out: Path, **options: Any) -> None:
    """Make a training set of the images of one or two sources.

    The images are selected, mixed, repeated and labeled, in this order. The same options give
    the same pixels and labels on every machine.

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

    from memaudit.cli.console import progress_bars, remark
    from memaudit.data.built_sets import write_set
    from memaudit.data.derived_sets import build_set
    from memaudit.data.sources import open_images
    from memaudit.data.writers import SET_FORMS, check_writable

    check_writable(out, SET_FORMS)
    paths = [data_path] if recipe.mix is None else [data_path, recipe.mix]
    with progress_bars() as progress:
        sources = [
            open_images(path, resolution=selection.resolution, progress=progress) for path in paths
        ]
        images = build_set(recipe, *sources)
        write_set(out, images, sources=sources, choices=recipe.choices, progress=progress)
    remark(f"{out}: {images.summary}, fingerprint {images.fingerprint}")
