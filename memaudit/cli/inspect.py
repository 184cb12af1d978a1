"""`memaudit inspect`: what a checkpoint holds."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memaudit.cli.options import arch_option
from memaudit.errors import ConfigError

if TYPE_CHECKING:
    from memaudit.models.checkpoints import CheckpointInfo


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path), metavar="FILE")
@arch_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def inspect(ctx: click.Context, /, file: Path, arch: str | None, as_json: bool) -> None:
    """Show what a checkpoint holds, without running anything in it.

    FILE is a checkpoint or a diffusers folder. Architecture, preconditioning, constructor
    arguments, noise levels, provenance, hash, what the file's pickles name, and whether it can be
    opened safely. Exit status 2 if it cannot.

    \b
    memaudit inspect network-snapshot-010000.pkl
    memaudit inspect model.safetensors --json
    """
    from memaudit.audit.source import holds_images
    from memaudit.cli.main import COULD_NOT_RUN
    from memaudit.models.checkpoints import inspect_checkpoint

    if holds_images(file) and file.is_dir():
        raise ConfigError(
            f"{file} is a folder without the model_index.json or config.json of a diffusers model. "
            "Name a checkpoint file in it; if it holds images, use `memaudit dataset inspect`."
        )
    if holds_images(file):
        raise ConfigError(
            f"{file} holds images, not a checkpoint; `memaudit dataset inspect` says what they are."
        )
    info = inspect_checkpoint(file, arch=arch)
    if as_json:
        click.echo(json.dumps(_finite(asdict(info)), indent=2, allow_nan=False))
    else:
        _render(info)
    if info.problem is not None:
        ctx.exit(COULD_NOT_RUN)


def _render(info: "CheckpointInfo") -> None:
    from memaudit.cli.console import print_row

    def row(name: str, value: object) -> None:
        if value not in (None, "", (), {}):
            print_row(name, str(value))

    row("file", f"{info.path} ({info.num_bytes:,} bytes, {info.container})")
    row("sha256", info.sha256)
    row("safe", "yes: read to its end, nothing in it ran" if info.safe else "NO")
    row("problem", info.problem)
    if (network := info.network) is not None:
        classes = f"{network.label_dim:,} classes" if network.label_dim else "no classes"
        dtypes = ", ".join(f"{count:,} {name}" for name, count in network.dtypes.items())
        resolution = network.img_resolution
        row("format", network.format)
        row("network", f"{network.architecture}, {network.num_parameters:,} parameters")
        row("stored as", dtypes)
        row("preconditioning", network.preconditioning)
        row("images", f"{network.img_channels} x {resolution} x {resolution}, {classes}")
        row("noise levels", f"{network.sigma_min:g} to {network.sigma_max:g}")
        for name, value in network.config.items():
            row(f"  {name}", json.dumps(value))
        for name, value in network.provenance.items():
            row(f"  {name}", value if isinstance(value, str) else json.dumps(value))
        for warning in network.warnings:
            row("warning", warning)
    for name in info.globals:
        row("pickle names", name)


def _finite(value: Any) -> Any:
    """A value with infinite noise levels as text, since JSON has no number for them."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    return value
