"""How seeds are screened. Imports no torch."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from memaudit.options import Option, check_options
from memaudit.wording import percent


@dataclass(frozen=True)
class ScreeningConfig:
    """How seeds are screened."""

    screen_steps: Annotated[
        int,
        Option("Evaluations of the model per image while screening.", at_least=4, metavar="N"),
    ] = 8
    screen_below: Annotated[
        Fraction,
        Option(
            "Sample a seed in full if d1/d2 of its screened image is smaller than this.",
            above=0,
            below=1,
        ),
    ] = Fraction(1, 2)
    screen_share: Annotated[
        float,
        Option(
            "Share of all seeds, drawn at random, that is sampled in full whatever screening says.",
            above=0,
            at_most=1,
            is_share=True,
            metavar="SHARE",
        ),
    ] = 0.05

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def text(self) -> str:
        """What is done, in a few words."""
        return (
            f"screened in {self.screen_steps} steps of DPM-Solver++(2M), d1/d2 below "
            f"{self.screen_below}, {percent(self.screen_share)} % of the seeds drawn at random"
        )

    def num_drawn(self, num_seeds: int) -> int:
        """How many of `num_seeds` seeds chance draws, at least one."""
        return min(num_seeds, max(1, round(self.screen_share * num_seeds)))
