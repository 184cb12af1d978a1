"""The share of copies of a screened scan: no bias, and an interval that holds at any count."""

import numpy as np
import pytest

from memaudit.audit.statistics.difference_estimator import screened_share
from memaudit.audit.statistics.intervals import clopper_pearson

RUNS = 500


def simulate(
    share: float, recall: float, num_seeds: int, num_drawn: int
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates with a copy among all seeds, and copies that are none among those drawn: [RUNS].

    The drawn seeds are a part of all, so that both counts depend on each other.
    """
    rng = np.random.default_rng(round(1e6 * share + 1e3 * recall) + num_seeds)
    chances = [share * recall, share * (1 - recall), 1 - share]
    of_drawn = rng.multinomial(num_drawn, chances, RUNS)
    of_rest = rng.multinomial(num_seeds - num_drawn, chances, RUNS)
    return of_drawn[:, 0] + of_rest[:, 0], of_drawn[:, 1]


@pytest.mark.parametrize("num_seeds, num_drawn", [(10_000, 500), (1000, 50), (200, 10)])
@pytest.mark.parametrize("recall", [1.0, 0.98, 0.9])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.66])
def test_the_interval_covers_and_the_estimate_has_no_bias(
    share: float, recall: float, num_seeds: int, num_drawn: int
):
    candidates, missed = simulate(share, recall, num_seeds, num_drawn)
    made = {
        counts: screened_share(counts[0], num_seeds, counts[1], num_drawn)
        for counts in set(zip(candidates.tolist(), missed.tolist(), strict=True))
    }
    found = [made[counts] for counts in zip(candidates.tolist(), missed.tolist(), strict=True)]
    covered = [each.low <= share <= each.high for each in found]
    assert np.mean(covered) >= 0.98
    # Before it is cut to 1: what a share of 66 % of 200 seeds may exceed.
    values = candidates / num_seeds + missed / num_drawn
    error = values.mean() - share
    assert abs(error) <= 4 * values.std() / RUNS**0.5 + 1e-12
    assert all(each.low <= each.value <= each.high for each in found)


def test_nothing_found_is_an_upper_limit_and_not_a_zero():
    found = screened_share(0, 10_000, 0, 500)
    assert found.value == found.low == 0
    # No wider than what the drawn seeds alone show, by more than the part of α of the candidates.
    alone = clopper_pearson(0, 500).high
    assert alone < found.high < 1.15 * alone


def test_all_seeds_drawn_is_nearly_the_plain_interval():
    found, plain = screened_share(0, 300, 30, 300), clopper_pearson(30, 300)
    assert found.value == plain.ratio
    assert found.low < plain.low and plain.high < found.high < plain.high + 0.025


@pytest.mark.parametrize(
    "counts", [(0, 10, 0, 0), (11, 10, 0, 5), (0, 10, 6, 5), (0, 10, 0, 11), (8, 10, 3, 5)]
)
def test_counts_that_cannot_be_are_refused(counts: tuple[int, int, int, int]):
    with pytest.raises(ValueError):
        screened_share(*counts)
