"""`memaudit reproduce`: the paper's rows, published beside measured."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memaudit.cli.options import (
    choose_device,
    device_option,
    parallel_option,
    snapshot_samples_option,
)
from memaudit.cli.wording import interval, percent
from memaudit.errors import ConfigError

if TYPE_CHECKING:
    from memaudit.data.images import ImageSet
    from memaudit.experiments.paper.recipes import Recipe
    from memaudit.experiments.paper.reproduce import Measured


@click.command()
@click.argument("name", required=False)
@click.option(
    "--data",
    "data_path",
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="Images to draw training sets from; the paper's are CIFAR-10's.",
)
@click.option(
    "--second-data",
    "second_path",
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="Second source of the mixtures in within-class-diversity.",
)
@click.option(
    "--value",
    "values",
    multiple=True,
    metavar="VALUE",
    help="Only this value of the factor; may be repeated.  [default: all]",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.IntRange(min=2),
    metavar="N",
    help="This number of training images; may be repeated.  [default: the recipe's]",
)
@click.option(
    "--resolution",
    type=click.IntRange(min=1),
    metavar="R",
    help="Only what trains on images of RxR.",
)
@click.option(
    "--scale",
    "is_laptop",
    is_flag=True,
    help="The same factor at the size of a laptop, which is not the paper's setting.",
)
@click.option(
    "--epochs",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Length of each training.  [default: the recipe's]",
)
@snapshot_samples_option
@parallel_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for the runs and results.jsonl; what is done there is not done again.",
)
@click.option(
    "--report",
    type=click.Path(exists=True, path_type=Path),
    metavar="DIR",
    help="Write reproduce.html for the results in DIR.",
)
@device_option
def reproduce(
    name: str | None,
    data_path: Path | None,
    second_path: Path | None,
    values: tuple[str, ...],
    sizes: tuple[int, ...],
    resolution: int | None,
    is_laptop: bool,
    epochs: float | None,
    samples: int,
    parallel: int,
    out: Path | None,
    report: Path | None,
    device: str,
) -> None:
    """Train what the paper trained, and hold its ratios against the published ones.

    Without NAME, lists the recipes with what they cost on this machine. With NAME, makes the data,
    trains, scans every snapshot and takes the highest ratio, as published. The same command goes on
    with what was stopped.

    \b
    memaudit reproduce
    # one point of a row: 8x8 images, 1,000 of them
    memaudit reproduce data-dimension --resolution 8 --size 1000 --data cifar10.zip --out results
    # a row where minutes on a CPU are enough
    memaudit reproduce conditioning --scale --size 80 --data cifar10.zip --samples 500 --out results
    memaudit reproduce --report results
    """
    from memaudit.cli.console import err, progress_bars, remark
    from memaudit.cli.console import out as console
    from memaudit.data.sources import open_images
    from memaudit.experiments.paper.page import NOT_COMPARABLE, write_page
    from memaudit.experiments.paper.recipes import RECIPES, find_recipe
    from memaudit.experiments.paper.reproduce import choose_points
    from memaudit.experiments.paper.reproduce import reproduce as run_recipe

    if report is not None:
        if name is not None:
            raise ConfigError("--report makes a page of results that are there; leave NAME out.")
        remark(f"Page: {write_page(report)}")
        return
    where = choose_device(device)
    if name is None:
        _list([r.at_laptop_scale() if is_laptop else r for r in RECIPES], samples, where)
        return

    recipe = find_recipe(name)
    if data_path is None or out is None:
        raise ConfigError("Training needs images and a folder: give --data and --out.")
    if is_laptop:
        recipe = recipe.at_laptop_scale()
        err.print(NOT_COMPARABLE, soft_wrap=True)
    points = choose_points(recipe, values=values, sizes=sizes, resolution=resolution, epochs=epochs)

    def show(measured: "Measured") -> None:
        err.print(
            f"{measured.value}, {measured.size:,} images: {percent(measured.highest.ratio)} "
            "copied.",
            highlight=False,
            soft_wrap=True,
        )

    with progress_bars() as progress:

        def source(path: Path) -> "Callable[[int], ImageSet]":
            return cache(lambda size: open_images(path, resolution=size, progress=progress))

        results = run_recipe(
            points,
            source(data_path),
            out=out,
            second=None if second_path is None else source(second_path),
            num_samples=samples,
            device=where,
            parallel=parallel,
            progress=progress,
            on_point=show,
        )
    console.print(_table(results, is_laptop=is_laptop))
    if is_laptop:
        _show_directions(results)


def _list(recipes: "Sequence[Recipe]", samples: int, device: str) -> None:
    """The recipes with the cost of all their trainings and scans."""
    import numpy as np
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from memaudit.cli.console import out
    from memaudit.data.images import ImageSet
    from memaudit.experiments.cost import Cost, flop_text, measure_speed
    from memaudit.experiments.paper.reproduce import choose_points, point_cost

    base = recipes[0]
    resolution = base.settings[0].data.resolution
    blank = np.zeros([64, 3, resolution, resolution], np.uint8)
    images = ImageSet(blank, [str(i) for i in range(len(blank))])
    speed = measure_speed(base.training(base.settings[0]), images, device=device)

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("recipe")
    for column in ("|D|", "trainings", "work", f"{device} hours"):
        table.add_column(column, justify="right", no_wrap=True)
    for recipe in recipes:
        points = choose_points(recipe)
        cost = sum((point_cost(point, num_samples=samples) for point in points), Cost(0, 0))
        table.add_row(
            Text.assemble(recipe.name, (f"\n{recipe.factor}", "dim")),
            "-".join(f"{size:,}" for size in sorted({recipe.sizes[0], recipe.sizes[-1]})),
            str(len(points)),
            flop_text(cost.total),
            _two_digits(speed.seconds(cost) / 3600),
        )
    out.print(table)
    out.print(
        "Hours are of one device, by the speed of the base network here: "
        f"{flop_text(speed.training)}/s in training, {flop_text(speed.sampling)}/s in sampling. "
        "Choose points with --value, --size and --resolution; every row at a fraction of it with "
        "--scale.",
        highlight=False,
        soft_wrap=True,
    )


def _two_digits(hours: float) -> str:
    """`130,000` or `0.47`: a forecast is good for no more digits."""
    return f"{float(f'{hours:.2g}'):,.10g}"


def _table(results: "Sequence[Measured]", *, is_laptop: bool) -> object:
    """Measured beside published, which at laptop scale has no place."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("value")
    columns = ["|D|", "measured", "interval", "last snapshot"]
    for column in columns if is_laptop else [*columns, "published", "verdict"]:
        table.add_column(column, justify="right")
    for result in results:
        cells = [
            result.value,
            f"{result.size:,}",
            percent(result.highest.ratio),
            interval(result.highest),
            percent(result.last.ratio),
        ]
        if not is_laptop:
            published = "–" if result.published is None else percent(result.published)
            cells += [published, result.verdict]
        table.add_row(*cells)
    return table


def _show_directions(results: "Sequence[Measured]") -> None:
    from memaudit.cli.console import out
    from memaudit.experiments.paper.reproduce import directions

    for direction in directions(results):
        out.print(
            f"|D| = {direction.first.size:,}: {direction.second.value} against "
            f"{direction.first.value}: {direction.outcome}.",
            highlight=False,
            soft_wrap=True,
        )
