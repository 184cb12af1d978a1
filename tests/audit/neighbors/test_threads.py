"""Parts are put together in order, torch's threads are given back, errors come through."""

import threading

import numpy as np
import pytest
import torch

from memaudit.audit.neighbors.threads import map_parts

CPU = torch.device("cpu")


@pytest.fixture
def three_threads():
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("num_rows", [0, 1, 31, 100, 1000])
def test_parts_are_put_together_in_order(three_threads, num_rows):
    rows = np.random.default_rng(0).permutation(num_rows)
    squares, negatives = map_parts(lambda part: (part**2, -part), rows, largest=64, device=CPU)
    np.testing.assert_array_equal(squares, rows**2)
    np.testing.assert_array_equal(negatives, -rows)


def test_each_thread_has_a_fair_share_and_torch_one_thread(three_threads):
    seen = []

    def look(part):
        seen.append((len(part), torch.get_num_threads()))
        return (part,)

    map_parts(look, np.arange(300), largest=1000, device=CPU)
    assert seen == [(100, 1)] * 3
    assert torch.get_num_threads() == 3


def test_an_error_in_a_part_comes_through_and_gives_the_threads_back(three_threads):
    def fail(part):
        raise ValueError(f"part of {len(part)}")

    with pytest.raises(ValueError, match="part of 64"):
        map_parts(fail, np.arange(300), largest=64, device=CPU)
    assert torch.get_num_threads() == 3


def test_searches_from_several_threads_leave_the_number_of_threads_alone(three_threads):
    def search():
        map_parts(lambda part: (part,), np.arange(100), largest=32, device=CPU)

    threads = [threading.Thread(target=search) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.get_num_threads() == 3
