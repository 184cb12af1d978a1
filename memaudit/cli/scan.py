"""`memaudit scan`: the audit."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import click

from memaudit.audit.config import ScanConfig
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.memorization.screening_config import ScreeningConfig
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.report.pictures import Pictures
from memaudit.cli.options import (
    ImagesPath,
    SeedList,
    SourcePath,
    arch_option,
    choose_class,
    choose_device,
    choose_pictures,
    choose_seeds,
    class_option,
    config_options,
    data_options,
    device_option,
    devices_option,
    from_options,
    group_option,
    holdout_split_option,
    pictures_options,
)
from memaudit.cli.ranks import check_alone, check_status_is_kept
from memaudit.data.layout import Layout
from memaudit.data.preparation import Preparation
from memaudit.data.selection import Selection
from memaudit.errors import ConfigError
from memaudit.models.execution import Execution
from memaudit.models.sampler_config import SamplerConfig
from memaudit.options import config_fields
from memaudit.ranks.joined import current_worker

if TYPE_CHECKING:
    from memaudit.audit.dry_run import ScanForecast
    from memaudit.audit.result import ScanResult
    from memaudit.data.images import ImageSet

EXIT_STATUS = {None: 0, "PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}
"""Exit status for each verdict; every error exits with 2."""

FOR_MODELS = (
    *config_fields(SamplerConfig),
    "screen",
    *config_fields(ScreeningConfig),
    "seeds",
    "nonce",
    "arch",
    "class_index",
    "class_frequencies",
)
"""Options that apply only to a model."""


@click.command()
@click.argument("source", type=SourcePath(), metavar="SOURCE")
@data_options
@group_option
@click.option(
    "--samples",
    type=int,
    metavar="N",
    help="Images to generate, with seeds 0 to N-1. If images are given, judge the first N.  "
    "[default: 10000; all given images]",
)
@click.option(
    "--seeds", type=SeedList(), help="One seed per generated image, such as 0-9999 or 3,7,20-29."
)
@config_options(ScanConfig, "nonce")
@class_option
@config_options(ScanConfig, "class_frequencies")
@config_options(SamplerConfig)
@click.option(
    "--screen",
    is_flag=True,
    help="Screen all seeds with few evaluations of the model, and sample in full only those that "
    "may be copies and a few that chance draws. Never gives a PASS.",
)
@config_options(ScreeningConfig)
@config_options(Rule)
@config_options(ScanConfig, "fail_above", "fail_above_groups", "fail_on", "min_samples")
@click.option(
    "--holdout",
    type=ImagesPath(),
    metavar="PATH",
    help="Images like the training images that the model never saw. How often the rule flags them "
    "is the floor, and the model's loss on both is compared.",
)
@holdout_split_option
@config_options(ScanConfig, "also", "without", "optimum_images", "optimum_trajectories")
@config_options(IndexConfig)
@config_options(Execution, "batch_size", "precision")
@device_option
@devices_option
@arch_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write report.html, report.json, matches.csv and leaks.csv into DIR.",
)
@click.option("--overwrite", is_flag=True, help="Replace a report that is already in DIR.")
@pictures_options
@click.option(
    "--fresh",
    is_flag=True,
    help="Generate every image anew: discard what a run that was stopped or undecided kept in DIR.",
)
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
@click.option(
    "--dry-run", is_flag=True, help="Print what the scan would take, and generate nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of tables.")
@click.pass_context
def scan(
    ctx: click.Context,
    /,
    source: Path,
    data_path: Path,
    samples: int | None,
    seeds: tuple[int, ...] | None,
    holdout: Path | None,
    holdout_split: str | None,
    screen: bool,
    class_index: str | None,
    device: str,
    arch: str | None,
    out: Path | None,
    overwrite: bool,
    no_images: bool,
    blur: bool,
    fresh: bool,
    junit: Path | None,
    summary: Path | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure how many generated images copy a training image.

    SOURCE is a checkpoint, which is sampled with EDM's Heun sampler; a folder, .zip or .npz of
    images that any generator made; or the word optimum, for the best denoiser of the training
    images, which can only copy. No code in a checkpoint runs; only a SOURCE written as
    module:function runs your Python code. A generated image counts as memorized if its nearest
    training image is less than 1/3 as far away (l2, 8-bit pixels) as the second nearest.

    With --out, a scan that was stopped or killed resumes when the same command is given again, and
    an INCONCLUSIVE one continues when it is given with more --samples.

    \b
    # 10,000 images of a checkpoint against the folder it was trained on
    memaudit scan model.safetensors --data ./train --out report
    # images generated elsewhere
    memaudit scan ./generated --data ./train
    # in CI: fail if more than 0.1 % are copies, stop as soon as that is certain
    memaudit scan model.safetensors --data ./train --fail-above 0.001 --out report
    # a third of the evaluations if few are copies: an estimate, but no PASS
    memaudit scan model.safetensors --data ./train --screen --out report
    # what copying everything looks like
    memaudit scan optimum --data ./train --samples 500

    Exit status: 0 done or PASS, 1 FAIL, 2 could not run, 3 INCONCLUSIVE.
    """
    worker = current_worker()
    if dry_run or worker is not None:
        out = junit = summary = None
    with ExitStack() as stack:
        if junit is not None:
            stack.enter_context(_errors_into(junit))
        if seeds is not None and options["nonce"] is not None:
            raise ConfigError("--nonce draws the seeds, but --seeds gives them; leave one out.")
        # All that options alone can tell comes before torch, which takes seconds to import.
        preparation = from_options(Preparation, options)
        config, selection = _configs(options, choose_seeds(samples, seeds))
        config = _with_screening(ctx, config, options, screen=screen)
        pictures = choose_pictures(no_images, blur)
        _check_summary_files(junit, summary)

        from memaudit.audit.dry_run import forecast_scan
        from memaudit.audit.neighbors.sharded_index import TASK as SEARCH
        from memaudit.audit.neighbors.sharded_index import search_handler
        from memaudit.audit.report.folder import report_folder, write_report
        from memaudit.audit.scan import scan as run_scan
        from memaudit.audit.scan_state import check_no_state, state_size
        from memaudit.audit.source import OPTIMUM, as_source, check_roles, open_source
        from memaudit.audit.source_checks import check_comparable
        from memaudit.cli.console import progress_bars, remark
        from memaudit.cli.long_work import finish, timed_steps
        from memaudit.data.images import ImageSet
        from memaudit.data.sources import open_images
        from memaudit.data.subsets import open_selected, select_images
        from memaudit.models.checkpoints import Checkpoint
        from memaudit.models.spread import MODEL, serve_images, spread_over_ranks
        from memaudit.wording import file_size

        config = replace(config, execution=replace(config.execution, device=choose_device(device)))
        if config.fail_above is not None:
            check_status_is_kept()
        if out is not None:
            stack.enter_context(
                report_folder(out, overwrite=overwrite, seeds=config.seeds, nonce=config.nonce)
            )
        progress = stack.enter_context(progress_bars())
        check_roles(source, data_path)
        opened: Any = OPTIMUM
        is_gated = config.fail_above is not None
        if str(source) != OPTIMUM:
            where = config.execution.device
            opened = open_source(
                source,
                preparation=preparation,
                device=where,
                arch=arch,
                check_all=is_gated,
                progress=progress,
            )
        if isinstance(opened, ImageSet):
            _check_given_images(ctx)
            if out is not None and not overwrite:
                check_no_state(out)
            if not config.index.shard_index:
                check_alone("SOURCE holds images, so that nothing is sampled")
            if samples is not None:
                opened = select_images(opened, Selection(size=samples))
        shards = config.index.shard_index
        if worker is not None and isinstance(opened, Checkpoint) and not shards:
            ctx.exit(serve_images(worker, {MODEL: opened}))
        data = open_selected(
            data_path, selection, preparation, check_all=is_gated, progress=progress
        )
        is_model = not isinstance(opened, ImageSet) and opened != OPTIMUM
        num_classes = opened.network.label_dim if is_model else None
        chosen_class = choose_class(class_index, data, num_classes=num_classes)
        config = replace(config, class_index=chosen_class)
        if opened == OPTIMUM:
            conditional, where = config.is_by_class, config.execution.device
            opened = as_source(opened, data, conditional=conditional, device=where)
        if worker is not None:
            served = {MODEL: opened} if isinstance(opened, Checkpoint) else {}
            device, limit = config.execution.device, config.index.memory_limit
            search = search_handler(data.images, device=device, memory_limit=limit)
            ctx.exit(serve_images(worker, served, {SEARCH: search}))
        others = None
        if holdout is not None:
            others = open_images(
                holdout,
                preparation,
                layout=Layout(split=holdout_split, groups_from=selection.groups_from),
                check_all=is_gated,
                progress=progress,
            )
        if dry_run:
            found = forecast_scan(opened, data, holdout=others, config=config, progress=progress)
            _show_forecast(found, as_json=as_json, is_screened=screen)
            return
        for each in (data, others):
            if each is not None:
                check_comparable(opened, each)  # before the forecast, which takes its time
        _say_cost(opened, data, others, config, keeps=out is not None)
        if isinstance(opened, Checkpoint):
            stack.enter_context(spread_over_ranks(MODEL, opened))
        result = run_scan(
            opened,
            data,
            holdout=others,
            config=config,
            folder=out,
            overwrite=overwrite,
            fresh=fresh,
            progress=progress,
            tell=remark,
        )
        page = None if out is None else write_report(result, out, pictures=pictures)
    kept = 0 if out is None else state_size(out)
    _write_summaries(result, junit=junit, summary=summary)
    _show(result, page, pictures, as_json=as_json)
    if kept:
        remark(
            f"The {len(result.keys):,} images are kept beside it ({file_size(kept)}): the same "
            "command with more --samples continues after them."
        )
    timed_steps((step.step, step.seconds) for step in result.timings.steps)
    finish(*_outcome(result))
    ctx.exit(EXIT_STATUS[result.verdict])


def _say_cost(
    opened: Any, data: "ImageSet", holdout: "ImageSet | None", config: ScanConfig, *, keeps: bool
) -> None:
    """Say how long the scan will take, and what it costs in disk and memory.

    Args:
        opened: a checkpoint, or images.
        data: the training images.
        holdout: the held-out images, if there are any.
        config: of the scan.
        keeps: whether generated images are kept on disk until the report is written.
    """
    from memaudit.audit.diagnostics import optimality
    from memaudit.audit.dry_run import likely_stop_of
    from memaudit.audit.other_forms import num_searched
    from memaudit.cli.forecast import say_sampling_time, say_search_time, search_bytes
    from memaudit.models.checkpoints import Checkpoint
    from memaudit.models.own_sampler import resolve_sampler

    flips = config.index.flips
    if not isinstance(opened, Checkpoint):
        if not config.index.compares_features:
            number = len(opened) + num_searched(len(opened))
            say_search_time(data, number, device=config.execution.device, flips=flips)
        return
    number, D = len(config.seeds), data.images[:1].size
    memory = 0
    if not config.index.compares_features:
        memory = search_bytes(len(data), D, flips=flips, limit=config.index.memory_limit)
    has_optimum = "optimality" not in config.without

    def comparison(per_evaluation: float) -> float:
        resolved = replace(config, sampler=resolve_sampler(config.sampler, opened.network))
        return optimality.forecast_seconds(
            opened.network, data, holdout, resolved, per_evaluation=per_evaluation
        )

    say_sampling_time(
        opened.network,
        number,
        config.sampler,
        execution=replace(config.execution, precision="fp32"),
        class_index=config.class_index,
        seconds_beside=comparison if has_optimum else None,
        disk_bytes=number * D if keeps else 0,
        memory_bytes=memory + (4 * len(data) * D if has_optimum else 0),
        likely=likely_stop_of(data, holdout, config),
    )


def _outcome(result: "ScanResult") -> tuple[str, ...]:
    """What came out, for the line at the end."""
    from memaudit.audit.statistics.forecast import GateTest, forecast_stop
    from memaudit.wording import counted

    ratio = result.ratios.copies
    found: tuple[str, ...] = ()
    if result.verdict is not None:
        found = (f"{ratio.count:,} copies of {ratio.total:,}",)
    kinds = {reason.kind for reason in result.conclusion.reasons}
    if result.decision is not None and kinds == {"undecided"} and result.config.is_sequential:
        gate = GateTest.of(result.decision)
        stop = forecast_stop(result.decision.may_fail_by[0], ratio.total, gate).median
        found += () if stop is None else (f"about {stop:,} images would decide",)
    if warnings := result.source.warnings:  # which --quiet does not print
        found = (counted(len(warnings), "warning", "warnings"), *found)
    return result.conclusion.headline, *found, result.leaks_text


def _configs(options: dict[str, Any], seeds: Sequence[int]) -> tuple[ScanConfig, Selection]:
    """Build the configuration and the selection of training images from the options."""
    selection = from_options(Selection, options)
    config = from_options(
        ScanConfig,
        options,
        seeds=seeds,
        sampler=from_options(SamplerConfig, options),
        rule=from_options(Rule, options),
        index=from_options(IndexConfig, options),
        execution=from_options(Execution, options),
    )
    return config, selection


def _with_screening(
    ctx: click.Context, config: ScanConfig, options: dict[str, Any], *, screen: bool
) -> ScanConfig:
    """The configuration with the screening that was asked for.

    Raises:
        ConfigError: there is none, but an option of it.
    """
    if screen:
        return replace(config, screening=from_options(ScreeningConfig, options))
    default = click.core.ParameterSource.DEFAULT
    for name in config_fields(ScreeningConfig):
        if ctx.get_parameter_source(name) != default:
            raise ConfigError(
                f"{{{name}}} says how to screen, but {{screen}} is not given; add it, or leave "
                f"{{{name}}} out.",
                field=(name, "screen"),
            )
    return config


def _show(result: "ScanResult", page: Path | None, pictures: Pictures, *, as_json: bool) -> None:
    """Print what the scan found: tables or JSON on stdout, warnings and the page on stderr."""
    from memaudit.audit.report.schema import make_report, plain
    from memaudit.cli.console import print_json, remark
    from memaudit.cli.scan_tables import render

    for warning in result.source.warnings:
        remark(f"Warning: {warning}")
    if as_json:
        print_json(plain(make_report(result, pictures=pictures)))
    else:
        render(result)
    if page is not None:
        remark(f"Report: {page}")


def _show_forecast(found: "ScanForecast", *, as_json: bool, is_screened: bool) -> None:
    """Print what a scan would take, one line for each thing."""
    from memaudit.cli.console import print_json, print_row, say
    from memaudit.wording import duration, file_size

    if as_json:
        print_json({**asdict(found), "seconds": found.seconds})
        return
    one = found.seconds_per_image
    if one is None:
        print_row("images given", f"{found.num_images:,}")
    else:
        print_row("images at most", f"{found.num_images:,}")
        print_row("seconds per image", f"{one:.2g}")
    if found.likely_stop is not None and one is not None:
        stop = (
            f"{found.likely_stop:,} images if none is a copy, {duration(one * found.likely_stop)}"
        )
        if found.likely_stop > found.num_images:
            stop += ": more than the samples asked for, so that no model could pass"
        print_row("likely stop", stop)
    elif one is not None and found.floor is not None:
        judged = "screened seeds" if is_screened else "images of a faster format"
        print_row("likely stop", f"none: {judged} can FAIL, but give no PASS")
    if found.earliest_stop is not None:
        print_row("earliest stop", f"{found.earliest_stop:,} images if all are copies")
    for each in found.steps:
        print_row(f"time of {each.step.replace('_', '-')}", duration(each.seconds))
    print_row("time in all", f"about {duration(found.seconds)}")
    if found.index_bytes is not None:
        print_row("memory of the index", file_size(found.index_bytes))
    if found.making_bytes is not None:
        print_row("memory to make it", f"{file_size(found.making_bytes)} at most")
    if found.optimum_bytes is not None:
        print_row("memory of the optimum", f"{file_size(found.optimum_bytes)} at most")
    if found.state_bytes is not None:
        print_row("disk for images", f"{file_size(found.state_bytes)} at most, with --out")
    if found.denoises is not None:
        say(found.denoises)
    if found.floor is not None:
        say(found.floor)
    say("Nothing was generated. Leave out --dry-run to scan.")


def _check_given_images(ctx: click.Context) -> None:
    """Refuse options that apply only to a model, rather than ignore them.

    Raises:
        ConfigError: one was given; the message names the first.
    """
    default = click.core.ParameterSource.DEFAULT
    for name in FOR_MODELS:
        if ctx.get_parameter_source(name) != default:
            raise ConfigError(
                f"{{{name}}} applies to models, but SOURCE holds images. Leave it out ({{samples}} "
                "N judges the first N).",
                field=(name, "samples"),
            )


def _check_summary_files(*paths: Path | None) -> None:
    """Refuse files that cannot be written, before the scan starts."""
    from memaudit.files import check_regular

    for path in paths:
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                check_regular(path.stat(), path)
            TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error


@contextmanager
def _errors_into(junit: Path) -> Iterator[None]:
    """Write the error of a scan that could not run as JUnit XML too, so that a CI page shows it."""
    from memaudit.audit.report.ci import junit_error
    from memaudit.cli.main import in_one_line, option_names
    from memaudit.files import atomic_write

    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        names = option_names(click.get_current_context().command)
        said = (
            in_one_line(error, names) if isinstance(error, Exception) else "The scan was stopped."
        )
        with suppress(OSError), atomic_write(junit) as file:  # the error itself is shown anyway
            file.write(junit_error(said).encode())
        raise


def _write_summaries(result: "ScanResult", *, junit: Path | None, summary: Path | None) -> None:
    """Write what a CI page shows. Where it cannot be written, the verdict and its status stand."""
    from memaudit.audit.report.ci import junit_xml, markdown_summary
    from memaudit.cli.console import remark
    from memaudit.cli.main import in_one_line
    from memaudit.files import atomic_write

    for path, text in ((junit, junit_xml), (summary, markdown_summary)):
        if path is None:
            continue
        try:
            with atomic_write(path) as file:
                file.write(text(result).encode())
        except OSError as error:
            remark(f"Warning: the scan is done, but a file was not written: {in_one_line(error)}")
