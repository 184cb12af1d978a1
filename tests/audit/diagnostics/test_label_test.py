"""The label test on images: the pool, the spaces, and what it finds and must not find."""

import numpy as np
import pytest

from memaudit.audit.diagnostics.label_test import DIAGNOSTIC, LabelTest, draw_pool, label_test
from memaudit.audit.neighbors.pixel_index import NeighborIndex

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
    assert list(DIAGNOSTIC.evidence(found, 0.05)) == [f"label test p = {found.p:.3g}"]
    assert not list(DIAGNOSTIC.evidence(found, 0.0001))


def test_copies_of_held_out_images_do_not_count():
    rng = np.random.default_rng(2)
    training, holdout = draw(rng, 200), draw(rng, 200)
    assert measure(training, holdout, holdout).p == 1


def test_mirrored_copies_are_found_where_the_scan_looks_for_them():
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
