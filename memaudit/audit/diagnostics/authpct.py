"""Two published measures of copying that stand beside the ratio: AuthPct and C_T.

Both ask whether generated images lie closer to the training images than they should: AuthPct by how
close the training images lie to each other, C_T by how close held-out images lie to them.
"""

import math
from dataclasses import dataclass

import numpy as np

from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.statistics.intervals import Proportion, clopper_pearson
from memaudit.audit.statistics.ranks import average_ranks
from memaudit.data.images import ImageSet
from memaudit.errors import DataError

CLUSTERED = 5000
"""Training images that the cells are made from, at most."""
ROWS = 1024
"""Images turned into numbers at a time."""


@dataclass(frozen=True)
class Cell:
    """A part of the image space, with the held-out and the generated images in it."""

    num_holdout: int
    num_generated: int
    z: float
    """Mann–Whitney's U in units of its standard deviation; below 0 where the generated images lie
    closer to the training images than the held-out ones."""


@dataclass(frozen=True)
class CopyingStatistic:
    """C_T, and what it is an average of."""

    value: float
    """C_T: far below 0 means copying, far above 0 underfitting."""
    spread: float
    """Its standard deviation where generated images are distributed as held-out ones, with mean 0:
    √Σw² over the cells' weights w."""
    cells: tuple[Cell, ...]


def auth_pct(
    nn1: np.ndarray,
    squared_distance1: np.ndarray,
    *,
    index: ImageSearch,
    duplicate_rms: float = 8.0,
    confidence: float = 0.95,
) -> Proportion:
    """The authentic images: those farther from their nearest training image than that is from the
    nearest other.

    x is authentic iff S(x, NN1) > S(NN1, y), y the training image nearest to NN1 that is no
    duplicate of it (AuthPct of Alaa et al., arXiv:2102.08921, which does not leave duplicates out).
    Where every training image is a duplicate of NN1, y is the nearest other one all the same.

    Args:
        nn1: int64 [M], nearest training image of each generated image.
        squared_distance1: [M], its squared distance.
        index: of the training images, at least 2.
        duplicate_rms: training images within so many RMS gray levels are duplicates.
        confidence: of the interval.

    Returns:
        The number of authentic images. AuthPct is its ratio in percent.
    """
    hit, position = np.unique(nn1, return_inverse=True)
    # Of a training image the nearest is itself, or an exact copy of it with a lower index.
    near = index.distinct_nearest(index.images[hit], duplicate_rms=[duplicate_rms])
    apart = near.squared_distance_distinct[0]
    apart = np.where(apart < 0, near.squared_distance[:, 1], apart)
    authentic = squared_distance1 > apart[position]
    return clopper_pearson(int(authentic.sum()), len(authentic), confidence)


def copying_statistic(
    train: ImageSet,
    holdout: ImageSet,
    generated: np.ndarray,
    *,
    distance_holdout: np.ndarray,
    distance_generated: np.ndarray,
    num_cells: int = 10,
    seed: int = 0,
) -> CopyingStatistic:
    """C_T: are generated images closer to the training images than held-out ones, place by place?

    In each cell of a k-means clustering of the training images, U counts the pairs of a generated
    and a held-out image of which the generated one is farther from its nearest training image (ties
    ½), Z = (U − mn/2) / √(mn(m+n+1)/12 · tie factor), and C_T = Σ w Z with w the cell's share of
    the held-out images. Meehan, Chaudhuri, Dasgupta, arXiv:2004.05675. A cell that lacks held-out
    or generated images is merged with the cell of the nearest center.

    Args:
        train: training images.
        holdout: images like them that the model was not trained on.
        generated: uint8 [M, C, H, W].
        distance_holdout: distance of each held-out image to its nearest training image, squared or
            not: only the order counts.
        distance_generated: the same for each generated image.
        num_cells: cells to begin with, ≥ 1.
        seed: chooses where the clustering starts.

    Raises:
        DataError: no held-out or no generated images.
        ValueError: another number of distances than of images, or num_cells below 1.
    """
    if num_cells < 1:
        raise ValueError(f"num_cells must be at least 1, got {num_cells}")
    if not len(holdout) or not len(generated):
        raise DataError(
            f"C_T compares held-out with generated images, but there are {len(holdout)} and "
            f"{len(generated)}; at least 1 of each is needed."
        )
    if (len(distance_holdout), len(distance_generated)) != (len(holdout), len(generated)):
        raise ValueError(
            f"there must be one distance per image: {len(distance_holdout)} for {len(holdout)} "
            f"held-out and {len(distance_generated)} for {len(generated)} generated images"
        )
    centers = _centers(train.images, num_cells, seed)
    cell_holdout, cell_generated = _merge_empty(
        centers, _cells(holdout.images, centers), _cells(generated, centers)
    )
    cells = []
    for cell in np.unique(cell_holdout):
        of_holdout = distance_holdout[cell_holdout == cell]
        of_generated = distance_generated[cell_generated == cell]
        z = mann_whitney_z(of_generated, of_holdout)
        cells.append(Cell(len(of_holdout), len(of_generated), z))
    weights = [cell.num_holdout / len(holdout) for cell in cells]
    return CopyingStatistic(
        value=sum(weight * cell.z for weight, cell in zip(weights, cells, strict=True)),
        spread=math.hypot(*weights),
        cells=tuple(cells),
    )


def mann_whitney_z(a: np.ndarray, b: np.ndarray) -> float:
    """U of a against b, less its mean, in standard deviations; 0 where all values are equal.

    Args:
        a: numbers [m], m ≥ 1.
        b: numbers [n], n ≥ 1.
    """
    m, n = len(a), len(b)
    values = np.concatenate([a, b])
    U = average_ranks(values)[:m].sum() - m * (m + 1) / 2
    ties = np.unique(values, return_counts=True)[1].astype(np.float64)
    variance = m * n / 12 * (m + n + 1 - (ties**3 - ties).sum() / ((m + n) * (m + n - 1)))
    return float((U - m * n / 2) / math.sqrt(variance)) if variance > 0 else 0.0


def _centers(images: np.ndarray, num_cells: int, seed: int) -> np.ndarray:
    """Centers of at most `num_cells` clusters, float32 [K, D]; clusters that run empty are gone."""
    from scipy.cluster.vq import kmeans  # slow to import, and only needed with held-out images

    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(images), min(CLUSTERED, len(images)), replace=False))
    y = _rows(images[chosen])
    start = y[rng.choice(len(y), min(num_cells, len(y)), replace=False)]
    return kmeans(y, start, thresh=0.1)[0]  # gray levels, of a distance averaged over images


def _cells(images: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """The nearest center of each image, int64 [N]."""
    from scipy.cluster.vq import vq

    parts = [
        vq(_rows(images[start : start + ROWS]), centers)[0] for start in range(0, len(images), ROWS)
    ]
    return np.concatenate(parts).astype(np.int64)


def _rows(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32)


def _merge_empty(
    centers: np.ndarray, holdout: np.ndarray, generated: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cells of both sets, each of which occurs in both; at the latest the last one does."""
    remaining = np.arange(len(centers))
    for cell in range(len(centers)):
        if (holdout == cell).any() and (generated == cell).any():
            continue
        remaining = remaining[remaining != cell]
        nearest = remaining[((centers[remaining] - centers[cell]) ** 2).sum(1).argmin()]
        holdout = np.where(holdout == cell, nearest, holdout)
        generated = np.where(generated == cell, nearest, generated)
    return holdout, generated
