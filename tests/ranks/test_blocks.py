"""Blocks go round among ranks, here threads that share a store, and come back in order."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch.distributed as dist
from helpers import rank_threads

from memaudit.errors import CheckpointError, MemauditError
from memaudit.ranks import board
from memaudit.ranks.board import MOST_DEATHS, Handler, Store
from memaudit.ranks.leader import AHEAD, Leader
from memaudit.ranks.message import Message, error_in, pack, pack_error, unpack
from memaudit.ranks.worker import Worker


def double(message: Message, look: Callable[[], None]) -> bytes:
    """The task of these tests."""
    look()
    return pack({}, x=2 * message.arrays["x"])


def blocks(count: int) -> Iterator[bytes]:
    return (pack({"task": "double"}, x=np.array([i])) for i in range(count))


def numbers(messages: Iterator[Message]) -> list[int]:
    return [int(message.arrays["x"][0]) for message in messages]


def workers(store: Store, *handlers: Handler) -> AbstractContextManager[list[int]]:
    """Workers in threads, one for each handler; the statuses that they end with."""
    return rank_threads.workers(store, *({"double": handler} for handler in handlers))


def lead(store: Store, num_ranks: int, **options: float) -> Leader:
    leader = Leader(store, num_ranks, **options)
    leader.handlers["double"] = double
    return leader


@pytest.fixture
def store() -> Store:
    return dist.HashStore()


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_results_come_in_the_order_of_the_blocks(store: Store, num_ranks: int):
    leader = lead(store, num_ranks)
    with workers(store, *[double] * (num_ranks - 1)) as statuses:
        assert numbers(leader.spread(blocks(40))) == [2 * i for i in range(40)]
        assert numbers(leader.spread(blocks(3))) == [0, 2, 4]
        leader.end(3)
    assert statuses == [3] * (num_ranks - 1)


def test_a_slow_rank_holds_up_nobody(store: Store):
    arrived: list[int] = []

    def slow(message: Message, look: Callable[[], None]) -> bytes:

        time.sleep(0.5)
        return double(message, look)

    leader = lead(store, 2)
    with workers(store, slow):
        time.sleep(0.05)  # it draws the first number
        found = leader.spread(blocks(20), on_arrival=lambda place, _: arrived.append(place))
        assert numbers(found) == [2 * i for i in range(20)]
        leader.end(0)
    assert arrived[0] == 1 and arrived.index(0) > 10  # block 0 came late, the others did not wait


def test_a_second_question_is_answered_before_the_first_has_ended(store: Store):
    leader = lead(store, 2)
    with workers(store, double):
        first = leader.spread(blocks(30))
        assert int(next(first).arrays["x"][0]) == 0
        assert numbers(leader.spread(blocks(5))) == [0, 2, 4, 6, 8]
        assert numbers(first) == [2 * i for i in range(1, 30)]
        leader.end(0)


def test_what_nobody_asks_for_any_more_is_dropped(store: Store):
    done: list[int] = []

    def note(message: Message, look: Callable[[], None]) -> bytes:
        done.append(int(message.arrays["x"][0]))
        for _ in range(40):
            time.sleep(0.01)
            look()
        return double(message, look)

    leader = lead(store, 2)
    with workers(store, note):
        found = leader.spread(blocks(1000))
        next(found)
        found.close()
        assert numbers(leader.spread(blocks(2))) == [0, 2]
        leader.end(0)
    assert len(done) <= 4  # not those that were handed out ahead


def test_blocks_are_cut_only_a_little_ahead(store: Store):
    cut = 0

    def counted() -> Iterator[bytes]:
        nonlocal cut
        for block in blocks(1000):
            cut += 1
            yield block

    found = lead(store, 1).spread(counted())
    next(found)
    assert cut == AHEAD


def test_an_error_is_raised_at_its_place(store: Store):
    def fail(message: Message, look: Callable[[], None]) -> bytes:
        if message.arrays["x"][0] == 3:
            raise CheckpointError("Seed 3: {sigma_min}.", field="sigma_min")
        return double(message, look)

    leader = Leader(store, 2)
    leader.handlers["double"] = fail
    with workers(store, fail):
        found = leader.spread(blocks(9))
        assert [int(next(found).arrays["x"][0]) for _ in range(3)] == [0, 2, 4]
        with pytest.raises(CheckpointError) as raised:
            next(found)
        leader.end(2)
    assert raised.value.worded({"sigma_min": "--sigma-min"}) == "Seed 3: --sigma-min."


def test_a_block_of_a_lost_rank_is_done_by_another(store: Store):
    """A rank that draws a number and gives no sign of life any more, before or after its claim."""
    leader = lead(store, 3, lost_after=0.2)
    session = store.get(board.SESSION).decode()
    for claim in (None, "2"):
        number = store.add(f"{session}/taken", 1) - 1
        if claim is not None:
            store.set(f"{session}/owner/{number}", claim)
    assert numbers(leader.spread(blocks(4))) == [0, 2, 4, 6]


def test_two_deaths_on_one_block_end_the_job(store: Store):
    leader = lead(store, 2)

    def die(message: Message, look: Callable[[], None]) -> bytes:
        raise SystemExit  # whatever ends the process cannot take back its count

    for _ in range(MOST_DEATHS):
        with pytest.raises(SystemExit):
            board.work_on(_Undying(store), 1, next(blocks(1)), {"double": die}, lambda: None)
    with pytest.raises(MemauditError, match="2 ranks died while they worked on the same images"):
        next(leader.spread(blocks(3)))


class _Undying:
    """A store that a dead process does not count down."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, key: str, value: int) -> int:
        return self._store.add(key, max(0, value))


def test_a_rank_that_cannot_begin_is_named(store: Store):
    leader = lead(store, 2)
    worker = threading.Thread(
        target=lambda: Worker(store, 1).fail(RuntimeError("no such file")), daemon=True
    )
    worker.start()
    time.sleep(0.05)
    with pytest.raises(RuntimeError, match="rank 1 on .*: RuntimeError: no such file"):
        next(leader.spread(blocks(1)))
    leader.end(2)
    worker.join(5)


def test_workers_follow_a_leader_that_was_started_again(store: Store):
    lead(store, 2)
    with workers(store, double):
        time.sleep(0.05)
        leader = lead(store, 2)
        assert numbers(leader.spread(blocks(5))) == [0, 2, 4, 6, 8]
        leader.end(0)


def test_each_rank_answers_what_it_alone_is_asked_also_amid_a_block(store: Store):
    def slow(message: Message, look: Callable[[], None]) -> bytes:
        for _ in range(50):
            time.sleep(0.01)
            look()
        return double(message, look)

    def served(rank: int) -> dict[str, Handler]:
        def who(message: Message, look: Callable[[], None]) -> bytes:
            return pack({"rank": rank}, x=message.arrays["x"] + rank)

        return {"double": slow if rank else double, "who": who}

    leader = Leader(store, 3)
    leader.handlers.update(served(0))
    with rank_threads.workers(store, served(1), served(2)):
        found = leader.spread(blocks(20))
        next(found)
        started = time.monotonic()
        for base in (10, 20):
            asked = [pack({"task": "who"}, x=np.array([base])) for _ in range(3)]
            answers = leader.ask_each(asked)
            assert [message.about["rank"] for message in answers] == [0, 1, 2]
            assert numbers(iter(answers)) == [base, base + 1, base + 2]
        assert time.monotonic() - started < 0.4  # not after the blocks under way
        assert len(leader.ask_each(asked[:2])) == 2  # fewer than ranks
        assert len(leader.ask_each(asked)) == 3
        assert len(numbers(found)) == 19
        leader.end(0)


def test_a_silent_rank_is_asked_nothing_twice(store: Store):
    leader = lead(store, 2, lost_after=0.2)
    asked = [pack({"task": "double"}, x=np.array([i])) for i in range(2)]
    assert numbers(iter(leader.ask_each(asked))) == [0, 2]


def test_messages_hold_what_was_packed_and_nothing_that_runs():
    message = unpack(pack({"task": "images", "n": 1}, x=np.arange(3), y=None))
    assert message.about == {"task": "images", "n": 1}
    assert list(message.arrays) == ["x"] and error_in(message) is None
    for data in (b"", b"PK\x03\x04", pack({})[:-30]):
        with pytest.raises(ValueError, match="not a message"):
            unpack(data)
    assert isinstance(error_in(unpack(pack_error(MemoryError("x"), 1))), MemoryError)
