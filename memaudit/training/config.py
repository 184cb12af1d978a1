"""What a training run is made of. The defaults are the base set-up of Gu et al., arXiv:2310.02664.

Budget, ramp-up, half-life and snapshots are given in epochs, so that one configuration means the
same procedure whatever the number |D| of training images; `Schedule` turns them into images.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from memaudit import options
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError, DataError
from memaudit.models.published_networks import ADM, DDPMPP, NCSNPP
from memaudit.training.augment import AUGMENT_DIM
from memaudit.training.precision import DTYPES

ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "ddpmpp": {**DDPMPP, "channel_mult": [2, 2, 2]},
    "ncsnpp": {**NCSNPP, "channel_mult": [2, 2, 2]},
    "adm": ADM,
}
"""U-Nets by EDM's names for them, as keywords of their constructors."""

PRECONDITIONINGS: Mapping[str, str] = {"vp": "VPPrecond", "ve": "VEPrecond", "edm": "EDMPrecond"}
"""Wrapper of the U-Net; each comes with the loss of the same name."""

EMBEDDINGS = ("positional", "fourier")
OPTIMIZERS = ("adam", "sgd")
EMA_MODES = ("mode1", "mode2", "mode3", "mode4", "plain")


@dataclass(frozen=True)
class TrainingConfig:
    """Network, optimizer, budget, average and snapshots of a run.

    Raises:
        ConfigError: a value out of its range, or two that contradict each other.
    """

    arch: str = "ddpmpp"
    """U-Net: `ddpmpp`, `ncsnpp` or `adm`."""
    precond: str = "vp"
    """Preconditioning and loss: `vp`, `ve` or `edm`."""
    model_channels: int | None = None
    """Channels of the U-Net at multiplier 1. None: 128, of `adm` 192."""
    channel_mult: tuple[int, ...] | None = None
    """Multiplier of each level, finest first. None: 2,2,2, of `adm` 1,2,3,4."""
    num_blocks: int = 2
    """Residual blocks a level."""
    attn_resolutions: tuple[int, ...] | None = None
    """Resolutions with self-attention. None: half of the images' resolution."""
    dropout: float = 0.13
    """Probability of dropping a feature."""
    embedding: str | None = None
    """Embedding of the noise level, `positional` or `fourier`. None: the architecture's."""
    skip_connections: tuple[int, ...] | None = None
    """0 or 1 for each encoder-decoder skip, finest first; a 0 feeds zeros. None: all are kept."""
    conditional: bool = False
    """Condition the network on the images' labels."""

    xflip: bool = False
    """Train on each image's mirror image as well. An epoch remains |D| images."""
    augment: float = 0.0
    """Probability of each transformation of an image, of which the network is told: EDM's
    augmentation. 0: none."""

    optimizer: str = "adam"
    """`adam` or `sgd`."""
    lr: float = 2e-4
    """Learning rate after its ramp-up."""
    lr_rampup_epochs: float = 200
    """Epochs over which the learning rate grows from 0, in whole thousands of images."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay of the first and second moment."""
    eps: float = 1e-8
    """Adam's epsilon."""
    momentum: float = 0.9
    """SGD's momentum."""
    weight_decay: float = 0.0
    """L2 penalty, added to the gradient."""
    batch_size: int = 512
    """Images a step."""
    batch_gpu: int | None = None
    """Images that a device computes at a time: bounds the memory. None: its share of the batch."""
    precision: str = "fp32"
    """Of the network's products: `fp32`, `bf16` or `fp16`. All weights are float32."""
    tf32: bool = False
    """Let a GPU round the factors of float32 products to 10 bits."""

    epochs: float = 40_000
    """Length of the run."""
    duration_images: int | None = None
    """Length of the run in images seen, in place of `epochs`."""

    ema_mode: str = "mode4"
    """Decay of the average of the weights: `mode1` … `mode4` or `plain`, see `ema_beta`."""
    ema_halflife_epochs: float = 10
    """Half-life of modes 1, 2 and 4 in epochs, in whole thousands of images. With fewer than 100
    training images these 10 epochs are 0 thousand, as published: no average."""
    ema_decay: float = 0.99929
    """Decay a step that modes `mode4` and `plain` end at."""
    ema_rampup_ratio: float = 0.05
    """The half-life is at most this share of the images seen."""

    num_snapshots: int = 10
    """Snapshots, evenly spaced, the last at the end."""
    snapshot_epochs: float | None = None
    """Epochs between two snapshots, in place of `num_snapshots`."""
    snapshot_images: int | None = None
    """Images between two snapshots, in place of `num_snapshots`."""

    seed: int = 1024
    """Of the initial weights, the order of the images, noise and dropout."""

    def __post_init__(self) -> None:
        _check_choice("arch", self.arch, tuple(ARCHITECTURES))
        _check_choice("precond", self.precond, tuple(PRECONDITIONINGS))
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("precision", self.precision, tuple(DTYPES))
        _check_choice("ema_mode", self.ema_mode, EMA_MODES)
        if self.embedding is not None:
            _check_choice("embedding", self.embedding, EMBEDDINGS)

        for name in ("num_blocks", "batch_size", "num_snapshots"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("lr", "eps", "epochs", "ema_rampup_ratio"):
            _check(0 < getattr(self, name) < inf, name, getattr(self, name), "more than 0")
        for name in ("weight_decay", "lr_rampup_epochs", "ema_halflife_epochs"):
            _check(0 <= getattr(self, name) < inf, name, getattr(self, name), "0 or more")
        for name in ("dropout", "momentum", "ema_decay"):
            _check(
                0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0, less than 1"
            )
        _check(0 <= self.augment <= 1, "augment", self.augment, "a probability from 0 to 1")
        for name in (
            "model_channels",
            "batch_gpu",
            "duration_images",
            "snapshot_epochs",
            "snapshot_images",
        ):
            value = getattr(self, name)
            _check(value is None or value > 0, name, value, "more than 0, or None")
        for beta in self.betas:
            _check(0 <= beta < 1, "betas", self.betas, "two numbers from 0 to below 1")
        levels_fit = len(self.levels) > 0 and min(self.levels) >= 1
        _check(levels_fit, "channel_mult", self.channel_mult, "1 or more for each level")
        _check(0 <= self.seed < 2**32, "seed", self.seed, "a number from 0 to 4294967295")

        if self.snapshot_epochs is not None and self.snapshot_images is not None:
            raise ConfigError(
                f"Snapshots are asked for every {self.snapshot_epochs:g} epochs and every "
                f"{self.snapshot_images:,} images; give one of the two."
            )
        if self.arch == "adm" and (self.embedding is not None or self.skip_connections is not None):
            raise ConfigError(
                "embedding and skip_connections are options of ddpmpp and ncsnpp; "
                "the arch is adm. Leave them out or choose another arch."
            )

    @property
    def levels(self) -> tuple[int, ...]:
        """Channel multiplier of each level of the U-Net, finest first."""
        if self.channel_mult is not None:
            return self.channel_mult
        return tuple(ARCHITECTURES[self.arch]["channel_mult"])

    def network_config(self, images: ImageSet) -> dict[str, Any]:
        """The network for these images, as keywords that `build_network` takes.

        Raises:
            DataError: no images, images that are not square, or no labels for a conditional
                network.
            ConfigError: self-attention at a resolution that no level has.
        """
        if len(images) == 0:
            raise DataError(f"{images.source} holds no image to train on.")
        channels, height, width = images.image_shape
        if height != width:
            raise DataError(
                f"{images.source} holds images of {height}x{width}; the network needs square ones. "
                f"Resize them, for example to {min(height, width)}x{min(height, width)}."
            )
        if self.conditional and images.labels is None:
            raise DataError(
                f"A conditional network was asked for, but {images.source} holds no labels. "
                "Use images with labels, or train without `conditional`."
            )
        attn_resolutions = self.attn_resolutions
        if attn_resolutions is None:
            attn_resolutions = (height // 2,)
        else:
            resolutions = tuple(height >> level for level in range(len(self.levels)))
            if not set(attn_resolutions) <= set(resolutions):
                raise ConfigError(
                    f"attn_resolutions is {options.shown(attn_resolutions)}, but the network's "
                    f"levels have {options.shown(resolutions)} at images of {height}x{height}; "
                    "choose among those, or add a level with channel_mult."
                )
        config = {
            "class_name": PRECONDITIONINGS[self.precond],
            "img_resolution": height,
            "img_channels": channels,
            "label_dim": images.num_classes if self.conditional else 0,
            "use_fp16": False,
            **ARCHITECTURES[self.arch],
            "channel_mult": list(self.levels),
            "num_blocks": self.num_blocks,
            "attn_resolutions": list(attn_resolutions),
            "dropout": self.dropout,
        }
        if self.augment:
            config["augment_dim"] = AUGMENT_DIM
        if self.model_channels is not None:
            config["model_channels"] = self.model_channels
        if self.embedding is not None:
            config["embedding_type"] = self.embedding
        if self.skip_connections is not None:
            config["skip_connections"] = list(self.skip_connections)
        return config

    def as_dict(self) -> dict[str, Any]:
        """Every option by name, as JSON gives it back."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def _check(holds: bool, name: str, value: object, needed: str) -> None:
    if not holds:
        shown = options.shown(value) if isinstance(value, tuple) else value
        raise ConfigError(f"{name} is {shown}; {needed} is needed.")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; one of {', '.join(choices)} is needed.")
