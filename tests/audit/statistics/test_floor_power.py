"""What held-out images allow a gate to show."""

import pytest

from memaudit.audit.statistics.floor_power import floor_power, gate_power_text
from memaudit.audit.statistics.intervals import clopper_pearson


def test_the_upper_limit_of_no_flagged_images_has_a_closed_form():
    found = floor_power(0, 4000, limit=0.001)
    assert found.upper == pytest.approx(1 - 0.025 ** (1 / 4000))
    assert found.test.ends == (0.001, pytest.approx(0.001 + 0.999 * found.upper))
    assert found.test.fail_confidence == pytest.approx(0.975)
    assert not found.is_enough


@pytest.mark.parametrize(("count", "total"), [(0, 100), (0, 4000), (1, 4000), (8, 100_000)])
def test_the_number_that_would_do_does(count: int, total: int):
    limit = 0.001
    needed = floor_power(count, total, limit=limit).num_needed
    assert needed is not None
    floor = count / total
    assert clopper_pearson(round(floor * needed), needed).high <= floor + 0.11 * limit
    if not count:
        assert floor_power(0, needed, limit=limit).is_enough


def test_the_sentence_says_what_cannot_be_shown_and_what_would_do():
    few = gate_power_text(0.001, 0.95, 0, 4000)
    assert "cannot be told from the floor" in few
    assert "0.092 % wide" in few and "above 0.19 % can FAIL; 40,000 would do" in few
    assert "0.0092 % or less" in gate_power_text(0.001, 0.95, 0, 40_000)
    assert "would not help" in gate_power_text(0.001, 0.95, 30, 4000)
    assert "Without held-out images" in gate_power_text(0.001, 0.95, 0, 0)
    few = gate_power_text(0.001, 0.95, 2, 3000, control="leave-one-out")
    assert few.startswith(
        "With 3,000 training images (2 of them flagged), each judged among the others, a limit"
    )
