"""`memaudit scan`: the audit."""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import click

from memaudit.audit.neighbors.config import IndexConfig
from memaudit.cli.options import (
    Ratio,
    SeedList,
    SourcePath,
    arch_option,
    batch_size_option,
    choose_device,
    choose_seeds,
    config_options,
    data_options,
    device_option,
    from_options,
    sampler_options,
)

if TYPE_CHECKING:
    from memaudit.audit.scan import ScanResult

EXIT_STATUS = {None: 0, "PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}
"""Of a verdict; 2 is every error's."""


@click.command()
@click.argument("source", type=SourcePath(), metavar="SOURCE")
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
    help="Training images this close (RMS gray levels of 0-255) are duplicates of each other.",
)
@click.option(
    "--confidence",
    type=float,
    default=0.95,
    show_default=True,
    metavar="P",
    help="Of the intervals and of the gate.",
)
@click.option(
    "--fail-above",
    type=float,
    metavar="SHARE",
    help="The gate: PASS if at most this share of images are copies (0.001 for 0.1 %), else FAIL. "
    "Sampling stops when the verdict is certain.",
)
@click.option(
    "--min-samples",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    metavar="N",
    help="Images that the gate looks at first, so that an early verdict has pairs to show.",
)
@click.option(
    "--holdout",
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="Images like the training images that the model never saw: how often the rule flags those "
    "is the floor, and the model's loss on both is compared.",
)
@click.option(
    "--return-test",
    is_flag=True,
    help="Also add noise to training images and see which ones sampling returns to: finds leaks "
    "that free sampling misses.",
)
@click.option(
    "--membership",
    is_flag=True,
    help="Also try to tell training from held-out images by the loss (needs --holdout).",
)
@config_options(IndexConfig)
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
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the verdict as JUnit XML.",
)
@click.option(
    "--summary",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the verdict as Markdown, for the page of a CI run.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of tables.")
@click.pass_context
def scan(
    ctx: click.Context,
    source: Path,
    data_path: Path,
    samples: int | None,
    seeds: tuple[int, ...] | None,
    class_index: int | None,
    threshold: Fraction,
    duplicate_rms: float,
    confidence: float,
    fail_above: float | None,
    min_samples: int,
    holdout: Path | None,
    return_test: bool,
    membership: bool,
    optimum_images: int,
    optimum_trajectories: int,
    no_optimum: bool,
    batch_size: int,
    device: str,
    arch: str | None,
    out: Path | None,
    overwrite: bool,
    junit: Path | None,
    summary: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure how many generated images copy a training image.

    SOURCE is a checkpoint, which is sampled with EDM's Heun sampler, a folder, .zip or .npz of
    images that any generator made, or the word optimum: the best denoiser of the training images,
    which can only copy. No code in a checkpoint runs; only SOURCE written as
    module:function runs Python of yours. A generated image counts as memorized when its nearest
    training image is less than 1/3 as far away (l2, 8-bit pixels) as the second nearest.

    With --out, a scan that is stopped or killed goes on where it was when the same command is given
    again.

    \b
    # 10,000 images of a checkpoint against the folder it was trained on
    memaudit scan model.safetensors --data ./train --out report
    # images that were generated elsewhere
    memaudit scan ./generated --data ./train
    # in CI: fail if more than 0.1 % are copies, stop as soon as that is certain
    memaudit scan model.safetensors --data ./train --fail-above 0.001 --out report
    # what copying everything looks like
    memaudit scan optimum --data ./train --samples 500

    Exit status: 0 done or PASS, 1 FAIL, 2 could not run, 3 INCONCLUSIVE.
    """
    from memaudit.audit.neighbors.build import build_index
    from memaudit.audit.report.folder import report_dict, report_folder, write_report
    from memaudit.audit.scan import ScanConfig
    from memaudit.audit.scan import scan as run_scan
    from memaudit.audit.source import OPTIMUM, open_source, optimum_of
    from memaudit.cli.console import progress_bars, remark
    from memaudit.cli.scan_tables import render
    from memaudit.data.images import ImageSet
    from memaudit.data.selection import Selection
    from memaudit.data.sources import open_images
    from memaudit.data.subsets import open_selected, select_images
    from memaudit.models.sampler_config import SamplerConfig

    index_config = from_options(IndexConfig, options)
    selection, sampler = from_options(Selection, options), options
    config = ScanConfig(
        seeds=choose_seeds(samples, seeds),
        sampler=SamplerConfig(**sampler),
        class_index=class_index,
        threshold=threshold,
        duplicate_rms=duplicate_rms,
        confidence=confidence,
        fail_above=fail_above,
        min_samples=min_samples,
        return_test=return_test,
        membership=membership,
        optimum_images=0 if no_optimum else optimum_images,
        optimum_trajectories=optimum_trajectories,
        batch_size=batch_size,
        device=choose_device(device),
    )
    _check_summary_files(junit, summary)
    with ExitStack() as stack:
        if junit is not None:
            stack.enter_context(_errors_into(junit))
        if out is not None:
            stack.enter_context(report_folder(out, overwrite=overwrite))
        progress = stack.enter_context(progress_bars())
        opened = None
        if str(source) != OPTIMUM:
            opened = open_source(source, device=config.device, arch=arch, progress=progress)
        if isinstance(opened, ImageSet):
            _check_given_images(
                **_given_on_command_line(ctx, sampler),
                seeds=seeds,
                arch=arch,
                class_index=class_index,
                return_test=return_test or None,
                membership=membership or None,
            )
        if isinstance(opened, ImageSet) and samples is not None:
            opened = select_images(opened, Selection(size=samples))
        data = open_selected(data_path, selection, progress=progress)
        if opened is None:
            opened = optimum_of(data, conditional=class_index is not None, device=config.device)
        others = None
        if holdout is not None:
            others = open_images(holdout, resolution=selection.resolution, progress=progress)
        result = run_scan(
            opened,
            data,
            holdout=others,
            index=build_index(data, index_config, device=config.device, progress=progress),
            config=config,
            folder=out,
            overwrite=overwrite,
            progress=progress,
        )
        page = None if out is None else write_report(result, out)
    _write_summaries(result, junit=junit, summary=summary)
    for warning in result.source.get("warnings", ()):
        remark(f"Warning: {warning}")
    if as_json:
        click.echo(json.dumps(report_dict(result), indent=2, allow_nan=False))
    else:
        render(result)
    if page is not None:
        remark(f"Report: {page}")
    ctx.exit(EXIT_STATUS[None if result.decision is None else result.decision.verdict])


def _check_given_images(**options: object) -> None:
    """Refuse options that only a model could follow, rather than ignore them."""
    from memaudit.errors import ConfigError

    for name, value in options.items():
        if value is not None:
            raise ConfigError(
                f"{name} is for models; SOURCE holds images that are there "
                "already. Leave it out (--samples N judges the first N)."
            )


def _given_on_command_line(ctx: click.Context, names: Iterable[str]) -> dict[str, Any]:
    """Those of the options that are not at their defaults; each name → its value."""
    default = click.core.ParameterSource.DEFAULT
    return {name: ctx.params[name] for name in names if ctx.get_parameter_source(name) != default}


def _check_summary_files(*paths: Path | None) -> None:
    """Refuse files that could not be written when the scan is over."""
    from memaudit.errors import ConfigError

    for path in paths:
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error


@contextmanager
def _errors_into(junit: Path) -> Iterator[None]:
    """Write a scan that could not run as JUnit XML, too, so that a CI page shows why."""
    from memaudit.audit.report.ci import junit_error
    from memaudit.errors import MemauditError
    from memaudit.files import atomic_write

    try:
        yield
    except (MemauditError, OSError) as error:
        with atomic_write(junit) as file:
            file.write(junit_error(str(error)).encode())
        raise


def _write_summaries(result: "ScanResult", *, junit: Path | None, summary: Path | None) -> None:
    from memaudit.audit.report.ci import junit_xml, markdown_summary
    from memaudit.files import atomic_write

    for path, text in ((junit, junit_xml), (summary, markdown_summary)):
        if path is not None:
            with atomic_write(path) as file:
                file.write(text(result).encode())
