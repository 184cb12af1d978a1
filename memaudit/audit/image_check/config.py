"""How images are checked; nothing heavy is imported here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from memaudit.audit.config import ScanConfig
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.errors import ConfigError
from memaudit.models.execution import Execution
from memaudit.models.sampler_config import SamplerConfig
from memaudit.options import Option, check_options

REPORT = "check.json"
"""The file that holds what a check found."""
USUAL_CONTROLS, MOST_CONTROLS = 199, 10_000


def least_controls(num_images: int, confidence: float) -> int:
    """How many controls it takes that the smallest p-value, corrected for the number of images, is
    at most 1 − confidence.

    Examples:
        >>> least_controls(1, 0.95), least_controls(10, 0.95)
        (19, 199)
    """
    return math.ceil(num_images / (1 - confidence) - 1e-9) - 1


@dataclass(frozen=True)
class CheckConfig:
    """How much is sampled to find out whether a model gives an image back.

    Raises:
        ConfigError: a value outside its range, or two that contradict each other.
    """

    seeds: Sequence[int] = range(1000)
    """One seed per generated image. Ignored when the generated images are given."""
    sampler: SamplerConfig = SamplerConfig()
    class_index: Annotated[
        int | None,
        Option(
            "The class that the images belong to; only it is generated, and controls are of it.",
            at_least=0,
            flag="--class",
            metavar="CLASS",
            default_text="drawn from each seed",
        ),
    ] = None
    num_controls: Annotated[
        int | None,
        Option(
            "Held-out images, chosen at random, among which each image is ranked. With m of them, "
            "no p-value is below 1/(m + 1).",
            at_least=1,
            at_most=MOST_CONTROLS,
            flag="--controls",
            metavar="N",
            default_text="199, for more than 10 images as many as they need",
        ),
    ] = None
    sigmas: Annotated[
        tuple[float, ...],
        Option(
            "Noise levels to return from, for data in [-1, 1]; those above the model's are "
            "skipped.",
            above=0,
            below=math.inf,
            metavar="LIST",
        ),
    ] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    num_noises: Annotated[
        int,
        Option(
            "Noises from which to return to each image at each noise level.",
            at_least=1,
            flag="--noises",
            metavar="N",
        ),
    ] = 4
    rule: Rule = Rule()
    """When a generated image counts as a copy."""
    index: IndexConfig = IndexConfig()
    """How images are compared."""
    execution: Execution = Execution()
    """Where the model is evaluated, and how many images at a time."""

    def __post_init__(self) -> None:
        check_options(self)
        if not self.sigmas:
            raise ConfigError(
                "{sigmas} is empty; at least one noise level is needed.", field="sigmas"
            )
        seeds = ScanConfig(seeds=self.seeds).seeds  # the checks of seeds are a scan's
        object.__setattr__(self, "seeds", seeds)

    def controls_for(self, num_images: int) -> int:
        """How many controls to choose for a check of that many images."""
        if self.num_controls is not None:
            return self.num_controls
        needed = least_controls(num_images, self.rule.confidence)
        return min(max(USUAL_CONTROLS, needed), MOST_CONTROLS)
