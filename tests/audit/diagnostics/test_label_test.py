"""The label test on images: the pool, the spaces, and what it finds and must not find."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest, kstest

from memaudit.audit.diagnostics.label_test import DIAGNOSTIC, LabelTest, draw_pool, label_test
from memaudit.audit.diagnostics.section import Table
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.result import ScanResult
from memaudit.data.sources import open_images

Draw = Callable[[np.random.Generator, int], np.ndarray]

PATTERNS = np.random.default_rng(0).normal(size=(20, 3, 8, 8))


def draw(rng: np.random.Generator, num_images: int) -> np.ndarray:
    """Blends of twenty patterns, and a little noise: uint8 [N, 3, 8, 8]."""
    blends = np.tensordot(rng.normal(size=(num_images, 20)), PATTERNS, 1)
    pixels = 127.5 + 10 * blends + 4 * rng.normal(size=blends.shape)
    return pixels.clip(0, 255).astype(np.uint8)


def noisy(rng: np.random.Generator, images: np.ndarray, spread: float) -> np.ndarray:
    pixels = images + spread * rng.normal(size=images.shape)
    return pixels.round().clip(0, 255).astype(np.uint8)


def measure(training: np.ndarray, holdout: np.ndarray, generated: np.ndarray) -> LabelTest:
    found = label_test(training, holdout, generated)
    assert found is not None
    return found


def test_copies_are_found_and_new_images_are_not():
    rng = np.random.default_rng(1)
    training, holdout, fresh = draw(rng, 500), draw(rng, 300), draw(rng, 400)
    found = measure(training, holdout, fresh)
    assert (found.num_pairs, found.num_samples, found.num_labelings) == (300, 400, 1000)
    assert found.p > 0.05 and not list(DIAGNOSTIC.evidence(found, 0.05))
    copies = noisy(rng, training[:80], 12)
    found = measure(training, holdout, np.concatenate([copies, fresh[80:]]))
    assert found.p == found.p_any == found.spaces[0].p <= 0.003
    visible = 0.2 * 300 / 500  # of the copies, those of images in the pool
    assert found.share == pytest.approx(visible, abs=0.04)
    best = found.spaces[0].best
    assert best.share.value == found.share
    assert best.share.low < visible < best.share.high
    [clause] = DIAGNOSTIC.evidence(found, 0.05)
    assert clause.endswith(f"(label test p = {found.p:.3g})")
    assert not list(DIAGNOSTIC.evidence(found, 0.0001))


def test_copies_of_held_out_images_do_not_count():
    rng = np.random.default_rng(2)
    training, holdout = draw(rng, 200), draw(rng, 200)
    assert measure(training, holdout, holdout).p == 1


def test_mirrored_copies_are_found_where_the_scan_looks_for_them(
    make_result: Callable[..., ScanResult],
):
    rng = np.random.default_rng(3)
    training, holdout = draw(rng, 200), draw(rng, 200)
    generated = noisy(rng, training[:60, :, :, ::-1], 3)
    index = NeighborIndex(training, flips=True)
    found = label_test(training, holdout, generated, index=index)
    assert found is not None
    plain, mirrored = found.spaces
    assert (plain.flips, mirrored.flips) == (False, True) and found.p == plain.p > 0.05
    assert mirrored.p <= 0.003 and mirrored.p <= found.p_any <= 0.006
    assert mirrored.name == "pixels, mirrored or not"
    blocks = list(DIAGNOSTIC.section(found, make_result().page_context))
    labels = [row.label for block in blocks if isinstance(block, Table) for row in block.rows]
    assert len(labels) == len(set(labels))  # each says by which
    assert "All three looks, by pixels, mirrored or not" in labels


@pytest.mark.parametrize("num_pairs", [1, 2, 10, 24, 25])
def test_small_sets_and_a_single_image_give_a_p(num_pairs: int):
    rng = np.random.default_rng(4)
    training, holdout = draw(rng, num_pairs), draw(rng, num_pairs)
    found = measure(training, holdout, training[:1])
    assert found.num_samples == 1 and found.share == 1
    assert found.p == pytest.approx(0.5, abs=0.05)
    assert measure(training, holdout, draw(rng, 7)).p > 0.01


def test_near_duplicates_with_both_labels_are_set_apart_and_repeated_images_count_once():
    rng = np.random.default_rng(5)
    training, holdout = draw(rng, 400), draw(rng, 400)
    training[1:4] = training[0]
    training[5] = noisy(rng, training[4:5], 3)[0]
    holdout[7] = noisy(rng, training[10:11], 3)[0]
    pool = draw_pool(training, holdout, duplicate_rms=8)
    assert pool is not None
    assert (pool.num_set_apart, pool.num_repeated, pool.is_dense) == (2, 4, False)
    assert pool.num_pairs == 395
    images = pool.index.images
    assert not (images == training[10]).all((1, 2, 3)).any()
    assert not (images == holdout[7]).all((1, 2, 3)).any()
    assert (images == training[0]).all((1, 2, 3)).sum() <= 1
    again = draw_pool(training, holdout, duplicate_rms=8)
    assert again is not None and (again.index.images == images).all()


def test_in_dense_data_only_equal_images_are_left_out():
    rng = np.random.default_rng(6)
    templates = draw(rng, 10)
    training, holdout, generated = (
        noisy(rng, templates[rng.integers(10, size=200)], 5) for _ in range(3)
    )
    training[1] = training[0]
    found = measure(training, holdout, generated)
    assert found.is_dense and found.num_pairs == 199
    assert (found.num_set_apart, found.num_repeated) == (0, 1)
    assert found.p > 0.05


def test_without_a_pair_there_is_no_result():
    images = draw(np.random.default_rng(7), 1)
    assert label_test(images, images, images) is None


def test_planted_copies_say_from_which_share_on_the_test_shows_them():
    """Some images of 300 suffice, with little noise as well; mirrored ones have to be more."""
    rng = np.random.default_rng(11)
    found = measure(draw(rng, 200), draw(rng, 200), draw(rng, 300))
    visible = {each.key: each.smallest_share for each in found.visible}
    share = visible["exact"]
    assert share is not None and 0.005 < share < 0.2
    assert visible["mirror"] is None or visible["mirror"] > 3 * share
    assert visible["noise-4"] == pytest.approx(share, rel=0.2)


@pytest.mark.slow
def test_the_smallest_share_is_shown_in_about_half_of_all_runs():
    """Three times it in all of them, and a quarter of it seldom."""
    rng = np.random.default_rng(11)
    training, holdout = draw(rng, 200), draw(rng, 200)
    found = measure(training, holdout, draw(rng, 300))
    visible = {each.key: each.smallest_share for each in found.visible}
    share = visible["exact"]
    assert share is not None

    def num_shown(share: float, runs: int) -> int:
        shown = 0
        for _ in range(runs):
            num_copies = round(300 * share)
            copies = training[rng.integers(200, size=num_copies)]
            fresh = draw(rng, 300 - num_copies)
            shown += measure(training, holdout, np.concatenate([copies, fresh])).p <= 0.05
        return shown

    assert 3 <= num_shown(share, 20) <= 17
    assert num_shown(3 * share, 5) == 5
    assert num_shown(share / 4, 10) <= 6


def test_copies_of_images_outside_the_pool_count_as_unseen():
    rng = np.random.default_rng(12)
    training, holdout, fresh = draw(rng, 400), draw(rng, 100), draw(rng, 200)
    whole = measure(training[:100], holdout, fresh).visible[0].smallest_share
    quarter = measure(training, holdout, fresh).visible[0].smallest_share
    assert whole is not None and (quarter is None or quarter > 2 * whole)


# ------------------------------------------------------------------------------------------------
# Size and power


def rejected(p_values: list[float]) -> float:
    """Share of p-values of at most 5 %."""
    return float(np.mean(np.array(p_values) <= 0.05))


def draw_templates(rng: np.random.Generator, num_images: int) -> np.ndarray:
    """Forty pictures with noise of 5 levels: every image has many near-duplicates."""
    return noisy(rng, draw(np.random.default_rng(0), 40)[rng.integers(40, size=num_images)], 5)


def draw_flat(rng: np.random.Generator, num_images: int) -> np.ndarray:
    """Colors without a picture, and noise of 2 levels."""
    colors = rng.integers(0, 256, (num_images, 3, 1, 1))
    return noisy(rng, np.broadcast_to(colors, (num_images, 3, 8, 8)), 2)


def draw_repeated(rng: np.random.Generator, num_images: int) -> np.ndarray:
    """Half of the images show one of 4,000 motifs: about 1 % have a near-duplicate in the other
    set, at the edge of what counts as dense."""
    motifs = draw(np.random.default_rng(0), 4000)
    images = noisy(rng, motifs[rng.integers(4000, size=num_images)], 3)
    return np.where(rng.random((num_images, 1, 1, 1)) < 0.5, images, draw(rng, num_images))


@pytest.mark.slow
@pytest.mark.parametrize("draw_data", [draw, draw_templates, draw_flat, draw_repeated])
def test_p_is_uniform_if_nothing_is_copied(draw_data: Draw):
    """200 scans of new images of one distribution with the training and held-out images."""
    rng = np.random.default_rng(8)
    p_values = []
    for _ in range(200):
        training, holdout, generated = (draw_data(rng, number) for number in (200, 160, 250))
        p_values.append(measure(training, holdout, generated).p)
    print(draw_data.__name__, f"rejected {rejected(p_values):.3f}, least {min(p_values):.3f}")
    assert kstest(p_values, "uniform", alternative="greater").pvalue > 0.001  # not too small
    assert binomtest(round(200 * rejected(p_values)), 200, 0.05, "greater").pvalue > 0.001
    if draw_data is draw:
        assert kstest(p_values, "uniform").pvalue > 0.001


def shift(images: np.ndarray) -> np.ndarray:
    """By one pixel; the border is repeated."""
    return np.concatenate([images[..., :1], images[..., :-1]], -1)


def crop(images: np.ndarray) -> np.ndarray:
    """The middle 28×28 of 32×32, enlarged."""
    rows = [
        np.asarray(
            Image.fromarray(image.transpose(1, 2, 0)).resize((32, 32), box=(2, 2, 30, 30))
        ).transpose(2, 0, 1)
        for image in images
    ]
    return np.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["shift", "crop", "brightness", "noise", "pairs", "mirror", "none"]
)
def test_copies_that_are_5_percent_of_the_images_are_found(shared_data: Path, kind: str):
    """CIFAR-10: 1,000 training, 1,000 held-out and 1,000 generated images in 5 splits."""
    cifar = open_images(shared_data / "cifar10-jpeg-test.zip").images
    rng = np.random.default_rng(9)
    p_values, shares = [], []
    for _ in range(5):
        order = rng.permutation(len(cifar))
        training, holdout, generated = (
            cifar[np.sort(order[start : start + 1000])].copy() for start in (0, 1000, 2000)
        )
        source = rng.choice(500, 50, replace=False)
        if kind == "pairs":  # each twice in the training set, 9 levels apart, copied with noise 4
            training[500:] = noisy(rng, training[:500], 9)
        if kind != "none":
            copy_of = {
                "shift": shift,
                "crop": crop,
                "brightness": lambda x: (x.astype(int) + 20).clip(0, 255),
                "noise": lambda x: noisy(rng, x, 24),
                "pairs": lambda x: noisy(rng, x, 4),
                "mirror": lambda x: x[..., ::-1],
            }[kind]
            generated[:50] = copy_of(training[source])
        found = measure(training, holdout, generated)
        p_values.append(found.p)
        shares.append(found.share)
    print(kind, f"p {np.median(p_values):.3f} to {max(p_values):.3f}, share {np.mean(shares):.3f}")
    if kind in ("mirror", "none"):
        assert np.median(p_values) > 0.05
    else:
        assert np.median(p_values) <= 0.01
