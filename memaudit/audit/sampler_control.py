"""Does a sampler that was changed show what the published one shows?

Few steps, an odd spacing of noise levels or added noise give images that are no longer what the
model makes, and a model that copies everything passes. So where a gate judges images of a changed
sampler, the first seeds are sampled as published, too, and the copies of both are compared by pairs
(McNemar's exact test): with as many seeds, a model that copies one image in ten is told apart.
However few images decide a lenient gate, and however high its confidence, the comparison has as
many pairs and this level: it speaks against a PASS, so that strictness would weaken it.
"""

from dataclasses import dataclass, replace
from math import comb

import numpy as np

from memaudit.audit.memorization.matches import Matches, match_images
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.regeneration import Recipe, regenerate
from memaudit.errors import CheckpointError
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.sampler_config import SamplerConfig
from memaudit.progress import Progress

NUM_COMPARED = 64
"""Seeds that are sampled by both."""
LEAST_LEVEL = 0.05
"""Level of the comparison, at least; higher where the gate's confidence is below 95 %."""


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

    def forbids_pass(self, confidence: float) -> bool:
        """Whether the published sampler shows more copies by more than chance, or could not be run.

        Args:
            confidence: of the gate.
        """
        return not self.num_images or self.p <= max(1 - confidence, LEAST_LEVEL)

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

    These are the first seed and those that follow it, whether or not as many were judged.

    Args:
        checkpoint: the model.
        seeds: of the images that were judged, in their order, at least one.
        recipe: what they were made with.
        matches: what was found about them.
        index: searches the training images.
        progress: told how many images are done.
    """

    def named(task: str, done: int, total: int | None, note: str = "") -> None:
        progress("Published sampler", done, total, note)

    compared = list(range(seeds[0], seeds[0] + NUM_COMPARED))
    judged = 0  # of the seeds compared, from the first one on
    while judged < min(len(seeds), NUM_COMPARED) and seeds[judged] == compared[judged]:
        judged += 1
    as_published = replace(recipe, sampler=SamplerConfig())
    as_set = matches.is_copy[:judged]
    try:
        again = regenerate(checkpoint, compared, as_published, progress=named)
        if judged < NUM_COMPARED:
            rest = regenerate(checkpoint, compared[judged:], recipe, progress=named)
            more = match_images(index, rest.images, matches.rule).is_copy
            as_set = np.concatenate([as_set, more])
    except CheckpointError:  # pixels that are not finite
        return SamplerControl(0, 0, 0, 0, 0)
    published = match_images(index, again.images, matches.rule).is_copy
    return SamplerControl(
        num_images=NUM_COMPARED,
        published=int(published.sum()),
        as_set=int(as_set.sum()),
        only_published=int((published & ~as_set).sum()),
        only_as_set=int((as_set & ~published).sum()),
    )
