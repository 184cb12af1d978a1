"""Which trainings of a recipe to do. Imports no torch: the command line reads its options here."""

import math
from dataclasses import dataclass
from typing import Annotated

from memaudit.data.set_recipe import DrawRule
from memaudit.options import Option, check_options
from memaudit.training.config import Precision


@dataclass(frozen=True)
class PointSelection:
    """Which of a recipe's trainings to do, for how long, how often, and by which rule.

    Raises:
        ConfigError: a value is out of range.
    """

    values: Annotated[
        tuple[str, ...],
        Option(
            "Only this value of the factor; separate several with commas, or give the option "
            "again.",
            flag="--value",
            metavar="VALUE",
            default_text="all",
        ),
    ] = ()
    sizes: Annotated[
        tuple[int, ...],
        Option(
            "Number of training images; separate several with commas, or give the option again.",
            at_least=2,
            flag="--size",
            metavar="N",
            default_text="the recipe's",
        ),
    ] = ()
    resolution: Annotated[
        int | None,
        Option("Only trainings on images of RxR.", at_least=1, metavar="R", default_text="all"),
    ] = None
    epochs: Annotated[
        float | None,
        Option(
            "Length of each training.",
            above=0,
            below=math.inf,
            metavar="N",
            default_text="the recipe's",
        ),
    ] = None

    replicates: Annotated[
        int,
        Option(
            "Trainings of each point, further ones with other images and another seed; the paper "
            "has 1, and 3 or more show how much trainings differ.",
            at_least=1,
            metavar="R",
        ),
    ] = 1
    precision: Annotated[
        Precision,
        Option(
            "Format of the networks' products in training. The paper's is fp32; a GPU trains "
            "several times as fast in bf16."
        ),
    ] = "fp32"
    tf32: Annotated[
        bool, Option("Let a GPU round the factors of fp32 products in training to 10 bits.")
    ] = False
    rule: Annotated[
        DrawRule,
        Option(
            "The recipe as the paper's runs had it, or as its text describes it.", flag="--recipe"
        ),
    ] = "published"

    def __post_init__(self) -> None:
        check_options(self)
