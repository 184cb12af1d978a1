"""The control of a scan: held-out images, judged as the generated ones are."""

from dataclasses import dataclass

import numpy as np

from memaudit.audit.diagnostics.authpct import CopyingStatistic, copying_statistic
from memaudit.audit.memorization.matches import Matches, match_images
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.duplicates import find_shared_images
from memaudit.audit.statistics.excess import Excess, excess_over_holdout
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.errors import DataError
from memaudit.progress import Progress, silent

LISTED = 5
"""Held-out images named in a message."""


@dataclass(frozen=True)
class HoldoutControl:
    """What the rule finds among images that are no copies."""

    path: str
    fingerprint: str
    num_images: int
    ratios: dict[str, Proportion]
    """The floor of "paper" and "distinct": held-out images that the rule flags."""
    excess: Excess | None
    """The distinct ratio of the generated images beyond that floor; None where all are flagged."""
    copying: CopyingStatistic
    """C_T of the generated images."""


def check_disjoint(data: ImageSet, holdout: ImageSet) -> None:
    """Refuse held-out images that occur in the training set: the model knows them.

    Raises:
        DataError: with the first of them by name.
    """
    overlap = find_shared_images(data, holdout)
    if not overlap:
        return
    pairs = ", ".join(
        f"{holdout.names[found.holdout]} = {data.names[found.train]}" for found in overlap[:LISTED]
    )
    more = f" and {len(overlap) - LISTED} more" if len(overlap) > LISTED else ""
    raise DataError(
        f"{len(overlap)} of the {len(holdout)} held-out images in {holdout.source} occur in the "
        f"training set, pixel by pixel: {pairs}{more}. A control must be new to the model: leave "
        "them out."
    )


def judge_holdout(
    holdout: ImageSet,
    *,
    data: ImageSet,
    generated: np.ndarray,
    matches: Matches,
    ratio: Proportion,
    index: ImageSearch,
    progress: Progress = silent,
) -> HoldoutControl:
    """Judge held-out images by the rule that judged the generated ones.

    Args:
        holdout: none of the training images.
        data: the training images, which `index` searches.
        generated: uint8 [M, C, H, W], with their `matches` and distinct `ratio`.
        index: of the training images.
        progress: told how far the search is.
    """
    judged = match_images(index, holdout.images, matches.rule, progress=progress)
    floor = {
        rule: clopper_pearson(int(hits.sum()), len(hits), ratio.confidence)
        for rule, hits in (
            ("paper", judged.memorized_paper),
            ("distinct", judged.memorized_distinct),
        )
    }
    return HoldoutControl(
        path=holdout.source,
        fingerprint=holdout.fingerprint,
        num_images=len(holdout),
        ratios=floor,
        excess=excess_over_holdout(ratio, floor["distinct"]),
        copying=copying_statistic(
            data,
            holdout,
            generated,
            distance_holdout=judged.squared_distance1,
            distance_generated=matches.squared_distance1,
        ),
    )
