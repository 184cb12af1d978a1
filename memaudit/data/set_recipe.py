"""How to make a training set from one or two sources; imports neither numpy nor torch."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from memaudit.data.selection import Selection
from memaudit.errors import ConfigError
from memaudit.options import Option, check_options

LabelScheme = Literal["true", "random", "unique", "none"]
"""The paper's label schemes: the source's labels, random ones, one class per image, or none."""
DrawRule = Literal["published", "described"]
"""As the paper's runs drew their sets, or as its text describes them; the two differ."""


@dataclass(frozen=True)
class SetRecipe:
    """How a training set is made: images are selected, mixed, repeated and labeled, in order."""

    selection: Selection = Selection()
    """What to take of the first source. Of a mixture, `size` is the number from both together."""
    mix: Annotated[
        Path | None,
        Option(
            "Second source, from which a share of the images is taken; the other options choose "
            "what the rest is taken from.",
            metavar="PATH",
        ),
    ] = None
    share: Annotated[
        float | None,
        Option(
            "Share of the images that come from the second source, between 0 and 1.",
            at_least=0,
            at_most=1,
            metavar="A",
        ),
    ] = None
    repeat: Annotated[int, Option("Take each image K times.", at_least=1, metavar="K")] = 1
    labels: Annotated[
        LabelScheme | None,
        Option(
            "Labels to write: those of the source, random ones, a class of its own for each image, "
            "or none.",
            default_text="those of the source, if any",
        ),
    ] = None
    num_classes: Annotated[
        int | None, Option("Number of classes of random labels.", at_least=1, metavar="C")
    ] = None
    label_seed: Annotated[int, Option("Seed of random labels.", metavar="SEED")] = 1024
    rule: Annotated[
        DrawRule,
        Option(
            "How mixtures and random labels are drawn: as in the paper's runs (the first images of "
            "each source, and Python's random numbers) or as its text describes them (a random "
            "choice, and numpy's).",
            flag="--recipe",
        ),
    ] = "published"

    def __post_init__(self) -> None:
        check_options(self)
        if (self.mix is None) != (self.share is None):
            raise ConfigError(
                "{mix} and {share} go together; give both or neither.", field=("mix", "share")
            )
        if self.mix is not None and self.selection.balanced:
            raise ConfigError(
                "A mixture is drawn regardless of classes; leave {balanced} out.", field="balanced"
            )
        if self.mix is not None and self.selection.size is None:
            raise ConfigError(
                "{mix} needs {size}, the number of images of both sources together.",
                field=("mix", "size"),
            )
        if self.mix is not None and (self.rule, self.selection.subset) == ("published", "random"):
            raise ConfigError(
                "Published mixtures have the first images of each source; for random ones choose "
                "described as {rule}, or leave {subset} out.",
                field=("rule", "subset"),
            )
        if (self.labels == "random") != (self.num_classes is not None):
            raise ConfigError(
                "Random {labels} and {num_classes} go together; give both or neither.",
                field=("labels", "num_classes"),
            )

    @property
    def choices(self) -> dict[str, Any]:
        """Every choice by its name, as values that JSON has; the sources are not among them."""
        own = {name: value for name, value in asdict(self).items() if name not in _NOT_CHOICES}
        return asdict(self.selection) | own


_NOT_CHOICES = ("selection", "mix")
