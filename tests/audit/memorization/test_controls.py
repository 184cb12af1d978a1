"""The floor of the gate, by leave-one-out and by held-out images, and what it may excuse."""

from fractions import Fraction

import numpy as np
import pytest
from helpers.images import smooth_images

from memaudit import ScanConfig, scan
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.memorization.sensitivity import contradicts
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.result import ScanResult
from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.data.images import ImageSet

RADII = (0.0, 4.0, 8.0, 16.0, 90.0)
GATE = ScanConfig(fail_above=0.01, without=("recall", "label_test", "blind_baseline", "copying"))


def noisy(images: np.ndarray, rms: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, rms, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def templates(num_images: int, seed: int, rms: float = 5) -> np.ndarray:
    chosen = np.random.default_rng(seed).integers(40, size=num_images)
    return noisy(smooth_images(40, 8, seed=99)[chosen], rms, seed)


def named(images: np.ndarray, name: str) -> ImageSet:
    return ImageSet(images, [f"{name}/{i}.png" for i in range(len(images))], source=name)


def judge(
    generated: np.ndarray, train: np.ndarray, holdout: np.ndarray | None = None
) -> ScanResult:
    others = None if holdout is None else named(holdout, "holdout")
    return scan(named(generated, "made"), named(train, "train"), holdout=others, config=GATE)


@pytest.mark.parametrize("flips", [False, True])
def test_leave_one_out_finds_what_all_distances_say(flips: bool):
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 256, (12, 3, 4, 4))
    images = noisy(kinds[rng.integers(12, size=60)], 4)
    images[40:44], images[44:46] = images[3], images[5]
    found = NeighborIndex(images, flips=flips).leave_one_out(np.arange(60), duplicate_rms=RADII)

    rows, mirrored = (x.reshape(60, -1).astype(int) for x in (images, images[..., ::-1]))
    S = np.square(rows[:, None] - rows).sum(-1)
    if flips:
        S = np.minimum(S, np.square(mirrored[:, None] - rows).sum(-1))
    for i in range(60):
        order = [j for j in np.argsort(S[i], kind="stable") if S[i, j] > 0]
        assert found.index[i].tolist() == order[:2]
        assert found.squared_distance[i].tolist() == S[i, order[:2]].tolist()
        for r, radius in enumerate(RADII):
            apart = [j for j in order if S[order[0], j] > radius**2 * 48]
            assert found.index_distinct[r, i] == (apart[0] if apart else -1)


def test_leave_one_out_passes_over_many_equal_images():
    images = smooth_images(50, 8, seed=0)
    images[10:40] = images[0]
    found = NeighborIndex(images).leave_one_out(np.array([0, 45]), duplicate_rms=(0.0, 8.0))
    S = np.square(images.reshape(50, -1).astype(int)[:, None] - images.reshape(50, -1)).sum(-1)
    nearest = np.where(S[0] > 0, S[0], S.max()).argmin()
    assert found.index[0, 0] == nearest and found.squared_distance[0, 0] == S[0, nearest]
    assert (found.index[0] != 0).all() and not set(found.index[0]) & set(range(10, 40))


def test_images_from_which_no_two_others_differ_are_left_out():
    images = np.zeros((5, 1, 2, 2), dtype=np.uint8)
    index = NeighborIndex(images)
    assert len(index.leave_one_out(np.arange(5), duplicate_rms=(8.0,))) == 0
    images[4] = 200
    found = NeighborIndex(images).leave_one_out(np.arange(5), duplicate_rms=(8.0,))
    assert found.index.tolist() == [[0, 1]]  # those of the last image


@pytest.mark.parametrize("with_holdout", [False, True])
def test_draws_of_templates_never_fail(with_holdout: bool):
    holdout = templates(300, 2) if with_holdout else None
    result = judge(templates(300, 3), templates(600, 1), holdout)
    assert result.ratios.copies.ratio == 1 and result.controls.leave_one_out.copies.ratio == 1
    assert result.verdict == "INCONCLUSIVE"
    (reason,) = result.conclusion.reasons
    assert reason.kind == ("dense" if with_holdout else "floor")


@pytest.mark.parametrize("with_holdout", [False, True])
def test_flat_colors_never_fail(with_holdout: bool):
    def flat(num_images: int, seed: int) -> np.ndarray:
        colors = np.random.default_rng(seed).integers(0, 256, (num_images, 3, 1, 1))
        return noisy(np.broadcast_to(colors, (num_images, 3, 8, 8)), 2, seed)

    result = judge(flat(500, 3), flat(3000, 1), flat(500, 2) if with_holdout else None)
    assert result.ratios.copies.count > 0
    assert result.verdict != "FAIL"


def test_copies_above_the_limit_and_the_floor_fail():
    train, fresh = smooth_images(400, 8, seed=1), smooth_images(600, 8, seed=3)
    made = np.concatenate([noisy(train[:40], 2), fresh])
    for holdout in (None, smooth_images(500, 8, seed=2)):
        result = judge(made, train, holdout)
        assert result.verdict == "FAIL"
        assert result.decision.fail_limit > 0.01
        assert "floor" in result.conclusion.about


def test_planted_duplicates_in_the_training_set_buy_no_pass():
    fresh = smooth_images(800, 8, seed=3)
    train = smooth_images(300, 8, seed=1)
    planted = np.concatenate([train, noisy(train, 5)])
    result = judge(np.concatenate([noisy(train[:40], 2), fresh]), planted)
    assert result.controls.leave_one_out.copies.ratio > 0.5
    assert result.verdict == "INCONCLUSIVE"
    assert result.conclusion.reasons[0].kind == "floor"
    assert "held-out images" in result.conclusion.advice


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_held_out_images_near_training_images_are_set_apart_and_named(share: float):
    train = smooth_images(400, 8, seed=1)
    holdout = smooth_images(400, 8, seed=2)
    holdout[: round(400 * share)] = noisy(train[: round(400 * share)], 4)
    made = np.concatenate([noisy(train[:60], 2), smooth_images(600, 8, seed=3)])
    result = judge(made, train, holdout)
    controls = result.controls
    assert controls.num_set_apart == round(400 * share) and not controls.is_dense
    assert controls.set_apart[0] == "holdout/0.png"
    assert controls.holdout.copies.total == 400 - controls.num_set_apart
    assert result.verdict == "FAIL"
    assert "holdout/0.png" in result.summary()


def test_a_hold_out_of_nothing_but_noisy_training_images_excuses_nothing():
    train = smooth_images(200, 8, seed=1)
    made = np.concatenate([noisy(train[:60], 2), smooth_images(600, 8, seed=3)])
    result = judge(made, train, noisy(train, 4))
    assert result.controls.holdout is None
    assert result.verdict == "INCONCLUSIVE"


def test_copies_of_images_with_a_neighbor_beyond_the_radius_do_not_pass():
    train = smooth_images(500, 16, seed=1)
    twins = noisy(train, 9, seed=5)
    copies = noisy(train[:100], 4, seed=6)
    made = np.concatenate([copies, smooth_images(1900, 16, seed=3)])
    result = judge(made, np.concatenate([train, twins]), smooth_images(500, 16, seed=2))
    assert result.verdict != "PASS"


def test_a_count_that_only_another_radius_sees_makes_a_pass_inconclusive():
    train = smooth_images(500, 16, seed=1)
    twins = noisy(train, 14, seed=5)
    made = np.concatenate([noisy(train[:100], 11, seed=6), smooth_images(1900, 16, seed=3)])
    result = judge(made, np.concatenate([train, twins]), smooth_images(500, 16, seed=2))
    assert result.decision.verdict == "PASS"
    assert result.verdict == "INCONCLUSIVE"
    assert "depends on the radius" in result.conclusion.headline
    at_16 = [row for row in result.findings.sensitivity if row.duplicate_rms == 16]
    assert any(row.contradicts for row in at_16 if row.threshold == Fraction(1, 3))


def test_an_image_within_the_radius_of_a_training_image_is_a_copy_whatever_its_ratio():
    base = np.full((1, 1, 8, 8), 100, dtype=np.uint8)
    train = np.concatenate([base, base + 10, smooth_images(30, 8, seed=1)[:, :1]])
    result = judge(base + 5, train)
    assert result.matches.distance_ratio[0] == 1
    assert result.ratios.distinct.count == 0 and result.ratios.copies.count == 1


def test_a_cell_contradicts_only_beyond_its_floor_and_the_limit():
    def share(count: int, total: int):
        return clopper_pearson(count, total)

    def against(ratio, *floors, by_ratio=False):
        return contradicts(ratio, floors, 0.01, by_ratio=by_ratio)

    assert against(share(40, 2000), share(0, 1000))
    assert not against(share(15, 2000), share(0, 1000))  # below the limit
    assert not against(share(40, 2000), share(20, 1000))  # explained by the floor
    assert not against(share(2000, 2000), share(1000, 1000))
    assert not against(share(3, 100), share(0, 20))  # not beyond chance
    assert against(share(40, 2000), share(20, 1000), share(0, 1000))  # one floor does not explain
    assert against(share(40, 2000), share(20, 1000), by_ratio=True)  # no control excuses so much
    assert not against(share(25, 2000), share(20, 1000), by_ratio=True)
    assert against(share(40, 2000))  # there is no control


def test_the_rule_of_a_scan_is_that_of_its_controls():
    train, holdout = smooth_images(100, 8, seed=1), smooth_images(50, 8, seed=2)
    config = ScanConfig(rule=Rule(Fraction(1, 2), 5.0), without=GATE.without)
    result = scan(holdout[:20], train, holdout=named(holdout[20:], "holdout"), config=config)
    cells = result.controls.holdout.cells
    own = [row for row in cells if (row.threshold, row.duplicate_rms) == (Fraction(1, 2), 5.0)]
    assert len(own) == 1 and own[0].count <= result.controls.holdout.copies.count


def test_no_control_buys_a_pass():
    """Twins of training images, or copies among the held-out images, raise a floor: no excuse."""
    rng = np.random.default_rng(0)

    def images(number):
        return np.kron(rng.normal(128, 20, (number, 3, 8, 8)), np.ones((2, 2)))

    def moved(originals, levels):
        noise = rng.normal(0, levels, originals.shape)
        return (originals + noise).clip(0, 255).round().astype(np.uint8)

    originals = images(300)
    fresh = images(950).clip(0, 255).astype(np.uint8)
    config = ScanConfig(fail_above=0.01, without=("recall",))

    twins = np.concatenate([moved(originals, 0), moved(originals[:30], 11)])
    near = np.concatenate([moved(np.tile(originals[:30], (4, 1, 1, 1)), 10.5), fresh])
    assert scan(near, twins, config=config).conclusion.verdict == "INCONCLUSIVE"

    held_out = moved(images(600), 0)
    held_out[:60] = moved(originals[:60], 8.6)
    far = np.concatenate([moved(originals[:50], 12), fresh])
    found = scan(far, moved(originals, 0), holdout=held_out, config=config)
    assert found.conclusion.verdict == "INCONCLUSIVE"


def test_a_low_confidence_does_not_call_two_like_sets_different():
    train, holdout = smooth_images(60, 8, seed=1), smooth_images(60, 8, seed=2)
    config = ScanConfig(rule=Rule(confidence=0.5), without=("recall", "label_test", "copying"))
    found = scan(train[:5], train, holdout=holdout, config=config)
    assert found.diagnostics.blind_baseline.confidence == 0.95


def test_a_label_test_that_was_asked_for_and_did_not_run_is_no_pass():
    train, made = smooth_images(100, 8, seed=1), smooth_images(500, 8, seed=2)
    config = ScanConfig(fail_above=0.01, fail_on=("label_test",), without=("recall",))
    bright = np.clip(smooth_images(100, 8, seed=3) * 0.5, 0, 255).astype(np.uint8)
    found = scan(made, train, holdout=named(bright, "holdout"), config=config).conclusion
    assert found.verdict == "INCONCLUSIVE" and "differ by themselves" in found.reasons[-1].text
