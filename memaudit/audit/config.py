"""The options of a scan."""

from dataclasses import dataclass
from fractions import Fraction

from memaudit.audit.memorization.rule import Rule
from memaudit.errors import ConfigError
from memaudit.models.sampler_config import SamplerConfig


@dataclass(frozen=True)
class ScanConfig:
    """How images are generated and judged. The defaults are the published ones."""

    seeds: tuple[int, ...] = tuple(range(10_000))
    """One seed a generated image; not used where the images are given."""
    sampler: SamplerConfig = SamplerConfig()
    """EDM's Algorithm 2 with 18 steps."""
    class_index: int | None = None
    """One class for all images, or None: drawn from each image's seed."""
    threshold: Fraction = Fraction(1, 3)
    """Memorized iff the distance to the first neighbor is less than this share of the second's."""
    duplicate_rms: float = 8.0
    """Training images within so many RMS gray levels are duplicates of each other."""
    confidence: float = 0.95
    """Of all intervals, and of the gate."""
    fail_above: float | None = None
    """The gate: the largest distinct ratio that passes. Sampling stops when the verdict is certain.
    """
    return_test: bool = False
    """Whether to see which training images sampling returns to from their noised versions."""
    membership: bool = False
    """Whether to try to tell training from held-out images by the loss."""
    min_samples: int = 64
    """Images that a gate looks at first: so that a verdict has pairs to show, however early it is
    certain."""
    optimum_images: int = 256
    """Training images to compare model and optimum on, at most one a seed; 0 for no comparison."""
    optimum_trajectories: int = 64
    """Images to sample from both, from the same noise; at most one a seed."""
    batch_size: int = 64
    """Images sampled at a time; the result does not depend on it."""
    device: str = "cpu"
    """`cpu` or `cuda`."""

    @property
    def rule(self) -> Rule:
        """What counts as a copy."""
        return Rule(self.threshold, self.duplicate_rms, self.confidence)

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ConfigError("0 samples were asked for; at least 1 is needed (--samples 10000).")
        if len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(
                "The seeds repeat themselves, which would count an image twice; give each once."
            )
        if not 0 < self.threshold < 1:
            raise ConfigError(
                f"The threshold is {self.threshold}; a share between 0 and 1 is needed, "
                "such as 1/3."
            )
        if not 0 <= self.duplicate_rms <= 255:
            raise ConfigError(
                f"duplicate_rms is {self.duplicate_rms}; gray levels from 0 to 255 are needed."
            )
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence is {self.confidence}; between 0 and 1 is needed.")
        if self.fail_above is not None and not 0 < self.fail_above < 1:
            raise ConfigError(
                f"fail_above is {self.fail_above}; a share between 0 and 1 is needed, such as "
                "0.001 for one image in a thousand."
            )
        if self.fail_above is not None and self.confidence < 0.5:
            raise ConfigError(f"confidence is {self.confidence}; a gate needs at least 0.5.")
        if self.min_samples < 1:
            raise ConfigError(f"min_samples is {self.min_samples}; at least 1 is needed.")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; at least 1 is needed.")
        if self.optimum_images != 0 and min(self.optimum_images, self.optimum_trajectories) < 2:
            raise ConfigError(
                f"The optimum is to be compared on {self.optimum_images} images and "
                f"{self.optimum_trajectories} trajectories; an interval needs at least 2 of each."
            )
