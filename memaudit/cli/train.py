"""`memaudit train`: the paper's models, or small ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memaudit.cli.options import (
    choose_device,
    config_options,
    data_options,
    device_option,
    from_options,
)
from memaudit.errors import ConfigError
from memaudit.experiments.config import EarlyWarningConfig
from memaudit.progress import silent
from memaudit.training.config import TrainingConfig

if TYPE_CHECKING:
    from memaudit.experiments.early_warning import SnapshotAudit
    from memaudit.experiments.training_forecast import TrainingForecast


@click.command()
@data_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder for snapshots and the log; other files in it are left alone.",
)
@config_options(TrainingConfig)
@config_options(EarlyWarningConfig)
@click.option(
    "--tensorboard", is_flag=True, help='Also write the log for TensorBoard (extra "tensorboard").'
)
@click.option("--resume", is_flag=True, help="Continue the run that was stopped in DIR.")
@device_option
def train(
    data_path: Path,
    out: Path,
    tensorboard: bool,
    device: str,
    resume: bool,
    **options: Any,
) -> None:
    """Train a diffusion model on a set of images.

    The defaults are the base setup of "On Memorization in Diffusion Models": DDPM++ with VP
    preconditioning, 40,000 epochs. Snapshots are safetensors files that `memaudit scan` opens.
    Ctrl-C saves a snapshot; the same command with --resume continues from there.

    \b
    # the paper's base model on 1,000 images of CIFAR-10, for a GPU
    memaudit train --data cifar10.zip --size 1000 --balanced --out runs/base-1000
    # a network for a laptop: 8x8 images, minutes on a CPU
    memaudit train --data cifar10.zip --resolution 8 --size 64 --subset random \\
        --precond edm --model-channels 24 --channel-mult 1,2 --num-blocks 1 \\
        --dropout 0 --batch-size 64 --lr 2e-3 --lr-rampup-epochs 0 \\
        --ema-mode plain --ema-decay 0.999 --epochs 2000 --out runs/small-64
    """
    from memaudit.data.preparation import Preparation
    from memaudit.data.selection import Selection

    selection = from_options(Selection, options)
    preparation = from_options(Preparation, options)
    config = from_options(TrainingConfig, options)
    audits = from_options(EarlyWarningConfig, options)

    # Only now: torch takes seconds to import.
    from memaudit.cli.console import progress_bars, remark, warn_about
    from memaudit.cli.long_work import finish
    from memaudit.data.subsets import open_selected
    from memaudit.experiments.early_warning import EarlyWarning
    from memaudit.training.distributed import (
        current_ranks,
        first_on_each_machine,
        join_torchrun,
    )
    from memaudit.training.loop import train as run_training
    from memaudit.training.run_folder import RunFolder
    from memaudit.training.schedule import Schedule, format_epochs

    if resume and not RunFolder(out).holds_run:
        raise ConfigError(
            f"{out} does not hold a training run to resume: there is no snapshot in it. Leave out "
            "{resume} to begin one, or name the folder of the run.",
            field="resume",
        )
    device = choose_device(device)
    RunFolder(out).check(resume=resume)  # before the forecast, which takes its time
    with join_torchrun(device) as where, progress_bars() as progress:
        is_first = current_ranks().rank == 0
        if not is_first:
            progress = silent
        with first_on_each_machine():  # which fills the cache
            data = open_selected(data_path, selection, preparation, progress=progress)
        if is_first:
            warn_about(data)
            from memaudit.experiments.training_forecast import forecast_training

            forecast = forecast_training(
                config,
                data,
                out=out,
                device=where,
                num_ranks=current_ranks().num_ranks,
                audits=audits,
            )
            _show_forecast(forecast, device)
        early_warning = None
        if audits.every is not None:
            early_warning = EarlyWarning(
                data,
                Schedule(config, len(data)),
                audits,
                device=device,
                progress=progress,
                on_audit=_show_audit,
            )
        result = run_training(
            data,
            config,
            out=out,
            device=where,
            resume=resume,
            progress=progress,
            on_snapshot=early_warning,
            tensorboard=tensorboard,
        )
    if not is_first:
        return
    remark(
        f"{'Stopped' if result.interrupted else 'Trained'} after {result.images_seen:,} images "
        f"({format_epochs(result.images_seen / len(data))} epochs). "
        + ("Continue with the same command and --resume. " if result.interrupted else "")
        + f"Model: {result.model}"
    )
    finish(
        f"{'stopped' if result.interrupted else 'done'} after {result.images_seen:,} images",
        str(result.model),
    )


def _show_forecast(forecast: "TrainingForecast", device: str) -> None:
    from memaudit.cli.console import remark
    from memaudit.wording import counted, duration

    audits = f", {duration(forecast.audit_seconds)} of it audits" if forecast.audit_seconds else ""
    remark(
        f"Forecast: {duration(forecast.seconds)} on {device} "
        f"({forecast.images_per_second:,.0f} images/s{audits}), "
        f"{forecast.memory_bytes / 1e6:,.0f} MB of memory, and "
        f"{forecast.disk_bytes / 1e6:,.0f} MB on disk for "
        f"{counted(forecast.num_snapshots, 'snapshot', 'snapshots')} and the training state."
    )
    if forecast.disk_bytes > forecast.free_bytes:
        remark(
            f"Warning: only {forecast.free_bytes / 1e6:,.0f} MB are free there. Make room, or keep "
            "fewer snapshots with --num-snapshots.",
            "bold yellow",
        )


def _show_audit(audit: "SnapshotAudit") -> None:
    from memaudit.cli.console import remark
    from memaudit.cli.wording import describe
    from memaudit.training.schedule import format_epochs

    if audit.begins:
        remark(f"Memorization begins at epoch {format_epochs(audit.epochs)}.", "bold red")
    remark(
        f"Epoch {format_epochs(audit.epochs)}: {audit.copies.count:,} of {audit.copies.total:,} "
        f"samples are copies, {describe(audit.copies)}."
    )
