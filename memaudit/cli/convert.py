"""`memaudit convert`: any checkpoint as a safetensors file."""

from pathlib import Path

import click

from memaudit.cli.options import arch_option
from memaudit.errors import ConfigError
from memaudit.files import check_new


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path), metavar="IN")
@click.argument("target", type=click.Path(path_type=Path), metavar="OUT.safetensors")
@arch_option
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def convert(source: Path, target: Path, arch: str | None, overwrite: bool) -> None:
    """Turn a checkpoint into safetensors, without running anything in it.

    The result holds the weights under EDM's names, the configuration and the provenance. It is
    opened again and must denoise a probe to the very same bits; otherwise nothing is written.

    \b
    memaudit convert edm-cifar10-32x32-uncond-vp.pkl cifar10.safetensors
    # a bare state dict, which does not say which network it belongs to
    memaudit convert weights.pt ffhq.safetensors --arch ffhq-ddpmpp-edm
    """
    if target.suffix != ".safetensors":
        raise ConfigError(f"{target} must end in .safetensors, the only format that is written.")
    check_new(target, overwrite=overwrite)

    # Only now: torch takes seconds to import.
    from memaudit.cli.console import remark
    from memaudit.models.checkpoints import convert_checkpoint

    converted = convert_checkpoint(source, target, arch=arch)
    for warning in converted.warnings:
        remark(f"Warning: {warning}", "bold yellow")
    remark(f"{converted.path}: {converted.config['class_name']}, sha256 {converted.sha256}")
