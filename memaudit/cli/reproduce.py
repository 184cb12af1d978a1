"""`memaudit reproduce`: the paper's recipes, measured beside published."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memaudit import wording
from memaudit.cli.options import (
    ImagesPath,
    choose_device,
    choose_pictures,
    config_options,
    device_option,
    devices_option,
    from_options,
    pictures_options,
)
from memaudit.cli.ranks import num_processes
from memaudit.cli.wording import percent
from memaudit.data.preparation import Preparation
from memaudit.errors import ConfigError
from memaudit.experiments.config import RunConfig
from memaudit.experiments.paper.config import PointSelection
from memaudit.options import config_fields
from memaudit.ranks.joined import current_worker

if TYPE_CHECKING:
    from rich.table import Table

    from memaudit.audit.statistics.intervals import Estimate, Proportion
    from memaudit.data.images import ImageSet
    from memaudit.experiments.paper.recipes import Recipe
    from memaudit.experiments.paper.reproduce import RecipePoint, RecipeResult


PIXELS = tuple(name for name in config_fields(Preparation) if name != "resolution")
"""What may be said of the images besides their resolution, which is the recipe's."""


@click.command()
@click.argument("name", required=False)
@click.option(
    "--data",
    "data_path",
    type=ImagesPath(),
    metavar="PATH",
    help="Images to draw training sets from; the paper's are CIFAR-10's.",
)
@click.option(
    "--second-data",
    "second_data",
    type=ImagesPath(),
    metavar="PATH",
    help="Second source of images for the mixtures of within-class-diversity.",
)
@config_options(PointSelection)
@config_options(Preparation, *PIXELS)
@click.option(
    "--laptop",
    "is_laptop",
    is_flag=True,
    help="Vary the same factor at the size of a laptop, which is not the paper's setting.",
)
@config_options(RunConfig)
@pictures_options
@click.option("--dry-run", is_flag=True, help="Say what the trainings will cost, and stop.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for the runs and results.jsonl; what is already done there is read.",
)
@click.option(
    "--report",
    type=click.Path(exists=True, path_type=Path),
    metavar="DIR",
    help="Write reproduce.html for the results in DIR.",
)
@device_option
@devices_option
@click.pass_context
def reproduce(
    ctx: click.Context,
    /,
    name: str | None,
    data_path: Path | None,
    second_data: Path | None,
    is_laptop: bool,
    dry_run: bool,
    out: Path | None,
    report: Path | None,
    device: str,
    no_images: bool,
    blur: bool,
    **options: Any,
) -> None:
    """Train what the paper trained, and compare the ratios with the published ones.

    Without NAME, lists the recipes and what they cost on this machine. With NAME, makes the
    training sets, trains, scans every snapshot and takes the highest ratio, as published. The
    published ratio is that of one training, and another training has another one: the verdict
    allows for that, and --replicates measures it. The same command resumes what was stopped.

    \b
    memaudit reproduce
    # one point of a recipe: 8x8 images, 1,000 of them
    memaudit reproduce data-dimension --resolution 8 --size 1000 \\
        --data cifar10.zip --out results
    # a recipe for which minutes on a CPU are enough
    memaudit reproduce conditioning --laptop --size 80 --data cifar10.zip \\
        --samples 500 --out out
    memaudit reproduce --report results
    """
    from memaudit.cli.console import out as console
    from memaudit.cli.console import progress_bars, remark, say
    from memaudit.cli.long_work import finish
    from memaudit.data.sources import open_images
    from memaudit.experiments.paper.page import (
        NOT_COMPARABLE,
        explain_verdict,
        write_results_page,
    )
    from memaudit.experiments.paper.recipes import RECIPES, find_recipe
    from memaudit.experiments.paper.reproduce import choose_points, find_trends, plan_runs
    from memaudit.experiments.paper.reproduce import reproduce as run_recipe
    from memaudit.experiments.train_and_scan import serve_runs

    worker = current_worker()
    if worker is not None and (name is None or dry_run or report is not None):
        ctx.exit(worker.serve({}))  # nothing is trained
    if report is not None:
        if name is not None:
            raise ConfigError("--report makes a page of existing results; leave NAME out.")
        remark(f"Page: {write_results_page(report)}")
        return
    selection = from_options(PointSelection, options)
    prepare = {name: options.pop(name) for name in PIXELS}
    config = from_options(
        RunConfig,
        options,
        device=choose_device(device),
        pictures=choose_pictures(no_images, blur),
        parallel=num_processes(),
    )
    if name is None:
        whole = PointSelection(replicates=selection.replicates, rule=selection.rule)
        recipes = [r.for_laptop() if is_laptop else r for r in RECIPES]
        _list_recipes(recipes, whole, config, is_laptop=is_laptop)
        return

    recipe = find_recipe(name)
    if dry_run:
        recipes = [recipe.for_laptop() if is_laptop else recipe]
        _list_recipes(recipes, selection, config, is_laptop=is_laptop)
        return
    if data_path is None or out is None:
        raise ConfigError("Training needs images and a folder: give --data and --out.")
    if is_laptop:
        recipe = recipe.for_laptop()
        remark(NOT_COMPARABLE)
    points = choose_points(recipe, selection)

    def show(result: "RecipeResult") -> None:
        copied = percent(result.another.value)
        remark(f"{result.value}, {result.size:,} images: {copied} copied.")

    with progress_bars() as progress:

        def source(path: Path) -> "Callable[[int], ImageSet]":
            def opened(size: int) -> "ImageSet":
                preparation = Preparation(resolution=(size, size), **prepare)
                return open_images(path, preparation, progress=progress)

            return cache(opened)

        first = source(data_path)
        second = None if second_data is None else source(second_data)
        if worker is not None:
            planned = plan_runs(points, first, out=out, second=second)
            by_folder = {str(plan.out): plan for plan, _ in planned}
            ctx.exit(serve_runs(worker, lambda folder, size: by_folder[folder], config))
        results = run_recipe(
            points,
            first,
            out=out,
            second=second,
            config=config,
            progress=progress,
            on_planned=lambda: _say_forecast(points, config),
            on_result=show,
        )
    finish(f"{name}: {wording.counted(len(results), 'point', 'points')} reproduced")
    console.print(_make_table(results, is_laptop=is_laptop))
    if is_laptop:
        for trend in find_trends(results):
            say(str(trend))
    else:
        say(explain_verdict(results))


def _say_forecast(points: "Sequence[RecipePoint]", config: RunConfig) -> None:
    """Say how long the trainings and scans of these points will take, at most."""
    from memaudit.cli.console import remark
    from memaudit.experiments.paper.reproduce import predict_point_cost
    from memaudit.experiments.timing import measure_throughput

    seconds, trainings = 0.0, sum(point.replicates for point in points)
    for level in dict.fromkeys(point.level.value for point in points):
        same = [point for point in points if point.level.value == level]
        images = _noise(same[0].level.data.resolution, min(same[0].size, 2000))
        speed = measure_throughput(
            same[0].config, images, device=config.device, parallel=config.parallel
        )
        for point in same:
            seconds += speed.seconds(predict_point_cost(point, num_samples=config.num_samples))
    remark(
        f"Forecast: {wording.duration(seconds / config.parallel)} on {config.device} for "
        f"{wording.counted(trainings, 'training', 'trainings')} and the scans of their "
        "snapshots, less what is already done."
    )


def _noise(resolution: int, number: int) -> "ImageSet":
    """Images of noise with labels, on which a network is timed."""
    import numpy as np

    from memaudit.data.images import ImageSet

    shape = (number, 3, resolution, resolution)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return ImageSet(images, [str(i) for i in range(number)], labels=np.arange(number) % 10)


def _list_recipes(
    recipes: "Sequence[Recipe]", selection: PointSelection, config: RunConfig, *, is_laptop: bool
) -> None:
    """Show recipes with the cost of the chosen trainings and their scans."""
    from rich import box
    from rich.console import Group
    from rich.table import Table

    from memaudit.cli.console import out, say, styled
    from memaudit.experiments.cost import Cost, format_flops
    from memaudit.experiments.paper.reproduce import choose_points, predict_point_cost
    from memaudit.experiments.timing import measure_throughput
    from memaudit.wording import duration

    base = recipes[0]
    images = _noise(base.levels[0].data.resolution, 64)
    training = base.configure_training(base.levels[0])
    throughput = measure_throughput(training, images, device=config.device)

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("recipe")
    for column in ("|D|", "trainings", "work", f"time on {config.device}"):
        table.add_column(column, justify="right", no_wrap=True)
    for recipe in recipes:
        points = choose_points(recipe, selection)
        cost = sum(
            (predict_point_cost(point, num_samples=config.num_samples) for point in points),
            Cost(0, 0),
        )
        sizes = sorted(point.size for point in points)
        table.add_row(
            Group(recipe.name, styled(recipe.factor, "dim")),
            "-".join(f"{size:,}" for size in sorted({sizes[0], sizes[-1]})),
            f"{sum(point.replicates for point in points):,}",
            format_flops(cost.total),
            duration(throughput.seconds(cost)),
        )
    out.print(table)
    cheaper = "" if is_laptop else ", or run a recipe at a fraction of its cost with --laptop"
    say(
        "Times are for one device, at the speed of the base network here: "
        f"{format_flops(throughput.training)}/s in training, "
        f"{format_flops(throughput.sampling)}/s in sampling. Choose points with --value, --size "
        f"and --resolution{cheaper}."
    )


def _make_table(results: "Sequence[RecipeResult]", *, is_laptop: bool) -> "Table":
    """Put measured beside published ratios; the latter do not exist at laptop scale."""
    from rich import box
    from rich.table import Table

    from memaudit.experiments.replicates import pool

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("value")
    has_replicates = any(len(result.highest) > 1 for result in results)
    whose = "interval, %" if has_replicates else "this training, %"
    columns = ["|D|", "measured", whose, "another training, %", "last snapshot"]
    for column in columns if is_laptop else [*columns, "published", "verdict"]:
        table.add_column(column, justify="right")

    def ends(found: "Proportion | Estimate") -> str:
        return f"{wording.percent(found.low)} to {wording.percent(found.high)}"

    for result in results:
        cells = [
            result.value,
            f"{result.size:,}",
            percent(result.another.value),
            ends(result.trainings.mean() or pool(result.highest)),
            ends(result.another),
            percent(pool(result.last).ratio),
        ]
        if not is_laptop:
            published = "–" if result.published is None else percent(result.published)
            cells += [published, result.verdict]
        table.add_row(*cells)
    return table
