"""`memaudit repeats`: does a generator repeat itself?"""

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import click

from memaudit.audit.image_check.config import CheckConfig
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.cli.options import (
    ImagesPath,
    SourcePath,
    arch_option,
    choose_class,
    choose_device,
    choose_pictures,
    choose_seeds,
    config_options,
    device_option,
    from_options,
    generated_options,
    holdout_split_option,
    pictures_options,
    refuse_options,
)
from memaudit.data.layout import Layout
from memaudit.data.preparation import Preparation
from memaudit.models.execution import Execution
from memaudit.models.sampler_config import SamplerConfig
from memaudit.options import config_fields

FOR_MODELS = (*config_fields(SamplerConfig), "samples", "seeds", "arch", "class_index")
"""Options that apply only to a model."""


@click.command()
@click.argument("source", type=SourcePath(), metavar="SOURCE")
@click.option(
    "--holdout",
    type=ImagesPath(),
    metavar="PATH",
    help="Images of the same kind that nobody generated, to compare with.",
)
@holdout_split_option
@generated_options
@config_options(Preparation)
@config_options(SamplerConfig)
@config_options(Rule, "duplicate_rms")
@config_options(IndexConfig, "flips")
@config_options(Execution, "batch_size")
@device_option
@arch_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write repeats.html and repeats.json into DIR.",
)
@pictures_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def repeats(
    ctx: click.Context,
    /,
    source: Path,
    holdout: Path | None,
    holdout_split: str | None,
    samples: int | None,
    seeds: tuple[int, ...] | None,
    class_index: str | None,
    device: str,
    arch: str | None,
    out: Path | None,
    no_images: bool,
    blur: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find near-equal images among those that a model generates.

    A hint of memorization where no training images are at hand: independent draws from a world of
    pictures hardly ever repeat. SOURCE is a checkpoint, or a folder, .zip or .npz of images that
    any generator made. A scan shows the same beside the training images, which tell copies from
    mode collapse.

    \b
    memaudit repeats model.safetensors --samples 5000 --out repeats
    # how often images repeat that nobody generated
    memaudit repeats ./generated --holdout ./photos

    Exit status: 0 done, whatever was found, 2 could not run.
    """
    preparation = from_options(Preparation, options)
    config = CheckConfig(
        seeds=choose_seeds(samples, seeds, default=1000),
        sampler=from_options(SamplerConfig, options),
        rule=from_options(Rule, options),
        index=from_options(IndexConfig, options),
        execution=from_options(Execution, options),
    )
    pictures = choose_pictures(no_images, blur)

    # Only now: torch takes seconds to import.
    from memaudit.audit.image_check.self_repeats import check_repeats
    from memaudit.audit.report.folder import make_folder
    from memaudit.audit.report.repeats_page import repeats_dict, write_repeats
    from memaudit.audit.source import OPTIMUM, open_source
    from memaudit.cli.console import print_json, print_row, progress_bars, remark, say_in_lines
    from memaudit.cli.forecast import say_sampling_time, say_search_time, search_bytes
    from memaudit.cli.long_work import finish
    from memaudit.data.images import ImageSet
    from memaudit.data.sources import open_images
    from memaudit.models.checkpoints import Checkpoint
    from memaudit.models.denoiser import image_shape
    from memaudit.wording import short

    where = choose_device(device)
    config = replace(config, execution=replace(config.execution, device=where))
    if out is not None:
        make_folder(out)
    with progress_bars() as progress:
        opened: Any = OPTIMUM
        if str(source) != OPTIMUM:
            opened = open_source(
                source, preparation=preparation, device=where, arch=arch, progress=progress
            )
        if isinstance(opened, ImageSet):
            refuse_options(ctx, FOR_MODELS, "a model; SOURCE holds images")
        others = None
        if holdout is not None:
            layout = Layout(split=holdout_split)
            others = open_images(holdout, preparation, layout=layout, progress=progress)
        config = replace(config, class_index=choose_class(class_index, others))
        if isinstance(opened, Checkpoint):
            num_images, D = len(config.seeds), prod(image_shape(opened.network))
            memory = num_images * D + search_bytes(num_images, D, flips=config.index.flips)
            say_sampling_time(
                opened.network,
                num_images,
                config.sampler,
                execution=replace(config.execution, precision="fp32"),
                class_index=config.class_index,
                memory_bytes=memory,
            )
        elif isinstance(opened, ImageSet):
            say_search_time(opened, len(opened), device=where, flips=config.index.flips)
        result = check_repeats(opened, holdout=others, config=config, progress=progress)
        page = None if out is None else write_repeats(result, out, pictures=pictures)
    for warning in result.report.warnings:
        remark(f"Warning: {warning}")
    if as_json:
        print_json(repeats_dict(result))
    else:
        say_in_lines(result.report.headline, "bold")
        number = result.report.repeats.count.effective_number
        if number is not None:
            print_row("as if drawn from", f"about {number:,.0f} pictures")
        for group in result.report.repeats.groups[:SHOWN_GROUPS]:
            keys = ", ".join(short(result.keys[row], 40) for row in group.rows[:SHOWN_KEYS])
            more = " …" if group.size > SHOWN_KEYS else ""
            print_row(f"group of {group.size:,}", f"{keys}{more}")
    if page is not None:
        remark(f"Page: {page}")
    finish(result.report.headline)


SHOWN_GROUPS = 10
"""Groups listed in the terminal; the page and the JSON have more."""
SHOWN_KEYS = 6
"""Seeds or names listed for a group."""
