"""One-sided ends agree with the verdicts, and hold the truth at any look."""

import numpy as np
import pytest
from scipy.stats import beta

from memaudit.audit.statistics.gate import exact_decision, log_e_values, sequential_decision
from memaudit.audit.statistics.one_sided import lower_end, upper_end

CASES = [(0, 1), (0, 3787), (1, 2), (3, 40), (39, 40), (40, 40), (12, 5000), (500, 100_000)]


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize(("count", "total"), CASES)
def test_an_end_is_where_the_verdict_turns(count: int, total: int, sequential: bool):
    decide = sequential_decision if sequential else exact_decision
    above = upper_end(count, total, sequential=sequential)
    below = lower_end(count, total, sequential=sequential)
    assert below <= count / total <= above
    if above < 1:
        assert decide(count, total, limit=above * (1 + 1e-7)).verdict == "PASS"
        assert decide(count, total, limit=above * (1 - 1e-7)).verdict != "PASS"
    if below > 0:
        assert decide(count, total, limit=below * (1 - 1e-7)).verdict == "FAIL"
        assert decide(count, total, limit=below * (1 + 1e-7)).verdict != "FAIL"


def test_exact_ends_are_quantiles():
    assert upper_end(3, 40) == pytest.approx(beta.ppf(0.95, 4, 37))
    assert lower_end(3, 40, confidence=0.9) == pytest.approx(beta.ppf(0.1, 3, 38))


def test_an_upper_end_is_below_the_truth_at_any_look_in_few_scans():
    """The end is below p where the verdict at the limit p is PASS: counting those suffices."""
    p, horizon = 0.05, 800
    counts = np.arange(120)
    going = np.zeros(120)
    going[0], wrong = 1.0, 0.0
    for n in range(1, horizon + 1):
        hit = p * going
        going *= 1 - p
        going[1:] += hit[:-1]
        crossed = log_e_values(np.minimum(counts, n), n, limit=p)[1] >= np.log(20)
        wrong += going[crossed].sum()
        going[crossed] = 0
    assert 0 < wrong <= 0.05
