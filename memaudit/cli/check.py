"""`memaudit check`: does a model give certain images back?"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from memaudit.data.selection import Selection
from memaudit.models.execution import Execution
from memaudit.models.sampler_config import SamplerConfig
from memaudit.options import config_fields

if TYPE_CHECKING:
    from memaudit.audit.image_check.result import CheckedImage, CheckResult

FOR_MODELS = (
    *config_fields(SamplerConfig),
    "samples",
    "seeds",
    "arch",
    "class_index",
    "sigmas",
    "num_noises",
)
"""Options that apply only to a model."""
SAID = {"returned-to": "known", "copied": "copied by the rule", "not-shown": "not shown"}
LISTED = 20
"""Images of which nothing was shown that the terminal lists."""
IN_FULL = 3
"""With more such images than this, they are listed on a line each."""
STYLES = {"given-back": "bold red", "returned-to": "bold red", "copied": "bold yellow"}


@click.command()
@click.argument("source", type=SourcePath(), metavar="SOURCE")
@click.option(
    "--image",
    "images",
    type=ImagesPath(),
    multiple=True,
    required=True,
    metavar="FILE",
    help="An image to ask about, or a folder of some; may be given several times.",
)
@click.option(
    "--data",
    "data",
    type=ImagesPath(),
    metavar="PATH",
    help="The training images, if they are at hand: they show whether they hold the image.",
)
@config_options(Selection)
@config_options(Preparation)
@click.option(
    "--holdout",
    type=ImagesPath(),
    metavar="PATH",
    help="Images of the same kind that the model never saw, which exclude coincidence.",
)
@holdout_split_option
@click.option(
    "--report",
    type=click.Path(exists=True, path_type=Path),
    metavar="DIR",
    help="The report of a scan of the same model and training images, whose seeds are named, too.",
)
@generated_options
@config_options(CheckConfig, "num_controls", "sigmas", "num_noises")
@config_options(SamplerConfig)
@config_options(Rule)
@config_options(
    IndexConfig, *(name for name in config_fields(IndexConfig) if name != "shard_index")
)
@config_options(Execution, "batch_size")
@device_option
@arch_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write check.html, check.csv and check.json into DIR.",
)
@click.option("--overwrite", is_flag=True, help="Replace a check that is already in DIR.")
@pictures_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def check(
    ctx: click.Context,
    /,
    source: Path,
    images: tuple[Path, ...],
    data: Path | None,
    holdout: Path | None,
    holdout_split: str | None,
    report: Path | None,
    samples: int | None,
    seeds: tuple[int, ...] | None,
    class_index: str | None,
    device: str,
    arch: str | None,
    out: Path | None,
    overwrite: bool,
    no_images: bool,
    blur: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find out whether a model gives certain images back.

    The question of an owner, or of a person in a picture. For each image: is it in the training
    set, do generated images copy it, does sampling return to it from noise, and is the loss on it
    low? Each is a rank among held-out images, so that the answer has an error rate. SOURCE is a
    checkpoint, or a folder, .zip or .npz of images that any generator made. Give --data, --holdout,
    or best both.

    \b
    # with the training images at hand
    memaudit check model.safetensors --image photo.png --data ./train \\
        --holdout ./test --out check
    # an owner who suspects: images of the same kind that were never published
    memaudit check model.safetensors --image ./mine --holdout ./unpublished
    # only generated images are at hand
    memaudit check ./generated --image photo.png --holdout ./unpublished

    Exit status: 0 done, whatever was found, 2 could not run.
    """
    selection = from_options(Selection, options)
    preparation = from_options(Preparation, options)
    config = from_options(
        CheckConfig,
        options,
        seeds=choose_seeds(samples, seeds, default=1000),
        sampler=from_options(SamplerConfig, options),
        rule=from_options(Rule, options),
        index=from_options(IndexConfig, options),
        execution=from_options(Execution, options),
    )
    pictures = choose_pictures(no_images, blur)

    # Only now: torch takes seconds to import.
    from memaudit.audit.image_check.asked import open_asked
    from memaudit.audit.image_check.check import check_images
    from memaudit.audit.image_check.conclude import too_few_controls
    from memaudit.audit.report.check_page import check_dict, check_folder, write_check
    from memaudit.audit.report.earlier_scan import read_earlier_scan
    from memaudit.audit.source import OPTIMUM, check_roles, open_source
    from memaudit.cli.console import print_json, progress_bars, remark
    from memaudit.cli.forecast import say_sampling_time, say_search_time
    from memaudit.cli.long_work import finish
    from memaudit.data.images import ImageSet
    from memaudit.data.sources import open_images
    from memaudit.data.subsets import open_selected
    from memaudit.models.checkpoints import Checkpoint

    where = choose_device(device)
    config = replace(config, execution=replace(config.execution, device=where))
    earlier = None if report is None else read_earlier_scan(report)
    if data is None:
        of_training = [name for name in config_fields(Selection) if name != "groups_from"]
        refuse_options(ctx, of_training, "training images")
    if out is not None:
        check_folder(out, overwrite=overwrite)
    with progress_bars() as progress:
        for path in (data, holdout):
            if path is not None:
                check_roles(source, path)
        opened: Any = OPTIMUM
        if str(source) != OPTIMUM:
            opened = open_source(
                source, preparation=preparation, device=where, arch=arch, progress=progress
            )
        if isinstance(opened, ImageSet):
            refuse_options(ctx, FOR_MODELS, "a model; SOURCE holds images")
        asked = open_asked(images, preparation, progress=progress)
        train = others = None
        if data is not None:
            train = open_selected(data, selection, preparation, progress=progress)
        if holdout is not None:
            layout = Layout(split=holdout_split, groups_from=selection.groups_from)
            others = open_images(holdout, preparation, layout=layout, progress=progress)
            number = min(config.controls_for(len(asked)), len(others))
            if few := too_few_controls(number, len(asked), config.rule.confidence):
                remark(
                    f"Warning: {few}, so that no image will be said to be given back or known. "
                    "Give more with --holdout and --controls, or ask about fewer images, chosen "
                    "without looking at what was generated.",
                    "bold yellow",
                )
        labeled = train if train is not None else others
        config = replace(config, class_index=choose_class(class_index, labeled))
        if train is None and others is None:
            pass  # refused below
        elif isinstance(opened, Checkpoint):
            number = len(asked)
            number += 0 if others is None else min(config.controls_for(number), len(others))
            say_sampling_time(
                opened.network,
                0 if earlier is not None else len(config.seeds),
                config.sampler,
                execution=replace(config.execution, precision="fp32"),
                class_index=config.class_index,
                beside=number * config.num_noises * len(config.sigmas),
            )
        elif isinstance(opened, ImageSet):
            say_search_time(opened, len(asked), device=where, flips=config.index.flips)
        result = check_images(
            opened,
            asked,
            data=train,
            holdout=others,
            earlier=earlier,
            config=config,
            progress=progress,
        )
        page = None if out is None else write_check(result, out, pictures=pictures)
    for warning in result.report.warnings:
        remark(f"Warning: {warning}")
    if as_json:
        print_json(check_dict(result))
    else:
        _show(result)
    if page is not None:
        remark(f"Page: {page}")
    finish(*_outcome(result))


def _outcome(result: "CheckResult") -> Iterator[str]:
    """What came out, for the line at the end: the headline says more than fits there."""
    found = Counter[str](image.finding for image in result.images)
    number = len(result.images)
    yield f"{found['given-back']:,} of {number:,} given back"
    for finding, words in SAID.items():
        if found[finding]:
            yield f"{found[finding]:,} {words}"


def _show(result: "CheckResult") -> None:
    """Print the answers on stdout, with the numbers behind each."""
    from memaudit.cli.console import print_row, say, say_in_lines

    say_in_lines(result.report.headline, "bold")
    ordered = [result.images[q] for q in result.worst_first]
    nothing = [image for image in ordered if image.finding == "not-shown"]
    in_full = ordered
    if len(nothing) > IN_FULL:
        in_full = ordered[: 1 - len(nothing)]  # one of them says what holds for the others, too
    for image in in_full:
        say("")
        say(image.name, STYLES.get(image.finding, "bold"))
        say_in_lines(image.answer)
        for name, value in _rows(image):
            print_row(name, value)
    if len(in_full) < len(ordered):
        rest = ordered[len(in_full) :]
        say("")
        say(f"Not shown for {len(rest):,} others either", "bold")
        for image in rest[:LISTED]:
            say_in_lines(f"{image.name}: {_in_short(image)}")
        if len(rest) > LISTED:
            say(f"and {len(rest) - LISTED:,} more; --out writes a table of all.")


def _in_short(image: "CheckedImage") -> str:
    """What is known of an image of which nothing was shown, on one line."""
    from memaudit.wording import p_text

    parts = []
    if image.in_training is not None and image.in_training.kind != "no":
        kind = "is" if image.in_training.kind == "equal" else "has a near copy"
        parts.append(f"{kind} in the training set")
    if image.copies.closest:
        close = image.copies.closest[0]
        parts.append(f"closest {close.key}, {close.ratio_words}")
    if image.p_adjusted is not None:
        parts.append(p_text(image.p_adjusted))
    return ", ".join(parts)


def _rows(image: "CheckedImage") -> list[tuple[str, str]]:
    """The numbers behind an answer."""
    from memaudit.wording import p_text, some

    rows = []
    place, copies = image.in_training, image.copies
    if place is not None:
        kind = {
            "equal": f"yes: {some(list(place.names))}",
            "near": f"a copy by {place.rule}, {place.where}"
            if place.rule
            else f"a near copy: {some(list(place.names))}",
            "no": "no",
        }[place.kind]
        rows.append(("in the training set", kind))
        rows.append(
            (
                "copied training image" if place.rule else "nearest training image",
                f"{place.nearest}, distance {place.distance:.2f}, ratio {place.distance_ratio:.2f}",
            )
        )
    what = "copies of the latter" if place is not None and place.kind == "near" else "copies"
    rows.append((what, str(copies.share)))
    if image.earlier is not None:
        rows.append(("copies in the report", f"{image.earlier.count:,} of {image.earlier.total:,}"))
    if copies.closest:
        close = copies.closest[0]
        rows.append(
            (
                "closest generated image",
                f"{close.key}, distance {close.distance:.2f}, {close.ratio_words}",
            )
        )
    if image.returns is not None:
        back = [
            f"{level.returned} of {level.num_noises} at {level.sigma:g}"
            for level in image.returns.levels
        ]
        rows.append(("returns from sigma", ", ".join(back)))
    if image.membership is not None:
        lower = f"lower than on {image.membership.percentile:.1f} % of the held-out images"
        rows.append(("loss", f"{lower}, {p_text(image.membership.p_adjusted)}"))
    if image.p_adjusted is not None:
        rows.append(("rank among held-out", f"{p_text(image.p_adjusted)}, corrected"))
    return rows
