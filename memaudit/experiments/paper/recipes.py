"""What Gu et al. (arXiv:2310.02664) varied, as data: one recipe per factor, with their results.

A recipe is the base setup with one factor changed, as the paper's runs had it or as its text
describes it: the two differ in the average of the weights, in snapshots, and in how images and
labels were drawn. Published ratios were read off figures and are good to about a percentage point.
At laptop scale, a recipe varies the same factor with a far
smaller network, images, sizes and budget; there only trends can be compared.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from memaudit.data.set_recipe import DrawRule, LabelScheme
from memaudit.errors import ConfigError
from memaudit.experiments.training_presets import LAPTOP
from memaudit.training.config import TrainingConfig

BASE = TrainingConfig()
DOGS = 5
"""CIFAR-10's class of dogs."""
LAPTOP_SIZES = 25
"""Factor by which training sets are smaller at laptop scale."""
LAPTOP_CHANGES: Mapping[str, Any] = {
    "model_channels": lambda channels: channels // 8,
    "num_blocks": lambda blocks: blocks // 2,
    "batch_size": lambda batch: batch // 8,
    "lr": lambda lr: 10 * lr,
    "epochs": lambda epochs: epochs / 20,
}
"""How a recipe's changes shrink at laptop scale; other changes stay as they are."""
PUBLISHED_CHANGES: Mapping[str, Any] = {"ema_mode": "mode2", "snapshot_images": 2_509_000}
"""How the paper's runs differ from the base training that its text describes. At the batch size of
512 the two averages are the same but for 5e-7 in the decay."""
DEVIATIONS: Mapping[DrawRule, tuple[str, ...]] = {
    "published": (
        "The published ratio is the highest of all snapshots by the images that chose it, which "
        "is too high by a little; here one half of the images chooses the snapshot and the other "
        "half is its ratio.",
        "Images come in the order of the same random numbers, but sorted by class there, and in "
        "the order of the source here. Noise was drawn by GPUs, whose random numbers differ.",
        "The runs on data-dimension took the first images of the source, whatever their class. Of "
        "other recipes only the text is known, which says balanced.",
        "There is no snapshot after the first step, which cannot be the highest.",
    ),
    "described": (
        "As the text describes it, not as the runs were: the average of the weights keeps its "
        "half-life at every batch size (mode4), there are ten snapshots instead of one every 2.509 "
        "million images, subsets are balanced in data-dimension too, mixtures are a random choice "
        "of both sources, and random labels are numpy's.",
    ),
}
"""What still differs from the published runs."""


@dataclass(frozen=True)
class TrainingData:
    """The images and labels that a network is trained on."""

    resolution: int = 32
    num_classes: int | None = None
    """Number of classes to take, the first ones; None takes all. Classes have equal shares."""
    label: int | None = None
    """The only class to take."""
    published_first: bool = False
    """Whether the published runs took the first images, whatever their class."""
    second_share: float = 0.0
    """Share α of the images that comes from a second source."""
    labels: LabelScheme = "none"
    """What the network is conditioned on."""
    num_random: int | None = None
    """Number C of random classes."""


@dataclass(frozen=True)
class FactorLevel:
    """One value of a recipe's factor."""

    value: str
    """Its name on the command line."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the base training, by field."""
    data: TrainingData = TrainingData()
    published: Mapping[int, float] = field(default_factory=dict)
    """Published highest ratio, in percent, by |D|."""


@dataclass(frozen=True)
class Recipe:
    """A factor, its levels, and the sizes |D| to train at."""

    name: str
    factor: str
    """What varies, in words."""
    levels: tuple[FactorLevel, ...]
    sizes: tuple[int, ...]
    """Sizes to train at, unless others are asked for."""
    note: str = ""
    """What the paper found besides the ratios."""
    laptop_resolution: int = 8
    """Resolution at laptop scale in place of 32; other resolutions shrink by the same factor."""
    laptop_training: Mapping[str, Any] = field(default_factory=dict)
    """Further changes at laptop scale, by field."""
    is_laptop: bool = False
    """Whether this is the recipe at laptop scale."""
    rule: DrawRule = "published"
    """Whether it is as the paper's runs were, or as its text describes it."""

    @property
    def is_ordered(self) -> bool:
        """Whether the levels are amounts in their order, rather than names."""
        return all(level.value.removeprefix("C=")[0].isdigit() for level in self.levels)

    def configure_training(self, level: FactorLevel) -> TrainingConfig:
        """Return the complete training configuration of a level."""
        conditional = level.data.labels != "none"
        base = replace(LAPTOP, **self.laptop_training) if self.is_laptop else BASE
        config = replace(base, **{"conditional": conditional, **level.training})
        if self.rule == "described" or self.is_laptop:
            return config
        changes = dict(PUBLISHED_CHANGES)
        if "ema_decay" in level.training:
            del changes["ema_mode"]  # only mode4 has a final decay, and these runs had it
        return replace(config, **changes)

    def for_laptop(self) -> "Recipe":
        """Return the recipe at laptop scale: minutes on a CPU, and no published ratios."""
        factor = 32 // self.laptop_resolution
        return replace(
            self,
            levels=tuple(
                replace(
                    level,
                    training={
                        name: LAPTOP_CHANGES[name](value) if name in LAPTOP_CHANGES else value
                        for name, value in level.training.items()
                    },
                    data=replace(level.data, resolution=level.data.resolution // factor),
                    published={},
                )
                for level in self.levels
            ),
            sizes=tuple(size // LAPTOP_SIZES for size in self.sizes),
            is_laptop=True,
        )


def find_recipe(name: str) -> Recipe:
    """Find a recipe by its name.

    Raises:
        ConfigError: there is no such recipe; the message lists them.
    """
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    raise ConfigError(
        f"There is no recipe {name!r}. The recipes are {', '.join(r.name for r in RECIPES)}."
    )


FULL_SIZE: Mapping[str, Any] = {
    "precond": "edm",
    "num_blocks": 4,
    "lr": 1e-3,
    "epochs": 12_000,
    "num_snapshots": 12,
}
"""Changes to the base training for all 50,000 images of CIFAR-10."""
BASE_PUBLISHED = {500: 99.0, 1000: 92.0, 2000: 61.0, 3000: 34.5, 4000: 17.0, 5000: 9.0}
"""Ratios of the base setup, in percent by |D|. It is a level of nearly every factor."""


def _vary(field_name: str, values: tuple[Any, ...]) -> tuple[FactorLevel, ...]:
    """Make one level per value of a training field; the base's own value has the base's ratios."""
    base = 128 if field_name == "model_channels" else getattr(BASE, field_name)
    return tuple(
        FactorLevel(
            f"{value:g}" if isinstance(value, float) else str(value),
            {field_name: value},
            published=BASE_PUBLISHED if value == base else {},
        )
        for value in values
    )


def _vary_skips() -> Iterator[FactorLevel]:
    """Keep all nine skips, and every choice of one, two or three of them at one resolution."""
    published: dict[tuple[int, ...], float] = {
        **{(i,): ratio for i, ratio in enumerate((92, 92.5, 91.5, 78, 81, 61, 12, 2.5, 0), 1)},
        (1, 2, 3): 87,
        (4, 5, 6): 53,
        (7, 8, 9): 6,
    }
    for arch, precond in (("ddpmpp", "vp"), ("ncsnpp", "ve")):
        network = {"arch": arch, "precond": precond}
        all_ratio = {1000: 92.0} if arch == "ddpmpp" else {}
        yield FactorLevel(f"{arch} all", network, published=all_ratio)
        for kept in (
            chosen
            for number in (1, 2, 3)
            for first in (1, 4, 7)
            for chosen in combinations(range(first, first + 3), number)
        ):
            ratio = published.get(kept)
            yield FactorLevel(
                f"{arch} {'+'.join(map(str, kept))}",
                {**network, "skip_connections": tuple(int(i in kept) for i in range(1, 10))},
                published={1000: ratio} if arch == "ddpmpp" and ratio is not None else {},
            )


def _vary_random_labels() -> Iterator[FactorLevel]:
    published: dict[int, dict[int, float]] = {
        1: {1000: 91, 2000: 61, 5000: 9},
        2: {1000: 93, 2000: 64.5},
        5: {1000: 95, 2000: 73},
        10: {1000: 96, 2000: 80, 5000: 23.5},
        20: {1000: 97.5, 2000: 85},
        50: {1000: 98, 2000: 90, 5000: 49.5},
        100: {1000: 99, 2000: 94, 5000: 62.5},
        500: {5000: 88},
        1000: {5000: 93},
    }
    for num_random, ratios in published.items():
        data = TrainingData(labels="random", num_random=num_random)
        yield FactorLevel(f"C={num_random}", data=data, published=ratios)


RECIPES = (
    Recipe(
        "epochs",
        "length of the training",
        (
            FactorLevel("4k", {"epochs": 4_000}),
            FactorLevel("40k", {"epochs": 40_000}, published=BASE_PUBLISHED),
        ),
        sizes=(500, 1000, 2000, 5000),
        note="The paper goes up to |D| = 50,000 at 4,000 epochs.",
    ),
    Recipe(
        "data-dimension",
        "resolution of the images; attention moves with it, so that the network stays the same",
        (
            FactorLevel(
                "32x32",
                data=TrainingData(published_first=True),
                published={500: 99, 1000: 92, 2000: 61, 4000: 17},
            ),
            FactorLevel(
                "16x16",
                data=TrainingData(resolution=16, published_first=True),
                published={1000: 100, 2000: 99.5, 4000: 95, 8000: 60, 16_000: 11},
            ),
            FactorLevel(
                "8x8",
                data=TrainingData(resolution=8, published_first=True),
                published={1000: 100, 2000: 100, 4000: 97, 8000: 89.5, 16_000: 64},
            ),
        ),
        sizes=(1000, 2000, 4000),
        note="EMM is about 1,000 at 32x32, 4,500 at 16x16 and 8,000 at 8x8.",
        laptop_resolution=16,
    ),
    Recipe(
        "classes",
        "number of classes at equal |D|",
        tuple(
            FactorLevel(
                str(number),
                data=TrainingData(num_classes=number),
                published=BASE_PUBLISHED if number == 10 else {},
            )
            for number in (1, 2, 5, 10)
        ),
        sizes=(1000, 2000, 5000),
    ),
    Recipe(
        "within-class-diversity",
        "share of ImageNet's dogs, a second source, among CIFAR-10's",
        tuple(
            FactorLevel(f"{share:g}", data=TrainingData(label=DOGS, second_share=share))
            for share in (0.0, 0.2, 0.5, 0.8, 1.0)
        ),
        sizes=(1000, 2000),
    ),
    Recipe("width", "channels", _vary("model_channels", (128, 192, 256, 320)), (1000, 2000)),
    Recipe(
        "depth",
        "residual blocks per resolution",
        _vary("num_blocks", (2, 4, 6, 8, 10, 12)),
        (1000, 2000),
    ),
    Recipe(
        "time-embedding",
        "embedding of the noise level, with 2 and 4 blocks",
        tuple(
            FactorLevel(
                f"{embedding} {blocks}",
                {"embedding": embedding, "num_blocks": blocks},
                published=BASE_PUBLISHED if (embedding, blocks) == ("positional", 2) else {},
            )
            for embedding in ("positional", "fourier")
            for blocks in (2, 4)
        ),
        sizes=(1000, 2000),
    ),
    Recipe(
        "skip-connections",
        "skips that are kept, numbered from the finest; others feed zeros",
        tuple(_vary_skips()),
        sizes=(1000,),
        laptop_training={"channel_mult": (1, 2, 2), "num_blocks": 2},
    ),
    Recipe(
        "batch-size",
        "images per step, with the learning rate in proportion",
        tuple(
            FactorLevel(
                str(size),
                {"batch_size": size, "lr": 2e-4 * size / 512},
                published=BASE_PUBLISHED if size == 512 else {},
            )
            for size in (128, 256, 384, 512, 640, 768, 896)
        ),
        sizes=(1000, 2000),
    ),
    Recipe(
        "weight-decay",
        "Adam's L2 penalty",
        _vary("weight_decay", (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 2e-2, 5e-2, 8e-2, 1e-1)),
        (1000, 2000),
    ),
    Recipe(
        "ema",
        "final decay of the weight average",
        _vary("ema_decay", (0.99929, 0.999, 0.99, 0.9, 0.8, 0.5, 0.2, 0.1, 0.0)),
        (1000, 2000),
    ),
    Recipe(
        "conditioning",
        "labels that the network is given",
        (
            FactorLevel("none", published=BASE_PUBLISHED),
            FactorLevel(
                "true",
                data=TrainingData(labels="true"),
                published={1000: 96.5, 2000: 79.5, 3000: 55.5, 4000: 37.5, 5000: 23},
            ),
            FactorLevel(
                "random",
                data=TrainingData(labels="random", num_random=10),
                published={1000: 96, 2000: 80, 3000: 57, 4000: 39, 5000: 23.5},
            ),
            FactorLevel("unique", data=TrainingData(labels="unique")),
        ),
        sizes=(1000, 2000, 3000, 4000, 5000),
    ),
    Recipe(
        "random-labels",
        "number C of random labels",
        tuple(_vary_random_labels()),
        (1000, 2000, 5000),
    ),
    Recipe(
        "unique-labels",
        "every image its own class, at full size",
        (
            FactorLevel("none", FULL_SIZE, published={50_000: 0}),
            FactorLevel("unique", FULL_SIZE, TrainingData(labels="unique"), published={50_000: 65}),
        ),
        sizes=(50_000,),
        note="With unique labels 0 % until about 1,300 epochs, then 5 at 2,000, 29 at 4,000, 45 at "
        "6,000, 54 at 8,000, 61 at 10,000 and 65 at 12,000; without labels 0 % throughout.",
    ),
    Recipe(
        "optimizer",
        "Adam, or SGD with momentum 0.9 (not published, and its learning rate is a guess)",
        (
            FactorLevel("adam", published=BASE_PUBLISHED),
            FactorLevel("sgd", {"optimizer": "sgd"}),
        ),
        sizes=(1000, 2000),
    ),
)
