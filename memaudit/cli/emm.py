"""`memaudit emm`: how many training images a setup memorizes."""

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
from memaudit.cli.ranks import check_alone, num_processes
from memaudit.cli.wording import interval, percent
from memaudit.data.layout import Layout
from memaudit.data.preparation import Preparation
from memaudit.data.selection import Selection
from memaudit.errors import ConfigError
from memaudit.experiments.config import RunConfig
from memaudit.experiments.emm.config import EMMConfig, SizeRange
from memaudit.experiments.training_presets import PRESETS, change_config
from memaudit.ranks.joined import current_worker

if TYPE_CHECKING:
    from memaudit.experiments.emm.search import EMMResult, EMMSetup, SearchForecast


@click.command()
@click.option(
    "--data",
    "data_path",
    type=ImagesPath(),
    metavar="PATH",
    help="Images to draw training sets from, in any form that scan reads.",
)
@config_options(Preparation)
@config_options(Layout, but=["groups_from"])
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="paper",
    show_default=True,
    help="Network and training to start from.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Change a field of the preset, such as lr=2e-3 or channel_mult=1,2; may be repeated.",
)
@config_options(SizeRange)
@config_options(EMMConfig)
@config_options(RunConfig)
@pictures_options
@click.option("--dry-run", is_flag=True, help="Say what the search will cost, and stop.")
@click.option(
    "--from-results",
    "results",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="Estimate from existing scans: a report.json or a folder with some; may be repeated.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for the runs, emm.json and emm.html.",
)
@device_option
@devices_option
@click.pass_context
def emm(
    ctx: click.Context,
    /,
    data_path: Path | None,
    preset: str,
    changes: tuple[str, ...],
    dry_run: bool,
    results: tuple[Path, ...],
    out: Path | None,
    device: str,
    no_images: bool,
    blur: bool,
    **options: Any,
) -> None:
    """Measure how many training images a setup memorizes.

    Effective model memorization (EMM) is the largest number of training images at which at least
    90 % of what the model generates are copies. Trains and scans at sizes chosen by bisection,
    several times at each, since EMM of another training of the same setup is another one; the same
    command resumes a search that was stopped.

    \b
    # what the paper's base setup costs on this machine, from 500 to 4,000 images
    memaudit emm --data cifar10.zip --balanced --min-size 500 --max-size 4000 \\
        --dry-run
    # a small network at 8x8
    memaudit emm --data cifar10.zip --resolution 8 --balanced --preset laptop \\
        --min-size 20 --max-size 320 --samples 500 --out emm-8
    # from existing scans
    memaudit emm --from-results runs/
    """
    from memaudit.cli.console import progress_bars, remark, warn_about
    from memaudit.data.subsets import open_selected
    from memaudit.experiments.emm.page import write_emm
    from memaudit.experiments.emm.search import (
        EMMSetup,
        estimate_emm_from_reports,
        find_emm,
        forecast_search,
    )
    from memaudit.experiments.train_and_scan import RunResult

    emm_config = from_options(EMMConfig, options)
    worker = current_worker()
    if results:
        check_alone("{results} reads what exists")
        if data_path is not None:
            raise ConfigError("--data starts trainings and --from-results needs none; give one.")
        result = estimate_emm_from_reports(results, epsilon=emm_config.epsilon)
        setup = None
    else:
        if data_path is None:
            raise ConfigError("Images to train on are needed: give --data, or --from-results.")
        if out is None and not dry_run:
            raise ConfigError(
                "The runs need a folder: give --out, or --dry-run for the cost alone."
            )
        training = change_config(PRESETS[preset], changes)
        runs = from_options(
            RunConfig,
            options,
            device=choose_device(device),
            pictures=choose_pictures(no_images, blur),
            parallel=num_processes(),
        )
        with progress_bars() as progress:
            selection = from_options(Selection, options)
            preparation = from_options(Preparation, options)
            images = open_selected(data_path, selection, preparation, progress=progress)
        warn_about(images)
        num_classes = max(images.num_classes, 1) if emm_config.balanced else 1
        sizes = from_options(SizeRange, options, multiple_of=num_classes)
        setup = EMMSetup(images, training, sizes, emm_config, runs)
        if worker is not None:
            ctx.exit(worker.serve({}) if out is None else setup.serve(worker, out))
        _show_forecast(setup, forecast_search(setup))
        if dry_run or out is None:
            return

        def show(run: RunResult) -> None:
            remark(
                f"{run.num_images:,} images, training {run.replicate} of {emm_config.replicates}: "
                f"{percent(run.highest.ratio)} copied ({percent(run.last.ratio)} at the end)."
            )

        with progress_bars() as progress:
            result = find_emm(setup, out=out, progress=progress, on_run=show)
    _show_result(result)
    if out is not None:
        page = write_emm(result, out, setup=setup)
        remark(f"Curve: {page}")


def _show_forecast(setup: "EMMSetup", forecast: "SearchForecast") -> None:
    from memaudit.cli.console import say
    from memaudit.experiments.cost import format_flops
    from memaudit.wording import duration

    throughput, parallel = forecast.throughput, setup.runs.parallel
    costs = forecast.cheapest_cost, forecast.dearest_cost
    replicates = setup.config.replicates
    trainings = sorted({replicates * len(one) for one in (forecast.cheapest, forecast.dearest)})
    work = dict.fromkeys(format_flops(cost.total) for cost in costs)
    time = dict.fromkeys(duration(throughput.seconds(cost) / parallel) for cost in costs)
    each = f", {replicates} at each size" if replicates > 1 else ""
    say(
        f"{' to '.join(map(str, trainings))} trainings, of {setup.sizes.min_size:,} to "
        f"{setup.sizes.max_size:,} images{each}: {' to '.join(work)}. At the speed found on "
        f"{setup.runs.device}, {format_flops(throughput.training)}/s in training and "
        f"{format_flops(throughput.sampling)}/s in sampling, that takes {' to '.join(time)}"
        + (f" with {parallel} runs side by side." if parallel > 1 else ".")
    )


def _show_result(result: "EMMResult") -> None:
    from rich import box
    from rich.table import Table

    from memaudit.cli.console import out, say
    from memaudit.cli.long_work import finish
    from memaudit.experiments.emm.page import describe_interval
    from memaudit.experiments.replicates import pool

    estimate = result.estimate
    has_replicates = estimate.replicates > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    names = ["|D|", "highest ratio"]
    names += ["interval", "each, %"] if has_replicates else ["this training", "copies"]
    for name in (*names, "last snapshot"):
        table.add_column(name, justify="right")
    for point in result.points:
        if has_replicates:
            detail = ", ".join(wording.percent(ratio.ratio) for ratio in point.highest)
        else:
            detail = f"{point.pooled.count:,} / {point.pooled.total:,}"
        table.add_row(
            f"{point.num_images:,}",
            percent(point.pooled.ratio),
            interval(point.mean or point.pooled),
            detail,
            percent(pool(point.last).ratio),
        )
    out.print(table)
    name = f"EMM (ε = {estimate.epsilon:g})"
    if estimate.emm is None:
        text = f"{name}: no estimate. {estimate.reason}"
    else:
        text = f"{name}: {estimate.emm:,.0f} images. {describe_interval(estimate)}"
        if result.runs and not has_replicates:
            text += " Give --replicates 3."
    say(text)
    finish(text)
