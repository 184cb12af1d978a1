"""The options of a training run. The defaults are the base setup of Gu et al., arXiv:2310.02664.

Budget, ramp-up, half-life and snapshots are given in epochs, so that one configuration means the
same procedure whatever the number |D| of training images; `Schedule` turns them into images.
Imports no torch: the command line reads its options here.
"""

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from memaudit.errors import ConfigError
from memaudit.options import Option, check_options, shown

Architecture = Literal["ddpmpp", "ncsnpp", "adm"]
Preconditioning = Literal["vp", "ve", "edm"]
Embedding = Literal["positional", "fourier"]
Optimizer = Literal["adam", "sgd"]
Precision = Literal["fp32", "bf16", "fp16"]
Compile = Literal["auto", "on", "off"]
EMAMode = Literal["mode1", "mode2", "mode3", "mode4", "plain"]


@dataclass(frozen=True)
class TrainingConfig:
    """Network, optimizer, budget, weight average and snapshots of a run.

    Raises:
        ConfigError: a value is out of range, or two contradict each other.
    """

    arch: Annotated[Architecture, Option("U-Net, by EDM's name for it.")] = "ddpmpp"
    precond: Annotated[
        Preconditioning, Option("Preconditioning, and the loss that comes with it.")
    ] = "vp"
    model_channels: Annotated[
        int | None,
        Option(
            "Channels of the U-Net at multiplier 1.",
            at_least=1,
            metavar="N",
            default_text="128; adm: 192",
        ),
    ] = None
    channel_mult: Annotated[
        tuple[int, ...] | None,
        Option(
            "Channel multiplier of each level, finest first.",
            at_least=1,
            metavar="LIST",
            default_text="2,2,2; adm: 1,2,3,4",
        ),
    ] = None
    num_blocks: Annotated[int, Option("Residual blocks per level.", at_least=1, metavar="N")] = 2
    attn_resolutions: Annotated[
        tuple[int, ...] | None,
        Option(
            "Resolutions with self-attention; a level that is not square has that of its shorter "
            "side.",
            at_least=1,
            metavar="LIST",
            default_text="half of the images' resolution",
        ),
    ] = None
    dropout: Annotated[
        float, Option("Probability of dropping a feature.", at_least=0, below=1, metavar="P")
    ] = 0.13
    embedding: Annotated[
        Embedding | None,
        Option(
            "Embedding of the noise level; ddpmpp and ncsnpp only.",
            default_text="ddpmpp: positional, ncsnpp: fourier",
        ),
    ] = None
    skip_connections: Annotated[
        tuple[int, ...] | None,
        Option(
            "0 or 1 for each encoder-decoder skip, finest first; a 0 feeds zeros. ddpmpp and "
            "ncsnpp only.",
            at_least=0,
            at_most=1,
            metavar="LIST",
            default_text="all are kept",
        ),
    ] = None
    conditional: Annotated[bool, Option("Condition the network on the images' labels.")] = False

    xflip: Annotated[
        bool,
        Option("Also train on the mirror image of each image; an epoch is still |D| images."),
    ] = False
    augment: Annotated[
        float,
        Option(
            "EDM's augmentation: probability of each transformation, such as 0.12; 0 for none.",
            at_least=0,
            at_most=1,
            metavar="P",
        ),
    ] = 0.0

    optimizer: Annotated[Optimizer, Option("How gradients become steps.")] = "adam"
    lr: Annotated[
        float,
        Option("Learning rate after its ramp-up.", above=0, below=math.inf, metavar="RATE"),
    ] = 2e-4
    lr_rampup_epochs: Annotated[
        float,
        Option(
            "Epochs over which the learning rate grows from 0, in whole thousands of images.",
            at_least=0,
            below=math.inf,
            metavar="N",
        ),
    ] = 200
    betas: Annotated[
        tuple[float, float],
        Option(
            "Adam's decay of the first and second moment.", at_least=0, below=1, metavar="B1,B2"
        ),
    ] = (0.9, 0.999)
    eps: Annotated[float, Option("Adam's epsilon.", above=0, below=math.inf, metavar="EPS")] = 1e-8
    momentum: Annotated[float, Option("SGD's momentum.", at_least=0, below=1, metavar="M")] = 0.9
    weight_decay: Annotated[
        float,
        Option("L2 penalty, added to the gradient.", at_least=0, below=math.inf, metavar="RATE"),
    ] = 0.0
    batch_size: Annotated[
        int, Option("Images per step, over all devices.", at_least=1, metavar="N")
    ] = 512
    batch_gpu: Annotated[
        int | None,
        Option(
            "Images that a device computes at a time, to save memory.",
            at_least=1,
            metavar="N",
            default_text="its share of the batch; on a GPU, what fits of it",
        ),
    ] = None
    precision: Annotated[
        Precision, Option("Format of the network's products; all weights are fp32.")
    ] = "fp32"
    tf32: Annotated[bool, Option("Let a GPU round the factors of fp32 products to 10 bits.")] = (
        False
    )

    compile: Annotated[
        Compile,
        Option("torch.compile the network; auto: on a GPU, if the run is long enough to gain."),
    ] = "auto"

    epochs: Annotated[
        float,
        Option(
            "Length of the run: N times the number of training images, rounded up to whole steps.",
            above=0,
            below=math.inf,
            metavar="N",
        ),
    ] = 40_000
    duration_images: Annotated[
        int | None,
        Option(
            "Length of the run in images seen.",
            at_least=1,
            metavar="N",
            default_text="given by --epochs",
        ),
    ] = None

    ema_mode: Annotated[
        EMAMode,
        Option(
            "Decay of the weight average: one of the paper's modes, or plain, counted in steps."
        ),
    ] = "mode4"
    ema_halflife_epochs: Annotated[
        float,
        # With fewer than 100 training images these 10 epochs are 0 thousand, as published: no
        # average.
        Option(
            "Half-life of mode1, mode2 and mode4, in whole thousands of images.",
            at_least=0,
            below=math.inf,
            metavar="N",
        ),
    ] = 10
    ema_decay: Annotated[
        float,
        Option("Decay per step that mode4 and plain end at.", at_least=0, below=1, metavar="BETA"),
    ] = 0.99929
    ema_rampup_ratio: Annotated[
        float,
        Option(
            "Longest half-life of mode1, mode2 and mode4, as a share of the images seen.",
            above=0,
            below=math.inf,
            metavar="SHARE",
            is_share=True,
        ),
    ] = 0.05

    num_snapshots: Annotated[
        int,
        Option(
            "Snapshots of the run, evenly spaced, the last at the end.", at_least=1, metavar="N"
        ),
    ] = 10
    snapshot_epochs: Annotated[
        float | None,
        Option(
            "Epochs between two snapshots.",
            above=0,
            below=math.inf,
            metavar="N",
            default_text="given by --num-snapshots",
        ),
    ] = None
    snapshot_images: Annotated[
        int | None,
        Option(
            "Images between two snapshots.",
            at_least=1,
            metavar="N",
            default_text="given by --num-snapshots",
        ),
    ] = None
    save_minutes: Annotated[
        float,
        Option(
            "Minutes between two copies of the training state: at most that much work is lost.",
            above=0,
            metavar="N",
        ),
    ] = 15.0

    seed: Annotated[
        int,
        Option(
            "Seed of the initial weights, the order of the images, noise, dropout and "
            "augmentation.",
            at_least=0,
            at_most=2**32 - 1,
            metavar="SEED",
        ),
    ] = 1024

    def __post_init__(self) -> None:
        check_options(self)
        if self.channel_mult == ():
            raise ConfigError(
                "{channel_mult} is empty; a multiplier for each level is needed.",
                field="channel_mult",
            )
        if len(self.betas) != 2:
            raise ConfigError(
                f"{{betas}} is {shown(self.betas)}; two numbers are needed.", field="betas"
            )
        if self.snapshot_epochs is not None and self.snapshot_images is not None:
            raise ConfigError(
                f"Snapshots are wanted every {self.snapshot_epochs:g} epochs and every "
                f"{self.snapshot_images:,} images; give only one of {{snapshot_epochs}} and "
                "{snapshot_images}.",
                field=("snapshot_epochs", "snapshot_images"),
            )
        if self.arch == "adm" and (self.embedding is not None or self.skip_connections is not None):
            raise ConfigError(
                "{embedding} and {skip_connections} are options of ddpmpp and ncsnpp, but {arch} "
                "is adm; leave them out or choose another {arch}.",
                field=("embedding", "skip_connections", "arch"),
            )

    def as_dict(self) -> dict[str, Any]:
        """Return every option by name, as it comes back from JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }
