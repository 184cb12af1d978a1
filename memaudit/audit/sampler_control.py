"""Does a sampler that was changed show what the published one shows?

Few steps, an odd spacing of noise levels or added noise give images that are no longer what the
model makes, and a model that copies everything passes. So where a gate judges images of a changed
sampler, the first seeds are sampled as published, too, and the copies of both are compared by pairs
(McNemar's exact test): with as many seeds, a model that copies one image in ten is told apart.
"""

from dataclasses import dataclass, replace
from math import comb

from memaudit.audit.memorization.matches import Matches, match_images
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.regeneration import Recipe, regenerate
from memaudit.errors import CheckpointError
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.sampler_config import SamplerConfig
from memaudit.progress import Progress

NUM_COMPARED = 64
"""Seeds that are sampled by both, if as many were judged."""


@dataclass(frozen=True)
class SamplerControl:
    """Copies among the images of the same seeds, by two samplers."""

    num_images: int
    """Seeds that both were given; 0 where the published sampler could not be run."""
    published: int
    """Copies by the published sampler: EDM's Algorithm 2 with 18 steps."""
    as_set: int
    """Copies by the sampler of the scan."""
    only_published: int
    """Seeds whose image is a copy by the published sampler alone."""
    only_as_set: int
    """Seeds whose image is a copy by the sampler of the scan alone."""

    @property
    def p(self) -> float:
        """Chance that so many of the seeds on which they differ, or more, speak for the published
        one if both give copies equally often (one-sided)."""
        if not self.is_possible:  # in a forged report, and perhaps too large to compute
            return 1.0
        n = self.only_published + self.only_as_set
        tail = sum(comb(n, k) for k in range(self.only_published, n + 1))
        return float(tail / 2**n)

    @property
    def is_possible(self) -> bool:
        """Whether the counts can be those of one comparison."""
        return (
            min(self.published, self.as_set, self.only_published, self.only_as_set) >= 0
            and self.published - self.only_published == self.as_set - self.only_as_set
            and 0 <= self.published - self.only_published
            and self.published + self.only_as_set <= self.num_images <= NUM_COMPARED
        )

    @property
    def text(self) -> str:
        """What was found, in one sentence."""
        if not self.num_images:
            return "The published sampler could not be run on this model, to compare the copies."
        return (
            f"By the published sampler, {self.published:,} of the first {self.num_images:,} seeds "
            f"give a copy; by the sampler as it was set, {self.as_set:,} do."
        )


def is_changed(sampler: SamplerConfig) -> bool:
    """Whether a sampler is another than the published one."""
    return sampler.resolved() != SamplerConfig().resolved()


def compare_samplers(
    checkpoint: Checkpoint,
    seeds: list[int],
    recipe: Recipe,
    matches: Matches,
    *,
    index: ImageSearch,
    progress: Progress,
) -> SamplerControl:
    """Sample the first seeds of a scan by the published sampler, and compare the copies.

    Args:
        checkpoint: the model.
        seeds: of the images that were judged, in their order.
        recipe: what they were made with.
        matches: what was found about them.
        index: searches the training images.
        progress: told how many images are done.
    """

    def named(task: str, done: int, total: int | None, note: str = "") -> None:
        progress("Published sampler", done, total, note)

    compared = seeds[:NUM_COMPARED]
    try:
        again = regenerate(
            checkpoint, compared, replace(recipe, sampler=SamplerConfig()), progress=named
        )
    except CheckpointError:  # pixels that are not finite
        return SamplerControl(0, 0, 0, 0, 0)
    published = match_images(index, again.images, matches.rule).is_copy
    as_set = matches.is_copy[: len(compared)]
    return SamplerControl(
        num_images=len(compared),
        published=int(published.sum()),
        as_set=int(as_set.sum()),
        only_published=int((published & ~as_set).sum()),
        only_as_set=int((as_set & ~published).sum()),
    )
