"""`memaudit selftest`: test the instrument with positive and negative controls."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from memaudit.audit.neighbors.config import IndexConfig
from memaudit.cli.options import (
    ImagesPath,
    SourcePath,
    arch_option,
    choose_device,
    config_options,
    data_options,
    device_option,
    devices_option,
    from_options,
    group_option,
    holdout_split_option,
)
from memaudit.models.execution import Execution
from memaudit.ranks.joined import current_worker


@click.command()
@click.option(
    "--model",
    type=SourcePath(),
    metavar="CHECKPOINT",
    help="Also scan the images of this model, or a folder of images that it generated, once with "
    "training and held-out images exchanged and once with planted copies. Needs --holdout.",
)
@data_options
@group_option
@click.option(
    "--holdout",
    type=ImagesPath(),
    metavar="PATH",
    help="Images like the training images, but not among them.  [default: mixtures of training "
    "images]",
)
@holdout_split_option
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="N",
    help="Images per control.",
)
@config_options(IndexConfig, "match")
@config_options(Execution, "precision")
@device_option
@devices_option
@arch_option
@click.option("--json", "as_json", is_flag=True, help="Print the controls as JSON.")
@click.pass_context
def selftest(
    ctx: click.Context,
    /,
    model: Path | None,
    data_path: Path,
    holdout: Path | None,
    holdout_split: str | None,
    samples: int,
    device: str,
    arch: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Test on your own images that the audit measures what is known.

    Three controls pass through the search and the rule that judge a model: the closed-form optimum,
    which can only copy; held-out images, which are not copies; and a planted share of copies.

    With --model, two whole scans of the model's own images follow. With training and held-out
    images exchanged, it cannot have copied what it is searched for: no FAIL, and a label test that
    finds nothing. With training images planted among its images: FAIL, and all of them found. Exit
    status 1 if a control fails.

    \b
    memaudit selftest --data ./train --resolution 8 --holdout ./test
    memaudit selftest --model model.safetensors --data ./train --holdout ./test
    """
    from memaudit.audit.config import ScanConfig
    from memaudit.audit.selftest import selftest as run_selftest
    from memaudit.audit.selftest import serve_selftest
    from memaudit.audit.source import open_source
    from memaudit.cli.console import print_json, progress_bars, warn_about
    from memaudit.cli.forecast import say_sampling_time, say_search_time
    from memaudit.cli.long_work import finish
    from memaudit.data.layout import Layout
    from memaudit.data.preparation import Preparation
    from memaudit.data.selection import Selection
    from memaudit.data.sources import open_images
    from memaudit.data.subsets import open_selected
    from memaudit.models.checkpoints import Checkpoint

    selection = from_options(Selection, options)
    preparation = from_options(Preparation, options)
    where = choose_device(device)
    config = ScanConfig(
        seeds=range(samples),
        index=from_options(IndexConfig, options),
        execution=from_options(Execution, options, device=where),
    )
    with progress_bars() as progress:
        source = None
        if model is not None:
            source = open_source(
                model, preparation=preparation, device=where, arch=arch, progress=progress
            )
        images = open_selected(data_path, selection, preparation, progress=progress)
        if (worker := current_worker()) is not None:
            ctx.exit(serve_selftest(worker, images, source, config.execution))
        warn_about(images)
        others = None
        if holdout is not None:
            others = open_images(
                holdout,
                preparation,
                layout=Layout(split=holdout_split, groups_from=selection.groups_from),
                progress=progress,
            )
        if isinstance(source, Checkpoint):
            say_sampling_time(source.network, samples, config.sampler, execution=config.execution)
        say_search_time(images, len(images), device=where, flips=config.index.flips)
        result = run_selftest(
            images, model=source, holdout=others, config=config, progress=progress
        )
    if as_json:
        print_json(asdict(result))
    else:
        _render(result)
    finish("all controls passed" if result.passed else "FAIL: a control failed")
    if not result.passed:
        ctx.exit(1)


def _render(result: Any) -> None:
    from rich import box
    from rich.table import Table

    from memaudit.cli.console import out, say, styled
    from memaudit.cli.wording import interval, percent

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("control")
    for column in ("expected", "measured", "ratio", "interval"):
        table.add_column(column, justify="right")
    table.add_column("passed")
    for control in result.controls:
        measured = control.measured
        table.add_row(
            control.name,
            percent(control.expected),
            f"{measured.count:,} / {measured.total:,}",
            percent(measured.ratio),
            interval(measured),
            "yes" if control.passed else styled("NO", "bold red"),
        )
    out.print(table)
    if result.model_controls:
        out.print(_model_table(result))
        say(
            "Over repetitions, p is uniform if the model does not favor its training images, and "
            "larger if it does; a sound instrument gives 0.01 or less in 1 of 100."
        )
    say(*("All controls passed.", "") if result.passed else ("A control failed.", "bold red"))


def _model_table(result: Any) -> Any:
    from rich import box
    from rich.table import Table

    from memaudit.cli.console import styled

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("control on the model")
    for column in ("required", "found", "passed"):
        table.add_column(column)
    for control in result.model_controls:
        passed = "yes" if control.passed else styled("NO", "bold red")
        table.add_row(control.name, control.required, control.found, passed)
    return table
