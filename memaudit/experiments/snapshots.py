"""Ratios of a training's snapshots, and which of them is reported as the highest."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memaudit.audit.report.folder import MATCHES
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson
from memaudit.errors import DataError

HIGHEST = (
    "The snapshot that copies most is chosen by one half of its generated images and has the ratio "
    "of the other half, because the highest of many measured ratios is too high."
)


@dataclass(frozen=True)
class SnapshotRatio:
    """What the scan of a snapshot found, by the published rule."""

    images_seen: int
    """Images seen in training until the snapshot."""
    ratio: Proportion
    """Memorization ratio of all generated images."""
    halves: tuple[Proportion, Proportion]
    """The same of the first and of the second half of them."""


def make_snapshot(images_seen: int, memorized: np.ndarray) -> SnapshotRatio:
    """Count the copies among the images of a snapshot.

    Args:
        images_seen: images seen in training until the snapshot.
        memorized: bool [M], M ≥ 2: which generated images are copies, in the order of their seeds.
    """
    middle = (len(memorized) + 1) // 2
    whole, first, second = (
        clopper_pearson(int(part.sum()), len(part))
        for part in (memorized, memorized[:middle], memorized[middle:])
    )
    return SnapshotRatio(images_seen, whole, (first, second))


def highest_ratio(snapshots: Sequence[SnapshotRatio]) -> Proportion:
    """The ratio of the snapshot that copies most.

    The highest of several measured ratios is too high on average, since it is partly luck. So the
    snapshot is chosen by the first half of the generated images (the latest, if several are equal),
    and its ratio is that of the second half. A single snapshot needs no choice, and has the ratio
    of all images.

    Args:
        snapshots: at least one, in the order of training.
    """
    if len(snapshots) == 1:
        return snapshots[0].ratio
    chosen = max(reversed(snapshots), key=lambda snapshot: snapshot.halves[0].ratio)
    return chosen.halves[1]


def read_snapshot(folder: Path, images_seen: int) -> SnapshotRatio:
    """Read a snapshot's ratio from the folder of its report.

    Raises:
        DataError: the folder lacks matches.csv, or it has another form.
    """
    path = folder / MATCHES
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [int(row["memorized_paper"]) for row in csv.DictReader(file)]
        return make_snapshot(images_seen, np.array(rows, bool))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({error!r}), and says which images are copies. At least 2 are "
            "needed; scan the model again."
        ) from error
