"""`memaudit inspect`: what a checkpoint holds, and whether it denoises given images."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memaudit.cli.options import (
    ImagesPath,
    arch_option,
    choose_device,
    config_options,
    device_option,
    from_options,
    selection_options,
)
from memaudit.data.preparation import Preparation
from memaudit.data.selection import Selection
from memaudit.errors import ConfigError, DataError

SHOWN_FACTS = 100
"""Facts of one kind that are printed: a file may hold any number of them."""

if TYPE_CHECKING:
    from memaudit.audit.denoising.loss_test import DenoisingTest
    from memaudit.audit.denoising.other_options import OtherOption
    from memaudit.models.checkpoints import CheckpointInfo
    from memaudit.models.checkpoints.given import Fact


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path), metavar="FILE")
@click.option(
    "--data",
    "data_path",
    type=ImagesPath(),
    metavar="PATH",
    help="Training images. Also test whether the checkpoint denoises them as it is configured, "
    "which runs its network.",
)
@selection_options
@config_options(Preparation)
@arch_option
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def inspect(
    ctx: click.Context,
    /,
    file: Path,
    data_path: Path | None,
    arch: str | None,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what a checkpoint holds, without running anything in it.

    FILE is a checkpoint, or a folder of diffusers or accelerate. Architecture, preconditioning,
    constructor arguments, noise levels, provenance, what lies beside the weights, hash, what the
    file's pickles name, and whether it can be opened safely. Exit status 2 if it cannot.

    With --data, the network is run on some of its training images with noise, as a scan does
    before it samples: does the checkpoint denoise these images as it is configured, and are they
    prepared as they were for training? What the file does not show (--arch) is tried with its other
    values. Exit status 2 if it does not denoise them, or better with another value.

    \b
    memaudit inspect network-snapshot-010000.pkl
    memaudit inspect model.safetensors --json
    memaudit inspect model.safetensors --data ./train
    """
    from memaudit.audit.source import holds_images
    from memaudit.cli.console import print_json
    from memaudit.cli.main import COULD_NOT_RUN, option_names
    from memaudit.models.checkpoints import inspect_checkpoint

    if holds_images(file) and file.is_dir():
        raise ConfigError(
            f"{file} is a folder without the files of a diffusers model or of accelerate. Name a "
            "checkpoint file in it; if it holds images, use `memaudit dataset inspect`."
        )
    if holds_images(file):
        raise ConfigError(
            f"{file} holds images, not a checkpoint; `memaudit dataset inspect` says what they are."
        )
    selection = from_options(Selection, options)
    preparation = from_options(Preparation, options)
    if data_path is None and (selection != Selection() or not preparation.is_plain):
        raise ConfigError("Images are selected, but none are given; name them with --data.")
    info = inspect_checkpoint(file, arch=arch, names=option_names(ctx.command))
    test: DenoisingTest | None = None
    if data_path is not None and info.problem is None:
        test = _test(
            file, data_path, selection, preparation, arch=arch, device=choose_device(device)
        )
    if as_json:
        content = asdict(info)
        if data_path is not None:
            content["denoising"] = None if test is None else asdict(test)
        print_json(_finite(content))
    else:
        _render(info)
        if test is not None:
            _render_test(test)
            _render_others(test.other_options)
    is_right = test is None or test.allows_pass
    if info.problem is not None or not is_right:
        ctx.exit(COULD_NOT_RUN)


def _test(
    file: Path,
    data_path: Path,
    selection: Selection,
    preparation: Preparation,
    *,
    arch: str | None,
    device: str,
) -> "DenoisingTest":
    """Run the denoising test on the images at a path."""
    from memaudit.audit.denoising.loss_test import check_denoising
    from memaudit.cli.console import progress_bars, warn_about
    from memaudit.data.sources import open_images
    from memaudit.data.subsets import open_selected
    from memaudit.models.checkpoints import open_checkpoint
    from memaudit.models.execution import Execution

    checkpoint = open_checkpoint(file, arch=arch, device=device)
    with progress_bars() as progress:
        data = open_selected(data_path, selection, preparation, progress=progress)
        warn_about(data)
        originals = None
        if preparation.resolution is not None:
            with suppress(DataError):  # of several sizes, which cannot be one array
                originals = open_images(
                    data_path,
                    preparation.at_stored_size(),
                    layout=selection,
                    choose=lambda _: data.indices,
                    progress=progress,
                )
        return check_denoising(
            checkpoint.network,
            data,
            checkpoint=checkpoint,
            originals=originals,
            execution=Execution(device=device),
            progress=progress,
        )


def _render_others(others: "tuple[OtherOption, ...]") -> None:
    from rich import box
    from rich.table import Table

    from memaudit.cli.console import out, print_row

    if not others:
        return
    better = [other.option for other in others if other.is_better]
    print_row(
        "other options",
        f"NO: it denoises better with {better[0]}, one of {len(others)} that were tried"
        if better
        else f"none of {len(others)} denoises better",
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("option instead")
    table.add_column("loss, of that as configured", justify="right")
    for other in others:
        table.add_row(
            other.option, f"{other.change:.3g}", style="bold red" if other.is_better else ""
        )
    out.print(table)


def _render_test(test: "DenoisingTest") -> None:
    from rich import box
    from rich.table import Table

    from memaudit.cli.console import out, print_row, say

    answer = "yes" if test.denoises and not test.noise_range.problem else "no"
    say("")
    print_row("denoises these images", f"{answer}. {test.message}")
    for number, cause in enumerate(test.causes, 1):
        print_row(f"  likely cause {number}", cause)
    print_row("prepared as for training", _prepared(test))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ("noise level", "loss", "of shrinking", "of a filter", "corrected", "allowed")
    for name in columns:
        table.add_column(name, justify="right")
    for level in test.levels:
        values = (level.sigma, level.loss, level.shrink_loss, level.linear_loss)
        too_high = level.loss > level.allowed
        table.add_row(
            *(f"{value:.3g}" for value in (*values, level.corrected_loss, level.allowed)),
            style="bold red" if too_high else "",
        )
    out.print(table)
    forms = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("images in another form", "loss, of that as given", "p"):
        forms.add_column(name, justify="left" if name.startswith("images") else "right")
    for form in test.preprocessing.variants:
        style = "bold red" if form.is_better else ""
        forms.add_row(form.name, f"{form.change:.3g}", f"{form.p_value:.2g}", style=style)
    out.print(forms)


def _prepared(test: "DenoisingTest") -> str:
    best = test.preprocessing.best
    return f"{'as far as was tried' if best is None else 'NO'}. {test.preprocessing.message}"


def _render(info: "CheckpointInfo") -> None:
    from memaudit.cli.console import print_row
    from memaudit.models.resolution import height_and_width

    def row(name: str, value: object) -> None:
        if value not in (None, "", (), {}):
            print_row(name, str(value))

    def rows(facts: Iterable[tuple[str, Any]], what: str) -> None:
        facts = list(facts)
        for name, value in facts[:SHOWN_FACTS]:
            row(name, value if isinstance(value, str) else json.dumps(value))
        if len(facts) > SHOWN_FACTS:
            row("", f"and {len(facts) - SHOWN_FACTS:,} more {what}; --json prints all")

    row("file", f"{info.path} ({info.num_bytes:,} bytes, {info.container})")
    row("sha256", info.sha256)
    row("safe", "yes: read to its end, nothing in it ran" if info.safe else "NO")
    row("problem", info.problem)
    if (network := info.network) is not None:
        classes = f"{network.label_dim:,} classes" if network.label_dim else "no classes"
        dtypes = ", ".join(f"{count:,} {name}" for name, count in network.dtypes.items())
        H, W = height_and_width(network.img_resolution)
        row("format", network.format)
        row("network", f"{network.architecture}, {network.num_parameters:,} parameters")
        row("stored as", dtypes)
        row("preconditioning", network.preconditioning)
        row("images", f"{network.img_channels} x {H} x {W}, {classes}")
        row("noise levels", f"{network.sigma_min:g} to {network.sigma_max:g}")
        said = {fact.name: fact.value for fact in network.facts}
        rows(
            (
                (f"  {name}", json.dumps(value))
                for name, value in network.config.items()
                if name not in said or said[name] != value  # which is said below, and by whom
            ),
            "options",
        )
        rows(((f"  {fact.name}", _origin(fact)) for fact in network.facts), "facts")
        rows(((f"  {name}", value) for name, value in network.provenance.items()), "facts")
        rows((("warning", warning) for warning in network.warnings), "warnings")
    rows((("pickle names", name) for name in info.globals), "names")


def _origin(fact: "Fact") -> str:
    """An option of a network, and who says so."""
    who = {"file": "the file shows", "user": "the user says", "default": "assumed by default"}
    return f"{json.dumps(fact.value)} ({who[fact.origin]})"


def _finite(value: Any) -> Any:
    """A value with infinite noise levels as text, since JSON has no number for them."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    return value
