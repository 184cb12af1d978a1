"""The gate with its floor, simulated where the truth is known."""

import numpy as np
import pytest

from memaudit.audit.statistics.gate import FloorCount, log_e_values, sequential_decision

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
