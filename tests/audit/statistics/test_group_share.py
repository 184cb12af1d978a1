"""The interval and the verdict on the share of groups, against simulated scans."""

import math

import numpy as np
import pytest

from memaudit.audit.statistics.gate import FloorCount
from memaudit.audit.statistics.group_share import copied_share, divergence, judge_groups


def test_the_interval_solves_chernoffs_equation():
    found = copied_share(3, 212, 0.9)
    for p in (found.low, found.high):
        assert 212 * divergence(3 / 212, p) == pytest.approx(math.log(2 / 0.1), rel=1e-9)
    none = copied_share(0, 212, 0.9)
    assert none.low == 0
    assert none.high == pytest.approx(1 - 0.05 ** (1 / 212), rel=1e-9)  # (1 − p)^G = α/2
    assert copied_share(212, 212).high == 1


def copied_in_scans(rates, num_images, repeats, rng):
    """Groups copied in each of some scans, and the true average: groups are copied at `rates`."""
    pieces = np.append(rates, 1 - rates.sum())
    hits = rng.multinomial(num_images, pieces, size=repeats)[:, :-1]
    return (hits > 0).sum(1), (1 - (1 - rates) ** num_images).sum()


@pytest.mark.parametrize("kind", ["equal", "unequal", "few"])
def test_the_interval_covers_the_average_of_scans(kind):
    """However unequal the groups are, and although they share the images."""
    rng = np.random.default_rng(0)
    G = 60
    rates = {
        "equal": np.full(G, 1 / 300),
        "unequal": 0.3 * rng.dirichlet(np.full(G, 0.2)),
        "few": np.append(np.full(5, 0.01), np.zeros(G - 5)),
    }[kind]
    counts, mean = copied_in_scans(rates, 100, 2000, rng)
    interval = {count: copied_share(int(count), G, 0.9) for count in set(counts)}
    covered = [interval[count].low <= mean / G <= interval[count].high for count in counts]
    assert np.mean(covered) >= 0.9


def test_a_clean_model_fails_no_more_often_than_the_level_says():
    """Every image that is counted is a mistake, at the rate that the control has as well."""
    rng = np.random.default_rng(1)
    G, n, m, u, limit = 40, 1000, 1000, 0.01, 0.02
    fails = 0
    for _ in range(300):
        floor = FloorCount("held-out images", int(rng.binomial(m, u)), m)
        counts, mean = copied_in_scans(np.full(G, u / G), n, 1, rng)
        assert mean / G > limit  # by mistake alone, more groups are hit than the limit allows
        found = judge_groups(
            int(counts[0]), G, num_images=n, limit=limit, confidence=0.9, floor=floor
        )
        fails += found.verdict == "FAIL"
    assert fails <= 0.1 * 300


def test_pass_and_fail_are_wrong_no_more_often_than_the_level_says():
    rng = np.random.default_rng(2)
    G, n = 100, 200
    rates = np.append(np.full(10, 0.05), np.zeros(G - 10))
    counts, mean = copied_in_scans(rates, n, 1000, rng)
    for limit, wrong in ((mean / G * 1.0001, "FAIL"), (mean / G * 0.9999, "PASS")):
        verdicts = [
            judge_groups(int(count), G, num_images=n, limit=limit, confidence=0.9).verdict
            for count in counts
        ]
        assert verdicts.count(wrong) <= 0.1 * len(counts)
    assert judge_groups(60, G, num_images=n, limit=0.2).verdict == "FAIL"
    assert judge_groups(2, G, num_images=n, limit=0.2).verdict == "PASS"


def test_without_a_control_nothing_fails():
    empty = FloorCount("held-out images", 0, 0)
    found = judge_groups(100, 100, num_images=500, limit=0.01, floor=empty)
    assert (found.verdict, found.fail_limit) == ("INCONCLUSIVE", 1.0)


@pytest.mark.parametrize(
    ("count", "total", "options"),
    [(3, 2, {}), (-1, 2, {}), (0, 0, {}), (1, 2, {"limit": 1.0}), (1, 2, {"num_images": 0})],
)
def test_arguments_out_of_range_are_refused(count, total, options):
    with pytest.raises(ValueError, match="must be"):
        judge_groups(count, total, **{"num_images": 10, "limit": 0.1, **options})
