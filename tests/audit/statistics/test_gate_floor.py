"""The gate with its floor, simulated where the truth is known."""

import numpy as np
import pytest

from memaudit.audit.statistics.forecast import GateTest, advice
from memaudit.audit.statistics.gate import (
    FloorCount,
    WholeImages,
    exact_decision,
    log_e_values,
    sequential_decision,
)
from memaudit.audit.verdict_reasons import undecided

LIMIT = 0.001


def share_failing(
    truth: float, floor: float, num_control: int, *, num_runs: int, num_images: int, seed: int
) -> float:
    """Share of runs that ever FAIL within `num_images`, if the control's true share is `floor`."""
    rng = np.random.default_rng(seed)
    looks = np.arange(64, num_images + 1)
    required = np.log(2 / 0.05)
    failed = 0
    for count in rng.binomial(num_control, floor, num_runs):
        control = FloorCount("held-out images", int(count), num_control)
        limit = sequential_decision(0, 1, limit=LIMIT, floor=control).fail_limit
        hits = np.cumsum(rng.random(num_images) < truth)[looks - 1]
        failed += bool((log_e_values(hits, looks, limit=limit)[0] >= required).any())
    return failed / num_runs


@pytest.mark.slow
@pytest.mark.parametrize(("floor", "num_control"), [(0.4, 500), (0.04, 1000), (0.00125, 4000)])
def test_a_model_that_copies_no_more_than_the_limit_rarely_fails(floor: float, num_control: int):
    truth = LIMIT + (1 - LIMIT) * floor
    failing = share_failing(
        truth, floor, num_control, num_runs=400, num_images=4000, seed=num_control
    )
    assert failing <= 0.05


@pytest.mark.slow
def test_one_percent_of_copies_over_a_floor_fails():
    failing = share_failing(
        0.01 + 0.99 * 0.00125, 0.00125, 4000, num_runs=200, num_images=10_000, seed=0
    )
    assert failing >= 0.98


def share_failing_by_two_counts(
    copies: float,
    floors: tuple[float, float],
    num_control: int,
    *,
    num_runs: int,
    num_images: int,
    seed: int,
) -> float:
    """The same where whole images are counted by themselves, too.

    Args:
        copies: share of the images that copy a whole image.
        floors: shares of other images that any rule counts, and that whole images alone count.
        num_control: held-out images.
        num_runs: scans.
        num_images: of each.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    looks = np.arange(64, num_images + 1)
    of_all, of_whole = floors
    failed = 0
    for _ in range(num_runs):
        flagged = rng.random(num_control)
        floor = FloorCount("held-out images", int((flagged < of_all).sum()), num_control)
        whole = FloorCount("held-out images", int((flagged < of_whole).sum()), num_control)
        test = sequential_decision(
            0, 1, limit=LIMIT, floor=floor, whole_images=WholeImages(0, whole)
        )
        assert test.whole_images is not None
        is_copy, flagged = rng.random(num_images) < copies, rng.random(num_images)
        fails = False
        for limit, share in (
            (test.fail_limit, of_all),
            (test.whole_images.fail_limit, of_whole),
        ):
            hits = np.cumsum(is_copy | (flagged < share))[looks - 1]
            fails |= bool((log_e_values(hits, looks, limit=limit)[0] >= test.required_above).any())
        failed += fails
    return failed / num_runs


@pytest.mark.slow
@pytest.mark.parametrize("floors", [(0.4, 0.04), (0.04, 0.00125), (0.00125, 0.00125)])
@pytest.mark.parametrize("num_control", [500, 4000])
def test_two_counts_rarely_fail_a_model_at_the_limit(floors: tuple[float, float], num_control: int):
    failing = share_failing_by_two_counts(
        LIMIT, floors, num_control, num_runs=400, num_images=4000, seed=num_control
    )
    assert failing <= 0.05


@pytest.mark.slow
def test_a_high_floor_of_further_rules_does_not_excuse_whole_images():
    options = {"num_runs": 200, "num_images": 10_000, "seed": 0}
    assert share_failing_by_two_counts(0.01, (0.4, 0.00125), 4000, **options) >= 0.95


@pytest.mark.parametrize("decide", [sequential_decision, exact_decision])
def test_whole_images_fail_by_themselves(decide):
    """Half of the images are counted without copying, and 60 of 1,000 copy whole images."""
    floor, few = (FloorCount("held-out images", count, 1000) for count in (500, 0))
    counted = {"limit": LIMIT, "floor": floor}
    assert decide(540, 1000, **counted).verdict == "INCONCLUSIVE"
    found = decide(540, 1000, **counted, whole_images=WholeImages(60, few))
    assert found.verdict == "FAIL" and found.fails_by_whole_images and not found.is_explained
    assert found.required_above == pytest.approx(np.log(4 / 0.05))
    assert GateTest.of(found).required[1] == pytest.approx(found.required_above)
    assert found.whole_images is not None
    assert found.whole_images.fail_limit == pytest.approx(LIMIT + (1 - LIMIT) * few.upper(0.9875))
    by_all = decide(800, 1000, **counted, whole_images=WholeImages(0, few))
    assert by_all.verdict == "FAIL" and not by_all.fails_by_whole_images
    none = FloorCount("held-out images", 0, 0)
    neither = decide(520, 1000, **counted, whole_images=WholeImages(520, none))
    assert neither.verdict == "INCONCLUSIVE" and neither.is_explained


@pytest.mark.parametrize("decide", [sequential_decision, exact_decision])
def test_what_whole_images_may_yet_show_is_forecast_by_their_count(decide):
    """The floor of further rules explains all that they count, and not all whole images."""
    floor, few = (FloorCount("held-out images", count, 1000) for count in (30, 5))
    found = decide(30, 1000, limit=LIMIT, floor=floor, whole_images=WholeImages(20, few))
    assert found.verdict == "INCONCLUSIVE" and not found.is_explained
    assert found.whole_images is not None
    assert found.may_fail_by == (20, found.whole_images.fail_limit)
    assert "copies by whole images than limit and floor explain together, 1.4 %" in undecided(found)
    said = advice(20, 1000, GateTest.of(found), sequential=decide is sequential_decision)
    assert "would probably decide, as FAIL" in said
    clear = decide(60, 1000, limit=LIMIT, floor=floor, whole_images=WholeImages(20, few))
    assert clear.may_fail_by == (60, clear.fail_limit)


@pytest.mark.parametrize("decide", [sequential_decision, exact_decision])
def test_whole_images_never_turn_a_pass(decide):
    floor = FloorCount("held-out images", 3, 1000)
    for count, total in [(0, 9000), (1, 9000), (20, 9000), (9, 64)]:
        for whole in {0, count}:
            tested = decide(
                count, total, limit=LIMIT, floor=floor, whole_images=WholeImages(whole, floor)
            )
            alone = decide(count, total, limit=LIMIT, floor=floor)
            assert (tested.verdict == "PASS") == (alone.verdict == "PASS")
            assert tested.evidence_below == alone.evidence_below
