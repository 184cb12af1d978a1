"""Blind baseline: do training and held-out images differ by themselves, whatever the model does?

A classifier that never sees the model tries to tell training from held-out images. Where it
succeeds, the two sets are of different kinds, and nothing that compares them says anything about
the model (Das et al., arXiv:2406.16201). docs/statistics.md says how it is made.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import Block, Paragraph, Row, measures
from memaudit.audit.statistics.intervals import Estimate, level_text
from memaudit.audit.statistics.two_samples import NUM_FOLDS, cross_validated_auc
from memaudit.data.images import ImageSet

NUM_IMAGES, NUM_BYTES = 2000, 1 << 27
"""Most images, and most bytes of pixels, that are taken of either set."""
NUM_COMPONENTS = 32
"""Principal components that the classifier sees, at most one per 10 images."""
RESOLUTION = 16
"""Pixels per side that images are reduced to before the principal components are found."""
LEAST_CONFIDENCE = 0.95
"""The sets differ at this confidence at least, whatever that of the scan."""
ROWS = 256
"""Images converted to numbers at a time."""


@dataclass(frozen=True)
class BlindBaseline:
    """How well training and held-out images can be told apart without the model."""

    num_train: int
    """Training images compared, without repetitions."""
    num_holdout: int
    """Held-out images compared, without repetitions."""
    auc: Estimate
    """Chance that the classifier scores a training image above a held-out one: 0.5 if the sets are
    of one kind."""
    confidence: float
    """Confidence of the interval of the AUC."""
    differs: bool
    """Whether the interval lies above 0.5. Then no comparison of training with held-out images is
    to be interpreted: floor, label test, C_T, noise and return, membership, MemGap."""


def compare_blindly(
    data: ImageSet, holdout: ImageSet, *, confidence: float = 0.95, seed: int = 0
) -> BlindBaseline | None:
    """Try to tell training from held-out images without the model.

    A logistic regression, cross-validated in 5 folds, sees of each image the principal components
    of both sets together, mean, standard deviation, and compressed size in bytes.

    Args:
        data: the training images.
        holdout: the held-out images, of the same shape.
        confidence: of the interval of the AUC, in (0, 1).
        seed: chooses the images and deals the folds.

    Returns:
        None if either set has fewer than 10 different images.
    """
    rng = np.random.default_rng(seed)
    train, held = (_some(images.images, rng) for images in (data, holdout))
    if min(len(train), len(held)) < 2 * NUM_FOLDS:
        return None
    is_train = np.arange(len(train) + len(held)) < len(train)
    auc = cross_validated_auc(
        _features(np.concatenate([train, held])), is_train, confidence=confidence, seed=seed
    )
    return BlindBaseline(
        num_train=len(train),
        num_holdout=len(held),
        auc=auc,
        confidence=confidence,
        differs=auc.low > 0.5,
    )


def _some(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random part of the images, each once: uint8 [n, C, H, W].

    A repeated image would be in several folds, and the classifier could recognize it.
    """
    size = min(len(images), NUM_IMAGES, max(2 * NUM_FOLDS, NUM_BYTES // images[0].size))
    chosen = np.asarray(images[np.sort(rng.choice(len(images), size, replace=False))])
    first = np.unique(chosen.reshape(size, -1), axis=0, return_index=True)[1]
    return chosen[np.sort(first)]


def _features(images: np.ndarray) -> np.ndarray:
    """What the classifier sees of each image: float64 [n, d]."""
    reduced, measured = [], []
    for start in range(0, len(images), ROWS):
        y = torch.from_numpy(images[start : start + ROWS]).float()
        size = (min(RESOLUTION, y.shape[2]), min(RESOLUTION, y.shape[3]))
        reduced.append(adaptive_avg_pool2d(y, size).flatten(1).numpy())
        measured.append(torch.stack([y.mean((1, 2, 3)), y.std((1, 2, 3))], 1).numpy())
    x = np.concatenate(reduced).astype(np.float64)
    x -= x.mean(0)
    num_components = min(NUM_COMPONENTS, max(1, len(x) // 10), x.shape[1])
    axes = np.linalg.eigh(x.T @ x)[1][:, -num_components:]
    sizes = [_compressed_size(image) for image in images]
    return np.column_stack([x @ axes, np.concatenate(measured), sizes])


def _compressed_size(image: np.ndarray) -> int:
    """Bytes of an image uint8 [C, H, W] when compressed as in a PNG: differences, then deflate."""
    differences = np.diff(image, axis=2, prepend=image[:, :, :1] * 0)  # modulo 256
    return len(zlib.compress(differences.tobytes(), 1))


def _run(context: Context) -> BlindBaseline | None:
    setting = context.setting
    return compare_blindly(
        setting.independent_data,
        setting.given_holdout,
        # A lower level would call most sets different, and so discard the evidence.
        confidence=max(LEAST_CONFIDENCE, setting.config.rule.confidence),
    )


WARNING = (
    "The training and the held-out images differ by themselves: a classifier that never saw the "
    "model tells them apart. Whatever compares the two sets (floor and excess, label test, C_T, "
    "noise and return, membership, MemGap) may show this difference instead of memorization and "
    "is not to be interpreted. Give held-out images that were drawn together with the training "
    "images."
)


def _section(result: BlindBaseline, page: PageContext) -> Iterator[Block]:
    yield measures(
        result.confidence,
        Row(
            "Blind baseline, AUC",
            (f"{result.auc.value:.3f}", f"{result.auc.low:.3f} to {result.auc.high:.3f}"),
            note="how often a classifier that never saw the model scores a training image above a "
            f"held-out one ({result.num_train:,} and {result.num_holdout:,} images); 0.5 if the "
            "sets are of one kind",
            is_headline=result.differs,
        ),
    )
    if result.differs:
        yield Paragraph(WARNING)


def _lines(result: BlindBaseline) -> Iterator[str]:
    if not result.differs:
        return
    level = level_text(result.confidence)
    yield (
        f"{WARNING} (Blind baseline: AUC {result.auc.value:.3f}, {level} interval "
        f"{result.auc.low:.3f} to {result.auc.high:.3f}.)"
    )


DIAGNOSTIC = Diagnostic(
    title="Controls",
    requires=frozenset({"training", "holdout"}),
    run=_run,
    section=_section,
    lines=_lines,
)
