"""`memaudit emm`: how many images a set-up memorizes."""

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
    from memaudit.experiments.emm.search import EMMResult, EMMSetup, Forecast


@click.command()
@click.option(
    "--data",
    "data_path",
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="Images to draw training sets from, in any form that scan reads.",
)
@click.option(
    "--resolution",
    type=click.IntRange(min=1),
    metavar="R",
    help="Resize the images to RxR (Lanczos).",
)
@click.option("--balanced", is_flag=True, help="Draw equally many images of every class.")
@click.option(
    "--subset-seed",
    type=int,
    default=0,
    show_default=True,
    metavar="SEED",
    help="Which images are drawn; a smaller set is part of a larger one.",
)
@click.option(
    "--preset",
    type=click.Choice(["paper", "laptop"]),
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
@click.option(
    "--min-size",
    type=int,
    default=100,
    show_default=True,
    metavar="N",
    help="Smallest training set to try.",
)
@click.option(
    "--max-size",
    type=int,
    default=10_000,
    show_default=True,
    metavar="N",
    help="Largest training set to try.",
)
@click.option(
    "--tolerance",
    type=float,
    default=1.2,
    show_default=True,
    metavar="FACTOR",
    help="Stop where the sizes on both sides of EMM are at most this factor apart.",
)
@click.option(
    "--epsilon",
    type=float,
    default=0.1,
    show_default=True,
    metavar="EPS",
    help="EMM is where the ratio falls below 1-EPS.",
)
@snapshot_samples_option
@parallel_option
@click.option("--dry-run", is_flag=True, help="Say what it will cost, and stop.")
@click.option(
    "--from-results",
    "results",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="Estimate from scans made already: a report.json or a folder with some; may be repeated.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for the runs, emm.json and emm.html.",
)
@device_option
def emm(
    data_path: Path | None,
    resolution: int | None,
    balanced: bool,
    subset_seed: int,
    preset: str,
    changes: tuple[str, ...],
    min_size: int,
    max_size: int,
    tolerance: float,
    epsilon: float,
    samples: int,
    parallel: int,
    dry_run: bool,
    results: tuple[Path, ...],
    out: Path | None,
    device: str,
) -> None:
    """Measure how many training images a set-up memorizes.

    Effective model memorization (EMM) is the largest number of training images at which at least
    90 % of what the model generates are copies. Trains and scans at sizes chosen by bisection; the
    same command goes on with a search that was stopped.

    \b
    # what the paper's base set-up costs on this machine, from 500 to 4,000 images
    memaudit emm --data cifar10.zip --balanced --min-size 500 --max-size 4000 --dry-run
    # a small network at 8x8
    memaudit emm --data cifar10.zip --resolution 8 --balanced --preset laptop \\
        --min-size 20 --max-size 320 --samples 500 --out emm-8
    # from scans that are there
    memaudit emm --from-results runs/
    """
    from memaudit.cli.console import err, progress_bars, remark
    from memaudit.data.sources import open_images
    from memaudit.experiments.emm.estimate import SizeRange
    from memaudit.experiments.emm.page import write_emm
    from memaudit.experiments.emm.search import (
        EMMSetup,
        emm_from_reports,
        find_emm,
        forecast,
    )
    from memaudit.experiments.train_and_scan import Run
    from memaudit.experiments.training_presets import PRESETS, change_config

    if results:
        if data_path is not None:
            raise ConfigError("--data starts trainings and --from-results needs none; give one.")
        result, setup = emm_from_reports(results, epsilon=epsilon), None
    else:
        if data_path is None:
            raise ConfigError("Images to train on are needed: give --data, or --from-results.")
        if out is None and not dry_run:
            raise ConfigError(
                "The runs need a folder: give --out, or --dry-run for the cost alone."
            )
        config = change_config(PRESETS[preset], changes)
        where = choose_device(device)
        with progress_bars() as progress:
            images = open_images(data_path, resolution=resolution, progress=progress)
        setup = EMMSetup(
            images=images,
            config=config,
            sizes=SizeRange(
                min_size,
                max_size,
                multiple_of=max(images.num_classes, 1) if balanced else 1,
                tolerance=tolerance,
            ),
            balanced=balanced,
            subset_seed=subset_seed,
            num_samples=samples,
            epsilon=epsilon,
        )
        expected = forecast(setup, device=where, parallel=parallel)
        _show_forecast(setup, expected, where, parallel)
        if dry_run or out is None:
            return

        def show(run: Run) -> None:
            err.print(
                f"{run.num_images:,} images: {percent(run.highest.ratio)} copied "
                f"({percent(run.last.ratio)} at the end).",
                highlight=False,
                soft_wrap=True,
            )

        with progress_bars() as progress:
            result = find_emm(
                setup, out=out, device=where, parallel=parallel, progress=progress, on_run=show
            )
    _show_result(result)
    if out is not None:
        page = write_emm(result, out, setup=setup)
        remark(f"Curve: {page}")


def _show_forecast(setup: "EMMSetup", expected: "Forecast", device: str, parallel: int) -> None:
    from memaudit.cli.console import out
    from memaudit.experiments.cost import flop_text
    from memaudit.wording import duration

    speed = expected.speed
    costs = expected.cheapest_cost, expected.dearest_cost
    trainings = sorted({len(expected.cheapest), len(expected.dearest)})
    work = dict.fromkeys(flop_text(cost.total) for cost in costs)
    time = dict.fromkeys(duration(speed.seconds(cost) / parallel) for cost in costs)
    out.print(
        f"{' to '.join(map(str, trainings))} trainings, of {setup.sizes.min_size:,} to "
        f"{setup.sizes.max_size:,} images: {' to '.join(work)}. At the speed found on {device}, "
        f"{flop_text(speed.training)}/s in training and {flop_text(speed.sampling)}/s in "
        f"sampling, that takes {' to '.join(time)}"
        + (f" with {parallel} runs side by side." if parallel > 1 else "."),
        highlight=False,
        soft_wrap=True,
    )


def _show_result(result: "EMMResult") -> None:
    from rich import box
    from rich.table import Table

    from memaudit.cli.console import out

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("|D|", "copies", "highest ratio", "interval", "last snapshot"):
        table.add_column(name, justify="right")
    for point in result.points:
        table.add_row(
            f"{point.num_images:,}",
            f"{point.highest.count:,} / {point.highest.total:,}",
            percent(point.highest.ratio),
            interval(point.highest),
            percent(point.last.ratio),
        )
    out.print(table)
    estimate = result.estimate
    name = f"EMM (ε = {estimate.epsilon:g})"
    if estimate.emm is None or estimate.low is None or estimate.high is None:
        text = f"{name}: no estimate. {estimate.reason}"
    else:
        text = (
            f"{name}: {estimate.emm:,.0f} images ({100 * estimate.confidence:g} % interval "
            f"{estimate.low:,.0f} to {estimate.high:,.0f}; between the decided sizes "
            f"{estimate.bracket.low:,} and {estimate.bracket.high:,})."
        )
    out.print(text, highlight=False, soft_wrap=True)
