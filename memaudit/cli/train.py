"""`memaudit train`: the paper's models, or small ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memaudit.cli.options import (
    IntegerList,
    choose_device,
    data_options,
    device_option,
    from_options,
)
from memaudit.errors import ConfigError
from memaudit.progress import silent

if TYPE_CHECKING:
    from memaudit.experiments.early_warning import SnapshotAudit


@click.command()
@data_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder for snapshots and the log; other files in it are left alone.",
)
@click.option(
    "--arch",
    type=click.Choice(["ddpmpp", "ncsnpp", "adm"]),
    default="ddpmpp",
    show_default=True,
    help="U-Net, by EDM's name for it.",
)
@click.option(
    "--precond",
    type=click.Choice(["vp", "ve", "edm"]),
    default="vp",
    show_default=True,
    help="Preconditioning and loss.",
)
@click.option(
    "--model-channels",
    type=int,
    metavar="N",
    help="Channels at multiplier 1.  [default: 128; adm: 192]",
)
@click.option(
    "--channel-mult",
    type=IntegerList(),
    help="Multiplier of each level, finest first.  [default: 2,2,2; adm: 1,2,3,4]",
)
@click.option("--num-blocks", type=int, default=2, show_default=True, help="Blocks a level.")
@click.option(
    "--attn-resolutions",
    type=IntegerList(),
    help="Resolutions with self-attention.  [default: half of the images']",
)
@click.option("--dropout", type=float, default=0.13, show_default=True, metavar="P")
@click.option(
    "--embedding",
    type=click.Choice(["positional", "fourier"]),
    help="Of the noise level.  [default: the architecture's]",
)
@click.option(
    "--skip-connections",
    type=IntegerList(),
    help="0 or 1 for each encoder-decoder skip, finest first.  [default: all kept]",
)
@click.option("--conditional", is_flag=True, help="Condition on the images' labels.")
@click.option("--xflip", is_flag=True, help="Train on every image's mirror image as well.")
@click.option(
    "--augment",
    type=float,
    default=0.0,
    show_default=True,
    metavar="P",
    help="EDM's augmentation: probability of each transformation, such as 0.12.",
)
@click.option("--optimizer", type=click.Choice(["adam", "sgd"]), default="adam", show_default=True)
@click.option(
    "--lr", type=float, default=2e-4, show_default=True, metavar="RATE", help="Learning rate."
)
@click.option(
    "--lr-rampup-epochs",
    type=float,
    default=200.0,
    show_default=True,
    metavar="N",
    help="Epochs over which it grows from 0.",
)
@click.option(
    "--momentum",
    type=float,
    default=0.9,
    show_default=True,
    help="Of SGD; Adam's betas are 0.9 and 0.999.",
)
@click.option(
    "--weight-decay", type=float, default=0.0, show_default=True, help="L2, in the gradient."
)
@click.option(
    "--batch-size", type=int, default=512, show_default=True, metavar="N", help="Images a step."
)
@click.option(
    "--batch-gpu",
    type=int,
    metavar="N",
    help="Images a device computes at a time, to save memory.  [default: its share of the batch]",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Of the network's products; weights stay fp32.",
)
@click.option("--tf32", is_flag=True, help="Let a GPU round the factors of fp32 products.")
@click.option(
    "--epochs",
    type=float,
    default=40_000.0,
    show_default=True,
    metavar="N",
    help="Length of the run: N times the number of training images, and up to a step more, since "
    "only whole steps are done.",
)
@click.option(
    "--duration-images", type=int, metavar="N", help="Length in images seen, in place of --epochs."
)
@click.option(
    "--ema-mode",
    type=click.Choice(["mode1", "mode2", "mode3", "mode4", "plain"]),
    default="mode4",
    show_default=True,
    help="Decay of the weights' average: the paper's modes, or a plain decay a step.",
)
@click.option(
    "--ema-decay",
    type=float,
    default=0.99929,
    show_default=True,
    help="What mode4 and plain end at.",
)
@click.option(
    "--ema-halflife-epochs",
    type=float,
    default=10.0,
    show_default=True,
    metavar="N",
    help="Half-life of mode1, mode2 and mode4.",
)
@click.option(
    "--num-snapshots",
    type=int,
    default=10,
    show_default=True,
    metavar="N",
    help="Evenly spaced, the last at the end.",
)
@click.option(
    "--snapshot-epochs", type=float, metavar="N", help="Epochs between two snapshots, instead."
)
@click.option("--snapshot-images", type=int, metavar="N", help="Images between two, instead.")
@click.option(
    "--audit-every",
    type=click.IntRange(min=1),
    metavar="N",
    help="Scan one of N snapshots, and tell when memorization begins.",
)
@click.option(
    "--audit-samples",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="N",
    help="Images generated for each of these scans.",
)
@click.option(
    "--tensorboard", is_flag=True, help='Write the log for TensorBoard, too (extra "tensorboard").'
)
@click.option("--seed", type=int, default=1024, show_default=True)
@click.option("--resume", is_flag=True, help="Go on with the run that was stopped in DIR.")
@device_option
def train(
    data_path: Path,
    out: Path,
    audit_every: int | None,
    audit_samples: int,
    tensorboard: bool,
    device: str,
    resume: bool,
    **options: Any,
) -> None:
    """Train a diffusion model on a set of images.

    The defaults are the base set-up of "On Memorization in Diffusion Models": DDPM++ with VP
    preconditioning, 40,000 epochs. Snapshots are safetensors that `memaudit scan` opens. Ctrl-C
    keeps a snapshot; the same command with --resume goes on from there.

    \b
    # the paper's base model on 1,000 images of CIFAR-10, for a GPU
    memaudit train --data cifar10.zip --size 1000 --balanced --out runs/base-1000
    # a network for a laptop: 8x8 images, minutes on a CPU
    memaudit train --data cifar10.zip --resolution 8 --size 64 --subset random \\
        --precond edm --model-channels 24 --channel-mult 1,2 --num-blocks 1 --dropout 0 \\
        --batch-size 64 --lr 2e-3 --lr-rampup-epochs 0 --ema-mode plain --ema-decay 0.999 \\
        --epochs 2000 --out runs/small-64
    """
    from memaudit.cli.console import progress_bars, remark
    from memaudit.data.selection import Selection
    from memaudit.data.subsets import open_selected
    from memaudit.experiments.early_warning import EarlyWarning
    from memaudit.training.config import TrainingConfig
    from memaudit.training.distributed import current_ranks, joined_by_torchrun
    from memaudit.training.loop import train as run_training
    from memaudit.training.run_folder import RunFolder
    from memaudit.training.schedule import Schedule, epochs_text

    selection = from_options(Selection, options)
    config = TrainingConfig(**options)
    if resume and not RunFolder(out).holds_run:
        raise ConfigError(
            f"{out} holds no training run to resume: there is no snapshot in it. Leave out "
            "--resume to begin one, or name the folder of the run."
        )
    device = choose_device(device)
    with joined_by_torchrun(device) as where, progress_bars() as progress:
        is_first = current_ranks().rank == 0
        if not is_first:
            progress = silent
        data = open_selected(data_path, selection, progress=progress)
        early_warning = None
        if audit_every is not None:
            early_warning = EarlyWarning(
                data,
                Schedule(config, len(data)),
                every=audit_every,
                num_samples=audit_samples,
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
        f"({epochs_text(result.images_seen / len(data))} epochs). Model: {result.model}"
        + (" Go on with the same command and --resume." if result.interrupted else "")
    )


def _show_audit(audit: "SnapshotAudit") -> None:
    from memaudit.cli.console import err
    from memaudit.cli.wording import describe
    from memaudit.training.schedule import epochs_text

    if audit.begins:
        err.print(
            f"Memorization begins at epoch {epochs_text(audit.epochs)}.",
            style="bold red",
            highlight=False,
            soft_wrap=True,
        )
    err.print(
        f"Epoch {epochs_text(audit.epochs)}: {audit.copies.count:,} of {audit.copies.total:,} "
        f"samples are copies, {describe(audit.copies)}.",
        highlight=False,
        soft_wrap=True,
    )
