"""Options of a search for EMM. Imports no torch: the command line reads them here."""

import math
from dataclasses import dataclass
from typing import Annotated

from memaudit.errors import ConfigError
from memaudit.options import Option, check_options


@dataclass(frozen=True)
class SizeRange:
    """The training set sizes |D| to choose among.

    Raises:
        ConfigError: no size is in the range, or a value is out of range.
    """

    min_size: Annotated[int, Option("Smallest training set to try.", at_least=2, metavar="N")] = 100
    max_size: Annotated[int, Option("Largest training set to try.", metavar="N")] = 10_000
    multiple_of: int = 1
    """Only multiples of this are chosen: the number of classes, if each has an equal share."""
    tolerance: Annotated[
        float,
        Option(
            "Stop when the sizes on both sides of EMM are at most this factor apart.",
            above=1,
            below=math.inf,
            metavar="FACTOR",
        ),
    ] = 1.2

    def __post_init__(self) -> None:
        check_options(self)
        if self.min_size >= self.max_size:
            raise ConfigError(
                f"{{min_size}} is {self.min_size:,} and {{max_size}} is {self.max_size:,}; the "
                "first must be less than the second.",
                field=("min_size", "max_size"),
            )
        if self.multiple_of < 1:
            raise ConfigError(f"multiple_of is {self.multiple_of}; at least 1 is needed.")
        if self.min_size % self.multiple_of or self.max_size % self.multiple_of:
            raise ConfigError(
                f"{{min_size}} is {self.min_size:,} and {{max_size}} is {self.max_size:,}; equal "
                f"shares of {self.multiple_of} classes need multiples of {self.multiple_of}.",
                field=("min_size", "max_size"),
            )


@dataclass(frozen=True)
class EMMConfig:
    """What EMM is, how training sets are drawn, and how many networks are trained at each size.

    Raises:
        ConfigError: a value is out of range.
    """

    balanced: Annotated[bool, Option("Draw equally many images of every class.")] = False
    subset_seed: Annotated[
        int,
        Option(
            "Seed of the random choice of images, and of further trainings the ones after it; a "
            "smaller set is part of every larger one of the same seed.",
            metavar="SEED",
        ),
    ] = 0
    replicates: Annotated[
        int,
        Option(
            "Trainings at each size, each with another choice of images and another seed; an "
            "interval of EMM needs at least 2, and is far narrower with 3.",
            at_least=1,
            metavar="R",
        ),
    ] = 3
    epsilon: Annotated[
        float,
        Option(
            "EMM is where the ratio falls below 1-EPS.",
            above=0,
            below=1,
            metavar="EPS",
            is_share=True,
        ),
    ] = 0.1

    def __post_init__(self) -> None:
        check_options(self)
