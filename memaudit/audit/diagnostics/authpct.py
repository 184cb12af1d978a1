"""AuthPct: are generated images farther from the training images than those are from each other?

Alaa et al., arXiv:2102.08921. docs/statistics.md says how to read it.
"""

from collections.abc import Iterator

import numpy as np

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import Block, measures, share_row
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson


def auth_pct(
    nn1: np.ndarray,
    squared_distance1: np.ndarray,
    *,
    index: ImageSearch,
    duplicate_rms: float = 8.0,
    confidence: float = 0.95,
) -> Proportion:
    """Count the authentic images.

    x is authentic iff S(x, NN1) > S(NN1, y), where y is the training image nearest to NN1 that is
    not a duplicate of it. (Alaa et al. do not leave duplicates out.) If every training image is a
    duplicate of NN1, y is the nearest of them.

    Args:
        nn1: int64 [M], nearest training image of each generated image.
        squared_distance1: [M], squared distance to it.
        index: an index of the training images, at least 2.
        duplicate_rms: training images within this many RMS gray levels are duplicates.
        confidence: confidence of the interval.

    Returns:
        The authentic images; AuthPct is their share in percent.
    """
    hit, position = np.unique(nn1, return_inverse=True)
    # A training image's nearest is itself, or an exact copy of it with a lower index.
    near = index.distinct_nearest(index.images[hit], duplicate_rms=[duplicate_rms])
    apart = near.squared_distance_distinct[0]
    apart = np.where(apart < 0, near.squared_distance[:, 1], apart)
    authentic = squared_distance1 > apart[position]
    return clopper_pearson(int(authentic.sum()), len(authentic), confidence)


def _run(context: Context) -> Proportion:
    rule = context.setting.config.rule
    return auth_pct(
        context.matches.nn1,
        context.matches.squared_distance1,
        index=context.given_images.index,
        duplicate_rms=rule.duplicate_rms,
        confidence=rule.confidence,
    )


def _section(result: Proportion, page: PageContext) -> Iterator[Block]:
    yield measures(
        result.confidence,
        share_row(
            "AuthPct",
            result,
            note="generated images that are farther from their nearest training image than that "
            "image is from the nearest other one; low if the model copies",
        ),
    )


DIAGNOSTIC = Diagnostic(
    title="Controls",
    requires=frozenset({"training"}),
    run=_run,
    section=_section,
)
