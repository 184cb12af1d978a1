"""The label test: are generated images nearer to training images than to images never seen?

Training and held-out images are pooled, equally many, and the labels "training" and "held-out" are
dealt out anew many times (statistics/label_test.py). docs/statistics.md says how to read it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import Block, Paragraph, Row, Table
from memaudit.audit.neighbors.base import ImageSearch
from memaudit.audit.neighbors.build import similar_index
from memaudit.audit.neighbors.duplicates import find_duplicates
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.results import Neighbors
from memaudit.audit.statistics.intervals import Estimate, level_text
from memaudit.audit.statistics.label_test import (
    LOOKS,
    NEIGHBORS,
    Labelings,
    Look,
    corrected_p,
    draw_labelings,
    each_look,
    images_within,
    smallest_share,
)
from memaudit.data.images import ImageSet
from memaudit.data.transformed_copies import plant_copies
from memaudit.progress import Progress, silent
from memaudit.wording import percent

MOST_PAIRS = 25_000
"""Images of either label in the pool: so many that a larger pool would only take longer."""
POOL_BYTES = 2 << 30
"""Pixels in the pool, which are in memory."""
DENSE = 0.01
"""If a larger share of the held-out images has near-duplicates among the training images, these are
not duplicates but how the data is."""
SEARCH_BATCH = 1024
NUM_PLANTED = 50
"""Training images whose transformed copies are planted."""
SEED = 0
"""Chooses the images of the pool, and the labelings."""


Nearest = Callable[[np.ndarray, int], Neighbors]
"""Finds the k nearest of the pool: (images, k) → neighbors."""


@dataclass(frozen=True)
class SpaceTest:
    """The test by distances of one kind."""

    space: str
    """`pixels` or `features`, or the name of a further rule that counts."""
    flips: bool
    """Whether mirror images count as well."""
    looks: tuple[Look, ...]
    """The test at each look."""
    p: float
    """Smallest p of the looks, corrected for their number."""
    num_compared: int
    """Generated images, or parts of them where a rule compares parts."""

    @property
    def name(self) -> str:
        """What was compared, in words."""
        return f"{self.space}, mirrored or not" if self.flips else self.space

    @property
    def best(self) -> Look:
        """The look with the smallest p, the first of those that tie."""
        return min(self.looks, key=lambda look: look.p)


@dataclass(frozen=True)
class VisibleCopies:
    """From which share on the test shows copies of one kind."""

    key: str
    """Name of the transformation, as in `recall`."""
    phrase: str
    """What completes `copies …`."""
    smallest_share: float | None
    """Share of such copies among the generated images that the test by pixels shows in about half
    of all scans, copies of images outside the pool included; None if it never does."""


@dataclass(frozen=True)
class LabelTest:
    """Whether generated images are nearer to training than to held-out images.

    The test assumes that training and held-out images were exchangeable before training, as in a
    random split.
    """

    num_pairs: int
    """n: images of either label in the pool."""
    num_samples: int
    """G: generated images."""
    num_labelings: int
    """Labelings that were compared, the true one included."""
    num_set_apart: int
    """Images left out of the pool because the other label has a near-duplicate of them."""
    num_repeated: int
    """Images left out because the pool has a near-duplicate with the same label."""
    is_dense: bool
    """Whether so many images have near-duplicates with the other label that only equal images were
    left out."""
    spaces: tuple[SpaceTest, ...]
    """The test by pixels and, where the scan compared something else, by that as well."""
    p_any: float
    """Smallest p of all looks in all spaces, corrected for their number."""
    visible: tuple[VisibleCopies, ...]
    """Which transformed copies of training images the test would show."""
    confidence: float
    """Confidence of the shares' intervals."""

    @property
    def p(self) -> float:
        """The p-value by pixels, corrected for the number of looks."""
        return self.spaces[0].p

    @property
    def share(self) -> float:
        """Share of generated images that are visibly too near to training images, by pixels: T/G at
        the look with the smallest p."""
        return self.spaces[0].best.share.value


# ------------------------------------------------------------------------------------------------
# The pool


@dataclass(frozen=True)
class Pool:
    """Training and held-out images, equally many."""

    index: NeighborIndex
    """The index of the 2n images, training images first."""
    num_set_apart: int
    num_repeated: int
    is_dense: bool

    @property
    def num_pairs(self) -> int:
        """n."""
        return len(self.index.images) // 2


def draw_pool(
    training: np.ndarray,
    holdout: np.ndarray,
    *,
    duplicate_rms: float,
    device: str | torch.device = "cpu",
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> Pool | None:
    """Take equally many training and held-out images, without near-duplicates.

    Images within `duplicate_rms` of each other form groups. A group with both labels is left out as
    a whole, since a copy of it is near to either; leaving out only its held-out images would leave
    more training images where the data is dense. Of a group with one label, one image remains. In
    dense data, groups are of equal images only.

    Args:
        training, holdout: uint8 [N, C, H, W] each.
        duplicate_rms: radius in gray levels.
        device: "cpu" or "cuda".
        memory_limit: most bytes that the index may take.
        progress: told how many images have been compared.

    Returns:
        The pool, or None if no pair is left.
    """
    rng = np.random.default_rng(SEED)

    def draw(positions: np.ndarray, number: int) -> np.ndarray:
        return np.sort(rng.choice(positions, number, replace=False))

    def open_index(images: np.ndarray) -> NeighborIndex:
        return NeighborIndex(images, device=device, memory_limit=memory_limit, progress=progress)

    most = max(1, min(MOST_PAIRS, POOL_BYTES // (2 * training[:1].nbytes)))
    num_pairs = min(len(training), len(holdout), most)
    images = np.concatenate(
        [set_[draw(np.arange(len(set_)), num_pairs)] for set_ in (training, holdout)]
    )
    index = open_index(images)
    is_training = np.arange(len(images)) < num_pairs

    left_out = _left_out(index, is_training, duplicate_rms, progress)
    is_dense = (~is_training[left_out.set_apart]).sum() > DENSE * num_pairs
    if is_dense:
        left_out = _left_out(index, is_training, 0, progress)
    kept = np.delete(np.arange(len(images)), np.concatenate(left_out))
    of_training, of_holdout = kept[is_training[kept]], kept[~is_training[kept]]
    number = min(len(of_training), len(of_holdout))
    if not number:
        return None
    if number < num_pairs:
        rows = np.concatenate([draw(of_training, number), draw(of_holdout, number)])
        index = open_index(images[rows])
    return Pool(index, len(left_out.set_apart), len(left_out.repeated), bool(is_dense))


class _LeftOut(NamedTuple):
    """Positions in the pool, int64."""

    set_apart: np.ndarray
    """Images of groups with both labels."""
    repeated: np.ndarray
    """All but the first image of each group with one label."""


def _left_out(
    index: NeighborIndex, is_training: np.ndarray, radius: float, progress: Progress
) -> _LeftOut:
    pool = ImageSet(index.images, [""] * len(index.images))
    found = find_duplicates(
        pool, duplicate_rms=radius, device=index.device, index=index, progress=progress
    )
    set_apart: list[int] = []
    repeated: list[int] = []
    for group in found.groups:
        if len(set(is_training[list(group.indices)].tolist())) > 1:
            set_apart += group.indices
        else:
            repeated += group.indices[1:]
    return _LeftOut(np.array(set_apart, dtype=np.int64), np.array(repeated, dtype=np.int64))


# ------------------------------------------------------------------------------------------------
# The test


def label_test(
    training: np.ndarray,
    holdout: np.ndarray,
    generated: np.ndarray,
    *,
    index: ImageSearch | None = None,
    duplicate_rms: float = 8.0,
    confidence: float = 0.95,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> LabelTest | None:
    """Test whether generated images are nearer to training than to held-out images.

    Args:
        training: uint8 [N, C, H, W].
        holdout: images like them that the model was not trained on, uint8 [m, C, H, W].
        generated: uint8 [G, C, H, W], G ≥ 1.
        index: the search of the scan; the test runs by pixels and, if this compares mirror images
            or features, by that as well, and by what each further rule compares. None means pixels
            only, on the CPU.
        duplicate_rms: images within this many RMS gray levels are near-duplicates.
        confidence: of the shares' intervals.
        memory_limit: most bytes that an index of pixels may take.
        progress: told how far the searches are.

    Returns:
        The result, or None if every image of the smaller set has a near-duplicate in the other.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> images = rng.integers(0, 256, (300, 1, 4, 4), np.uint8)
        >>> training, holdout, fresh = images[:100], images[100:200], images[200:]
        >>> label_test(training, holdout, training[:50]).p
        0.001
        >>> label_test(training, holdout, fresh).p > 0.05
        True
    """
    pool = draw_pool(
        training,
        holdout,
        duplicate_rms=duplicate_rms,
        device="cpu" if index is None else index.device,
        memory_limit=memory_limit,
        progress=progress,
    )
    if pool is None:
        return None
    searches: list[ImageSearch] = [pool.index]
    if index is not None and (index.flips or not index.exact):
        searches.append(
            similar_index(index, pool.index.images, memory_limit=memory_limit, progress=progress)
        )
    compared: list[tuple[str, bool, list[Nearest]]] = [
        (search.space.name, search.flips, [search.nearest]) for search in searches
    ]
    for rule in () if index is None else index.rules:
        compared.append((rule.name, pool.index.flips, list(rule.pools(pool.index.images))))
    labelings = draw_labelings(pool.num_pairs, seed=SEED)
    statistics = [
        sum(
            (_statistics(nearest, generated, labelings, progress) for nearest in parts),
            start=np.zeros((len(LOOKS), labelings.num_labelings), dtype=np.int64),
        )
        for _, _, parts in compared
    ]
    spaces = [
        SpaceTest(
            space=name,
            flips=flips,
            # Each part of an image that a rule compares counts by itself.
            looks=each_look(found, len(parts) * len(generated), confidence=confidence),
            p=corrected_p(found),
            num_compared=len(parts) * len(generated),
        )
        for (name, flips, parts), found in zip(compared, statistics, strict=True)
    ]
    return LabelTest(
        num_pairs=pool.num_pairs,
        num_samples=len(generated),
        num_labelings=labelings.num_labelings,
        num_set_apart=pool.num_set_apart,
        num_repeated=pool.num_repeated,
        is_dense=pool.is_dense,
        spaces=tuple(spaces),
        p_any=corrected_p(np.concatenate(statistics)),
        visible=_visible_copies(
            pool,
            labelings,
            statistics[0],
            num_samples=len(generated),
            in_pool=pool.num_pairs / len(training),
            alpha=1 - confidence,
            progress=progress,
        ),
        confidence=confidence,
    )


def _statistics(
    nearest: Nearest,
    generated: np.ndarray,
    labelings: Labelings,
    progress: Progress,
) -> np.ndarray:
    """T_t of the generated images for every look and labeling: int64 [L, P]."""
    total = np.zeros((len(LOOKS), labelings.num_labelings), dtype=np.int64)
    k = min(NEIGHBORS, labelings.pool_size)
    for start in range(0, len(generated), SEARCH_BATCH):
        batch = generated[start : start + SEARCH_BATCH]
        found = nearest(batch, k)
        total += labelings.statistics(found.index, images_within(found.squared_distance))
        progress("Comparing with pooled images", start + len(batch), len(generated))
    return total


def _visible_copies(
    pool: Pool,
    labelings: Labelings,
    statistics: np.ndarray,
    *,
    num_samples: int,
    in_pool: float,
    alpha: float,
    progress: Progress,
) -> tuple[VisibleCopies, ...]:
    """Plant transformed copies of the pool's training images, and ask how many the test needs.

    Args:
        pool: whose training images are copied.
        labelings: of the pool, the true one first.
        statistics: T_t of the generated images by pixels for every labeling, int64 [L, P].
        num_samples: G.
        in_pool: share of the training images that are in the pool.
        alpha: level of the test.
        progress: told how many copies have been searched.
    """
    if pool.num_pairs < 2:
        return ()
    planted = plant_copies(
        pool.index.images[: pool.num_pairs],
        np.random.default_rng(SEED),
        num_originals=NUM_PLANTED,
    )
    found = pool.index.nearest(
        np.concatenate([each.copies for each in planted]), min(NEIGHBORS, labelings.pool_size)
    )
    within = images_within(found.squared_distance)
    true = Labelings(labelings.training[:, :1], num_labelings=1)
    visible = []
    start = 0
    for each in planted:
        part = slice(start, start + len(each.copies))
        start = part.stop
        T = true.statistics(found.index[part], within[:, part])[:, 0]
        share = smallest_share(statistics, num_samples, in_pool * T / len(each.copies), alpha=alpha)
        visible.append(VisibleCopies(each.kind.key, each.kind.phrase, share))
        progress("Planting copies", len(visible), len(planted))
    return tuple(visible)


def _run(context: Context) -> LabelTest | None:
    setting = context.setting
    return label_test(
        setting.independent_data.images,
        setting.given_holdout.images,
        context.given_images.generated,
        index=context.given_images.index,
        duplicate_rms=setting.config.rule.duplicate_rms,
        confidence=setting.config.rule.confidence,
        memory_limit=setting.config.index.memory_limit,
        progress=setting.progress,
    )


# ------------------------------------------------------------------------------------------------
# What is shown


def _section(result: LabelTest, page: PageContext) -> Iterator[Block]:
    yield Paragraph(
        f"{result.num_pairs:,} training images and {result.num_pairs:,} held-out images, which the "
        f"model never saw, were put into one pool. Each of the {result.num_samples:,} generated "
        "images then counts for the kind of image that is nearer to it. If the model remembers no "
        "training image, it cannot tell the two kinds apart, and the labels “training” and "
        "“held-out” could be dealt out anew without changing what is to be expected. p is the "
        f"share of {result.num_labelings:,} such deals in which the training images are at least "
        "as far ahead as they are. A p of 0.05 or more is what a model that remembers nothing "
        "gives in 95 of 100 scans."
    )
    level = level_text(result.confidence)
    is_one = len(result.spaces) == 1
    for space in result.spaces:
        by = "" if is_one else f", by {space.name}"
        yield Table(
            ("Nearer to one kind", "Ahead by", "Share", f"{level} interval", "p"),
            (
                *(_row(look, space.num_compared, by) for look in space.looks),
                Row(f"All three looks{by}", ("–", "–", "–", f"{space.p:.3g}"), is_headline=True),
            ),
            title=f"Label test by {space.name}" if is_one else "Label test by each rule",
        )
    if result.visible:
        yield Paragraph(
            "To learn what the test can show, transformed copies of training images were planted. "
            "If this share of the generated images were such copies, p would be at most "
            f"{1 - result.confidence:.2g} in about half of all scans."
        )
        yield Table(
            ("Copies", "Smallest share shown"),
            tuple(
                Row(
                    "exact copies" if each.key == "exact" else each.phrase,
                    ("–" if each.smallest_share is None else f"{percent(each.smallest_share)} %",),
                )
                for each in result.visible
            ),
            title="Copies that the label test shows",
        )
    yield Paragraph(_remarks(result, page), is_small=True)


def _row(look: Look, num_samples: int, by: str) -> Row:
    label = "at all" if look.t == 1 else f"by more than {100 * (1 - look.t):.0f} %"
    return Row(
        f"{label}{by}",
        (
            f"{look.statistic:,} of {num_samples:,}",
            f"{percent(look.share.value)} %",
            _interval(look.share),
            f"{look.p:.3g}",
        ),
    )


def _interval(share: Estimate) -> str:
    # Labelings alone allow more than all of the images to be too near, or fewer than none.
    low, high = (min(max(end, -1.0), 1.0) for end in (share.low, share.high))
    return f"{percent(low)} % to {percent(high)} %"


def _remarks(result: LabelTest, page: PageContext) -> str:
    text = (
        "“Ahead by” is the number of generated images that are nearer to a training image less the "
        "number of those nearer to a held-out one; its share estimates how many are too near to "
        "training images. The p of all looks is corrected for their number. The test needs no "
        "threshold and no radius. It assumes that training and held-out images were exchangeable "
        "before training, as in a random split: where they differ by themselves, a small p may say "
        "no more than that (the blind baseline tests it)."
    )
    if result.num_pairs < len(page.data):
        text += (
            f" Copies of the other {len(page.data) - result.num_pairs:,} training images, which "
            "are not in the pool, cannot be seen here."
        )
    if result.is_dense:
        text += (
            f" More than {100 * DENSE:g} % of the held-out images have near-duplicates among the "
            "training images, so near-duplicates are how this data is, and they stayed in the pool."
        )
    elif result.num_set_apart:
        text += (
            f" {result.num_set_apart:,} images with a near-duplicate of the other kind were left "
            "out."
        )
    return text


def _lines(result: LabelTest) -> Iterator[str]:
    for space in result.spaces:
        best = space.best
        yield (
            f"Label test by {space.name}: p = {space.p:.3g} for generated images to lie this near "
            f"to training images by chance, beside {result.num_pairs:,} training and "
            f"{result.num_pairs:,} held-out images. Share that is too near: "
            f"{percent(best.share.value)} % ({_interval(best.share)})."
        )


def _evidence(result: LabelTest, alpha: float) -> Iterator[str]:
    if result.p_any <= alpha:
        yield (
            "generated images are nearer to training than to held-out images (label test p = "
            f"{result.p_any:.3g})"
        )


DIAGNOSTIC = Diagnostic(
    title="Label test",
    requires=frozenset({"images", "holdout"}),
    run=_run,
    section=_section,
    lines=_lines,
    evidence=_evidence,
    assumes_exchangeable=True,
)
