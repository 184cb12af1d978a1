"""The noise levels that sampling visits: is a model's range enough to sample it?"""

from dataclasses import dataclass

from memaudit.errors import ConfigError

START_SCALES = 10.0
"""Sampling must begin at this many times the images' root mean square: below, pure noise is not
what a noised image looks like, and the model is asked for images that it never learned to make."""
END_SIGMA = 0.1
"""Sampling must end at this noise level or below; 0.1 is 13 gray levels."""


@dataclass(frozen=True)
class NoiseRange:
    """The noise levels that were asked for, and those that sampling visits."""

    asked_min: float
    asked_max: float
    used_min: float
    """Lowest level that sampling visits: the model's range cuts the one asked for."""
    used_max: float
    """Level that sampling begins at."""
    needed_max: float
    """Level to begin at, at least: 10 times the root mean square of the training images."""

    @property
    def problem(self) -> str:
        """Why images sampled over this range say little about the model, or an empty text."""
        if self.used_max < self.needed_max:
            return (
                f"sampling begins at noise level {self.used_max:g}, too low to hide the images (at "
                f"least {self.needed_max:.2g} is needed), so that it never makes what the model "
                "makes of pure noise"
            )
        if self.used_min > END_SIGMA:
            return (
                f"sampling ends at noise level {self.used_min:g} (at most {END_SIGMA:g} is "
                "needed), so that its images are blurred or noisy"
            )
        return ""

    @property
    def is_cut(self) -> bool:
        """Whether the model's own range, not what was asked for, is the problem."""
        if self.used_max < self.needed_max:
            return self.asked_max >= self.needed_max
        return self.used_min > END_SIGMA >= self.asked_min


def check_noise_range(found: NoiseRange) -> None:
    """Refuse a gate on a model whose own noise range spoils what is sampled.

    Raises:
        ConfigError: it does; says how to sample all the same.
    """
    if found.is_cut:
        raise ConfigError(
            f"The checkpoint says that it supports noise levels {found.used_min:g} to "
            f"{found.used_max:g} of the {found.asked_min:g} to {found.asked_max:g} asked for: "
            f"{found.problem}. A gate would pass whatever was memorized. Correct the checkpoint's "
            "range if it is wrong; to see what it generates, scan without {fail_above}.",
            field="fail_above",
        )
