"""Ranks against their definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memaudit.audit.statistics.ranks import average_ranks


@given(values=st.lists(st.integers(-5, 5) | st.floats(-5, 5)))
def test_a_rank_counts_the_smaller_numbers_and_half_of_the_equal_ones(values: list[float]):
    expected = [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]
    assert average_ranks(np.array(values)).tolist() == expected
