"""The list of `memaudit dataset risk` as a table and as JSON."""

import math
from collections.abc import Iterator
from typing import Any

from memaudit.audit.neighbors.exposure import Exposure
from memaudit.data.images import ImageSet
from memaudit.escapes import csv_text

COLUMNS = (
    *("rank", "index", "name", "times_shown", "num_duplicates", "num_equal"),
    *("isolation_rms", "nearest", "group", "group_size"),
)


def exposure_rows(found: Exposure, images: ImageSet) -> Iterator[dict[str, Any]]:
    """One row per image without its duplicates, the most exposed first.

    `rank` counts from 1, `index` is the position of the first of the duplicates, `isolation_rms`
    the distance to the `nearest` image that is not a duplicate, in RMS gray levels; both are null
    if all images are duplicates.

    Args:
        found: the result of `rank_exposure(images)`.
        images: the images that were ordered.
    """
    for row, position in enumerate(found.index.tolist()):
        has_other = math.isfinite(found.isolation[row])
        yield {
            "rank": row + 1,
            "index": position,
            "name": images.names[position],
            "times_shown": int(found.times_shown[row]),
            "num_duplicates": int(found.num_duplicates[row]),
            "num_equal": int(found.num_equal[row]),
            "isolation_rms": float(found.isolation[row]) if has_other else None,
            "nearest": int(found.nearest[row]) if has_other else None,
            "group": None if images.groups is None else images.groups[position],
            "group_size": None if found.group_size is None else int(found.group_size[row]),
        }


def exposure_csv(found: Exposure, images: ImageSet) -> str:
    """The same rows as CSV; empty where JSON has null."""
    return csv_text(
        COLUMNS,
        (
            ["" if row[name] is None else row[name] for name in COLUMNS]
            for row in exposure_rows(found, images)
        ),
    )
