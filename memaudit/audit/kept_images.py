"""Images that an earlier run of a scan had generated: counted, and under a gate tested.

A report folder can be carried about: in a repository, in a CI's cache. Its kept images would be
judged as the model's own, whoever made them. So a random part of them is generated again.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np

from memaudit.audit.regeneration import (
    Recipe,
    caught_share,
    differ,
    draw_rows,
    regenerate,
)
from memaudit.errors import ConfigError
from memaudit.models.checkpoints import Checkpoint
from memaudit.models.generate import GeneratedBatch
from memaudit.progress import Progress
from memaudit.wording import counted, percent, some

LEAST_CHECKED = 64
"""Kept images that are generated again at least, if there are as many."""
CHECKED_SHARE = 0.02
"""Share of the kept images that is generated again where that is more."""


def check_kept(
    checkpoint: Checkpoint, kept: Sequence[GeneratedBatch], recipe: Recipe, *, progress: Progress
) -> int:
    """Generate a random part of the kept images again, and refuse all where one is another image.

    Args:
        checkpoint: the model.
        kept: batches in the order of their seeds.
        recipe: what the images of this scan are made with.
        progress: told how many of them are generated again.

    Returns:
        Number of images that were generated again.

    Raises:
        ConfigError: an image that this model does not make from its seed.
    """
    seeds = np.concatenate([batch.seeds for batch in kept])
    rows = draw_rows(len(seeds), max(LEAST_CHECKED, ceil(CHECKED_SHARE * len(seeds))))

    def named(task: str, done: int, total: int | None, note: str = "") -> None:
        progress("Testing kept images", done, total, note)

    is_fast = np.concatenate([batch.fast_rows for batch in kept])[rows]
    again = regenerate(checkpoint, seeds[rows].tolist(), recipe, is_fast=is_fast, progress=named)
    images = np.concatenate([batch.images for batch in kept])[rows]
    wrong = differ(images, again.images)
    if again.class_index is not None:
        classes = np.concatenate(
            [batch.class_index for batch in kept if batch.class_index is not None]
        )
        wrong = wrong | (classes[rows] != again.class_index)
    if wrong.any():
        found = [str(seed) for seed in seeds[rows][wrong]]
        raise ConfigError(
            f"{counted(len(found), 'image', 'images')} of {len(rows):,} that an earlier run had "
            f"kept, chosen at random and generated again, came out otherwise (seed {some(found)}): "
            "what was kept was not made by this model as it is sampled here. Discard it with "
            "{fresh}.",
            field="fresh",
        )
    return len(rows)


def kept_text(num_kept: int, num_regenerated: int) -> str:
    """What is said of kept images wherever the verdict is, or an empty text.

    Args:
        num_kept: images judged that an earlier run had kept.
        num_regenerated: how many of them were generated again and came out the same.
    """
    if not num_kept:
        return ""
    were = counted(num_kept, "image was", "images were")
    text = f"{were} kept from an earlier run"
    if not num_regenerated:
        return f"{text} and taken as they are."
    if num_regenerated >= num_kept:
        return f"{text}; all of them were generated again and came out the same."
    least = percent(caught_share(num_regenerated))
    return (
        f"{text}; {num_regenerated:,} of them, chosen at random, were generated again and came out "
        f"the same. If {least} % or more had been other images, that would have been noticed with "
        "a chance of at least 95 %."
    )
