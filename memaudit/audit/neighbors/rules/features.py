"""Copies by the features of an encoder: the 1/3 rule between its vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from memaudit.audit.neighbors.rules.rule import (
    CopyRule,
    Criteria,
    Finds,
    Pool,
    RuleSearch,
    Searched,
)
from memaudit.data.images import ImageSet

if TYPE_CHECKING:
    from memaudit.audit.neighbors.base import ImageSearch
    from memaudit.audit.neighbors.config import IndexConfig
    from memaudit.audit.neighbors.feature_index import FeatureIndex
    from memaudit.progress import Progress

NAME = "features"
WHERE = "as a whole"


class FeaturesRule(RuleSearch):
    """The search among features, judged as whole images are."""

    name = NAME

    def __init__(self, index: FeatureIndex) -> None:
        """Judge by a search among features."""
        self.search = index
        self.num_bytes = index.num_bytes

    def judge(
        self,
        images: np.ndarray,
        apart: np.ndarray,
        criteria: Criteria,
        *,
        left_out: np.ndarray | None = None,
    ) -> Finds:
        radii = (criteria.duplicate_rms,)
        rows = np.arange(len(images))
        if left_out is None:
            found = self.search.distinct_nearest(images, duplicate_rms=radii)
        else:
            found = self.search.leave_one_out(left_out, duplicate_rms=radii)
            if found.judged is not None:
                rows = found.judged
        S1, distinct = found.squared_distance[:, 0], found.squared_distance_distinct[0]
        S2 = np.where(distinct < 0, found.squared_distance[:, 1], distinct)
        hits = np.flatnonzero(S1 < float(criteria.threshold**2) * S2)
        index = np.full(len(images), -1, dtype=np.int64)
        S, num_values = np.full(len(images), -1.0), np.zeros_like(index)
        index[rows[hits]], S[rows[hits]] = found.index[hits, 0], S1[hits]
        num_values[rows[hits]] = 1
        where = np.where(index >= 0, WHERE, "")
        return Finds(NAME, index, S, num_values, tuple(where.tolist()))

    def pools(self, images: np.ndarray) -> Iterator[Pool]:
        from memaudit.audit.neighbors.build import similar_index

        yield similar_index(self.search, images).nearest


def _open(index: ImageSearch, config: IndexConfig, progress: Progress) -> RuleSearch:
    from memaudit.audit.neighbors.build import build_feature_index

    images = ImageSet(index.images, [""] * len(index.images))
    search = build_feature_index(images, config, device=index.device, progress=progress)
    search.groups = index.groups
    return FeaturesRule(search)


def _can_be(where: str, num_values: int, searched: Searched) -> bool:
    return where == WHERE and num_values == 1


RULE = CopyRule(
    NAME,
    "the rule above, between the vectors of an encoder, which are not exact",
    _open,
    in_all=False,
    can_be=_can_be,
)
