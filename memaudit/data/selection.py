"""Which training images to take; imports neither numpy nor torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from memaudit.data.layout import Layout
from memaudit.errors import ConfigError
from memaudit.options import Option, check_options

Subset = Literal["first", "random"]


@dataclass(frozen=True)
class Selection(Layout):
    """Which images of a source to take, and what `Layout` says.

    `Selection(size=N, balanced=True)` gives the training sets that the paper describes; those of
    its runs on the dimension of the data were the first N instead. `Selection(size=N,
    subset="random", subset_seed=S)` takes the images that EDM's `max_size=N` and `random_seed=S`
    take.
    """

    size: Annotated[
        int | None,
        Option("Take N of the training images.", at_least=1, metavar="N", default_text="all"),
    ] = None
    subset: Annotated[
        Subset,
        Option("Which of the images to take: the first by name, or a random choice."),
    ] = "first"
    subset_seed: Annotated[
        int,
        Option("Seed of the random choice, which is the same on every machine.", metavar="SEED"),
    ] = 0
    balanced: Annotated[bool, Option("Take equally many images of every class; needs a size.")] = (
        False
    )
    label: Annotated[
        tuple[int | str, ...],
        Option(
            "Take only images of this class, by name or index; separate several with commas, or "
            "give the option again.",
            metavar="CLASS",
        ),
    ] = ()
    """Names come first: text that is not the name of a class may be an index. Empty takes all; a
    single class need not be in a tuple."""

    def __post_init__(self) -> None:
        label = (self.label,) if isinstance(self.label, int | str) else tuple(self.label)
        object.__setattr__(self, "label", label)
        check_options(self)
        if self.balanced and self.size is None:
            raise ConfigError(
                "{balanced} divides a number of images equally among the classes; give {size} too.",
                field=("balanced", "size"),
            )
