"""C_T: are generated images closer to the training images than held-out ones, region by region?

Meehan, Chaudhuri, Dasgupta, arXiv:2004.05675. Smooth images are closer to any image than sharp
ones are, so that a model that blurs looks like one that copies; the label test is not misled by it.
docs/statistics.md says how to read it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import Block, Row, measures
from memaudit.audit.statistics.mann_whitney import mann_whitney_z
from memaudit.errors import DataError
from memaudit.wording import p_text

CLUSTERED = 5000
"""Largest number of training images that the cells are made from."""
CLEAR = 3.0
"""Size of z from which a difference is called one."""
ROWS = 1024
"""Images converted to numbers at a time."""
_ALSO_SMOOTH = (
    " So are images that are merely smooth: the label test tells which if it has many pairs."
)


@dataclass(frozen=True)
class Cell:
    """A region of the image space, with the held-out and generated images in it."""

    num_holdout: int
    num_generated: int
    z: float
    """Mann–Whitney's U in units of its standard deviation; below 0 if the generated images are
    closer to the training images than the held-out ones are."""


@dataclass(frozen=True)
class CopyingStatistic:
    """C_T and the cells over which it is averaged."""

    value: float
    """C_T: far below 0 means copying or images that are too smooth, far above 0 underfitting."""
    spread: float
    """Standard deviation of C_T if generated and held-out images have the same distribution:
    √Σw² over the cells' weights w."""
    z: float
    """C_T in units of its spread, which does not depend on the number of cells."""
    p_value: float
    """Chance of a z at most this large if both have the same distribution."""
    cells: tuple[Cell, ...]


def copying_statistic(
    train: np.ndarray,
    holdout: np.ndarray,
    generated: np.ndarray,
    *,
    squared_distance_holdout: np.ndarray,
    squared_distance_generated: np.ndarray,
    num_cells: int = 10,
    seed: int = 0,
) -> CopyingStatistic:
    """Compute C_T.

    In each cell of a k-means clustering of the training images, U counts the pairs of a generated
    and a held-out image in which the generated one is farther from its nearest training image (ties
    ½), Z = (U − mn/2) / √(mn(m+n+1)/12 · tie factor), and C_T = Σ w Z, where w is the cell's share
    of the held-out images. A cell without held-out or without generated images is merged with the
    cell of the nearest center.

    Args:
        train: training images, uint8 [N, C, H, W].
        holdout: images like them that the model was not trained on, uint8 [n, C, H, W].
        generated: generated images, uint8 [m, C, H, W].
        squared_distance_holdout: [n], from each held-out image to its nearest training image.
        squared_distance_generated: [m], likewise for the generated images.
        num_cells: number of cells before merging, ≥ 1.
        seed: chooses where the clustering starts.

    Raises:
        DataError: there are no held-out or no generated images.
        ValueError: there is not one distance per image, or num_cells is below 1.
    """
    if num_cells < 1:
        raise ValueError(f"num_cells must be at least 1, got {num_cells}")
    if not len(holdout) or not len(generated):
        raise DataError(
            f"C_T compares held-out with generated images, but there are {len(holdout)} and "
            f"{len(generated)}; at least 1 of each is needed."
        )
    num_distances = (len(squared_distance_holdout), len(squared_distance_generated))
    if num_distances != (len(holdout), len(generated)):
        raise ValueError(
            f"there must be one distance per image, got {num_distances} for "
            f"{(len(holdout), len(generated))} held-out and generated images"
        )
    centers = _centers(train, num_cells, seed)
    cell_holdout, cell_generated = _merge_empty(
        centers, _cells(holdout, centers), _cells(generated, centers)
    )
    cells = []
    for cell in np.unique(cell_holdout):
        of_holdout = squared_distance_holdout[cell_holdout == cell]
        of_generated = squared_distance_generated[cell_generated == cell]
        z = mann_whitney_z(of_generated, of_holdout)
        cells.append(Cell(len(of_holdout), len(of_generated), z))
    weights = [cell.num_holdout / len(holdout) for cell in cells]
    value = sum(weight * cell.z for weight, cell in zip(weights, cells, strict=True))
    spread = math.hypot(*weights)
    return CopyingStatistic(
        value=value,
        spread=spread,
        z=value / spread,
        p_value=float(ndtr(value / spread)),
        cells=tuple(cells),
    )


def _centers(images: np.ndarray, num_cells: int, seed: int) -> np.ndarray:
    """Centers of at most `num_cells` clusters, float32 [K, D]; empty clusters are dropped."""
    from scipy.cluster.vq import kmeans

    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(images), min(CLUSTERED, len(images)), replace=False))
    y = _rows(images[chosen])
    start = y[rng.choice(len(y), min(num_cells, len(y)), replace=False)]
    centers: np.ndarray = kmeans(y, start, thresh=0.1)[0]  # gray levels, averaged over images
    return centers


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
    """Merge cells until every cell holds images of both sets (a single cell always does)."""
    remaining = np.arange(len(centers))
    for cell in range(len(centers)):
        if (holdout == cell).any() and (generated == cell).any():
            continue
        remaining = remaining[remaining != cell]
        nearest = remaining[((centers[remaining] - centers[cell]) ** 2).sum(1).argmin()]
        holdout = np.where(holdout == cell, nearest, holdout)
        generated = np.where(generated == cell, nearest, generated)
    return holdout, generated


def _run(context: Context) -> CopyingStatistic:
    images = context.given_images
    setting = images.setting
    return copying_statistic(
        setting.data.images,
        setting.given_holdout.images,
        images.generated,
        squared_distance_holdout=images.holdout_matches.squared_distance1,
        squared_distance_generated=context.matches.squared_distance1,
    )


def _section(result: CopyingStatistic, page: PageContext) -> Iterator[Block]:
    yield measures(
        page.rule.confidence,
        Row(
            "C_T",
            (f"z = {result.z:.1f}", "–"),
            note="below −3 if generated images are closer to the training images than held-out "
            f"ones are, above 3 if they are farther; {p_text(result.p_value)} for such closeness "
            "by chance. Images that are smoother than real ones are closer to all images, so it is "
            "evidence of copying only beside a small p of the label test. C_T itself is "
            f"{result.value:.2f} ± {result.spread:.2f}",
        ),
    )


def _lines(result: CopyingStatistic) -> Iterator[str]:
    yield (
        f"C_T: generated images are {_compared(result)} the training images "
        f"{'than' if abs(result.z) > CLEAR else 'as'} held-out ones "
        f"(z = {result.z:.1f}, {p_text(result.p_value)})."
        f"{_ALSO_SMOOTH if result.z < -CLEAR else ''}"
    )


def _compared(result: CopyingStatistic) -> str:
    if abs(result.z) <= CLEAR:
        return "about as close to"
    return "closer to" if result.z < 0 else "farther from"


def _evidence(result: CopyingStatistic, alpha: float) -> Iterator[str]:
    """Only z below −3: it is approximate where cells are small or a gate stopped the sampling."""
    if result.z < -CLEAR and result.p_value <= alpha:
        yield (
            "generated images are closer to the training images than held-out ones are "
            f"(C_T z = {result.z:.1f})"
        )


DIAGNOSTIC = Diagnostic(
    title="Controls",
    requires=frozenset({"images", "holdout"}),
    run=_run,
    section=_section,
    lines=_lines,
    evidence=_evidence,
    assumes_exchangeable=True,
    confirmed_by="label_test",
)
