"""`memaudit scan`: the audit."""

import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memaudit.cli.options import (
    Ratio,
    SeedList,
    arch_option,
    batch_size_option,
    choose_device,
    choose_seeds,
    data_options,
    device_option,
    open_data,
    sampler_options,
    split_selection,
)

if TYPE_CHECKING:
    from rich.text import Text

    from memaudit.audit.scan import ScanResult
    from memaudit.audit.statistics import Proportion

WORST_PAIRS = 8
"""Rows of the table of closest pairs; the report has more."""


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="SOURCE")
@data_options
@click.option(
    "--samples",
    type=int,
    metavar="N",
    help="Images to generate, with seeds 0 to N-1; of given images, judge the first N.  "
    "[default: 10000; all of given images]",
)
@click.option(
    "--seeds", type=SeedList(), help="One seed per generated image, such as 0-9999 or 3,7,20-29."
)
@sampler_options
@click.option(
    "--threshold",
    type=Ratio(),
    default="1/3",
    show_default=True,
    help="Memorized when d1/d2 is smaller (l2 distances, not squared).",
)
@click.option(
    "--duplicate-rms",
    type=float,
    default=8.0,
    show_default=True,
    metavar="LEVELS",
    help="Training images this close (RMS grey levels of 0-255) are duplicates of each other.",
)
@click.option(
    "--confidence",
    type=float,
    default=0.95,
    show_default=True,
    metavar="P",
    help="Of the Clopper-Pearson intervals.",
)
@click.option(
    "--holdout",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Images like the training images that the model never saw: compares its loss on both.",
)
@click.option(
    "--optimum-images",
    type=int,
    default=256,
    show_default=True,
    metavar="N",
    help="Training images to hold model and closed-form optimum against each other on.",
)
@click.option(
    "--optimum-trajectories",
    type=int,
    default=64,
    show_default=True,
    metavar="N",
    help="Images to sample from both, from the same noise.",
)
@click.option("--no-optimum", is_flag=True, help="Leave that comparison out.")
@batch_size_option
@device_option
@arch_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write report.html, report.json, matches.csv and leaks.csv there.",
)
@click.option("--overwrite", is_flag=True, help="Replace a report that is already in DIR.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of tables.")
def scan(
    source: Path,
    data_path: Path,
    samples: int | None,
    seeds: tuple[int, ...] | None,
    class_index: int | None,
    threshold: Fraction,
    duplicate_rms: float,
    confidence: float,
    holdout: Path | None,
    optimum_images: int,
    optimum_trajectories: int,
    no_optimum: bool,
    batch_size: int,
    device: str,
    arch: str | None,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure how many generated images copy a training image.

    SOURCE is a checkpoint, which is sampled with EDM's Heun sampler, a folder, .zip or .npz of
    images that any generator made, or the word optimum: the best denoiser of the training images,
    which can only copy. No code in a checkpoint runs; only SOURCE written as
    module:function runs Python of yours. A generated image counts as memorized when its nearest
    training image is less than 1/3 as far away (l2, 8-bit pixels) as the second nearest.

    \b
    # 10,000 images of a checkpoint against the folder it was trained on
    memaudit scan model.safetensors --data ./train --out report
    # images that were generated elsewhere
    memaudit scan ./generated --data ./train
    # what copying everything looks like
    memaudit scan optimum --data ./train --samples 500
    """
    from memaudit.audit.report import check_output_folder, report_dict, write_report
    from memaudit.audit.scan import ScanConfig
    from memaudit.audit.scan import scan as run_scan
    from memaudit.audit.source import OPTIMUM, open_source, optimum_of
    from memaudit.cli.console import err, progress_bars
    from memaudit.data.images import ImageSet
    from memaudit.data.sources import open_images
    from memaudit.data.subsets import select
    from memaudit.models.generate import SamplerConfig

    selection, sampler = split_selection(options)
    config = ScanConfig(
        seeds=choose_seeds(samples, seeds),
        sampler=SamplerConfig(**sampler),
        class_index=class_index,
        threshold=threshold,
        duplicate_rms=duplicate_rms,
        confidence=confidence,
        optimum_images=0 if no_optimum else optimum_images,
        optimum_trajectories=optimum_trajectories,
        batch_size=batch_size,
        device=choose_device(device),
    )
    if out is not None:
        check_output_folder(out, overwrite=overwrite)
    with progress_bars() as progress:
        opened = None
        if str(source) != OPTIMUM:
            opened = open_source(source, device=config.device, arch=arch, progress=progress)
        if isinstance(opened, ImageSet):
            _check_given_images(seeds=seeds, arch=arch, class_index=class_index, holdout=holdout)
        if isinstance(opened, ImageSet) and samples is not None:
            opened = select(opened, size=samples)
        data = open_data(data_path, **selection, progress=progress)
        if opened is None:
            opened = optimum_of(data, conditional=class_index is not None, device=config.device)
        others = None
        if holdout is not None:
            others = open_images(holdout, resolution=selection["resolution"], progress=progress)
        result = run_scan(opened, data, holdout=others, config=config, progress=progress)
        page = None if out is None else write_report(result, out)
    if as_json:
        click.echo(json.dumps(report_dict(result), indent=2, allow_nan=False))
    else:
        render(result)
    for warning in result.source.get("warnings", ()):
        err.print(f"Warning: {warning}", highlight=False, soft_wrap=True)
    if page is not None:
        err.print(f"Report: {page}", highlight=False, soft_wrap=True)


def _check_given_images(**options: object) -> None:
    """Refuse options that only a model could follow, rather than ignore them."""
    from memaudit.errors import ConfigError

    names = {"class_index": "--class"}
    for name, value in options.items():
        if value is not None:
            raise ConfigError(
                f"{names.get(name, f'--{name}')} is for models; SOURCE holds images that are there "
                "already. Leave it out (--samples N judges the first N)."
            )


def render(result: "ScanResult") -> None:
    """Print the headline, the ratios, and the pairs that are closest to being copies."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from memaudit.cli.console import out

    headline = result.ratios["distinct"]
    out.print(
        Text.assemble(
            (f"{headline.count:,} of {headline.total:,}", "bold red" if headline.count else "bold"),
            f" generated images copy a training image: {describe(headline)}",
        ),
        soft_wrap=True,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rule")
    table.add_column("memorized", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column(f"{100 * headline.confidence:g} % interval", justify="right")
    rms = result.config.duplicate_rms
    for name, rule in (
        ("distinct", f"distinct (duplicates: {rms:g} levels)"),
        ("distinct_at_0", "distinct (exact duplicates)"),
        ("paper", "paper"),
    ):
        ratio = result.ratios[name]
        table.add_row(
            rule, f"{ratio.count:,} / {ratio.total:,}", percent(ratio.ratio), interval(ratio)
        )
    out.print(table)
    if result.num_degenerate:
        out.print(
            f"{result.num_degenerate:,} images equal both their neighbours, exactly duplicated "
            "training images: the paper's rule cannot count them.",
            soft_wrap=True,
        )
    out.print(
        f"{len(result.leaks):,} of {len(result.data):,} training images leak.", soft_wrap=True
    )
    if result.optimality is not None:
        same = result.optimality.agreement
        out.print(
            "From the same noise, model and closed-form optimum end at the same training image for "
            f"{same.count} of {same.total} seeds: {describe(same)}",
            soft_wrap=True,
        )
    out.print(_closest_pairs(result))


def _closest_pairs(result: "ScanResult") -> Any:
    from rich import box
    from rich.table import Table

    matches, data = result.matches, result.data
    scale = 1 / data.images[0].size
    table = Table(title="Closest pairs", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("seed" if result.source["kind"] == "checkpoint" else "image")
    table.add_column("nearest training image", overflow="fold")
    table.add_column("RMS distance", justify="right")
    table.add_column("d1/d2", justify="right")
    table.add_column("copy")
    for row in matches.distance_ratio.argsort(kind="stable")[:WORST_PAIRS]:
        table.add_row(
            printable(str(result.keys[row])),
            printable(data.names[matches.nn1[row]]),
            f"{(matches.squared_distance1[row] * scale) ** 0.5:.2f}",
            f"{matches.distance_ratio[row]:.3f}",
            "yes" if matches.memorized_distinct[row] else "no",
        )
    return table


def printable(name: str) -> "Text":
    """A file name as it is: no markup in it, and bytes that are no text as escapes."""
    from rich.text import Text

    return Text(name.encode(errors="backslashreplace").decode())


def percent(share: float) -> str:
    """A share in [0, 1] as `3.1 %`."""
    from memaudit.audit import statistics

    return f"{statistics.percent(share)} %"


def interval(proportion: "Proportion") -> str:
    """Both ends of the interval."""
    return f"{percent(proportion.low)} to {percent(proportion.high)}"


def describe(proportion: "Proportion") -> str:
    """`3.1 % (95 % interval 2.8 % to 3.5 %)`; a count of 0 is an upper limit, not a zero."""
    level = f"{100 * proportion.confidence:g} %"
    if proportion.count == 0:
        return f"at most {percent(proportion.high)} ({level} interval)"
    return f"{percent(proportion.ratio)} ({level} interval {interval(proportion)})"
