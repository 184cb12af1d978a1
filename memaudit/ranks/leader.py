"""Rank 0: it cuts the work into blocks, works itself, and gets the results in their order."""

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence

from memaudit.errors import MemauditError
from memaudit.ranks.board import (
    LOOK,
    POLL,
    SESSION,
    Handler,
    Store,
    alive,
    answer,
    asked,
    read,
    work_on,
)
from memaudit.ranks.message import Message, error_in, unpack

AHEAD = 16
"""Blocks per rank that may be done before the one that is next in order: a slow rank holds up
nobody for long."""
LOST_AFTER = 60.0
"""Seconds without a sign of life after which a rank's blocks are taken from it. The launcher itself
notices a process that ended; this is for machines that do not answer."""


class Leader:
    """Shares out blocks among the ranks, of which it is one."""

    def __init__(self, store: Store, num_ranks: int, *, lost_after: float = LOST_AFTER) -> None:
        self.num_ranks = num_ranks
        self.handlers: dict[str, Handler] = {}
        """What rank 0 itself can do, by the names of tasks; the other ranks can do the same."""
        self.is_sharing = False
        """Whether others help with what rank 0 samples now."""
        self._store = store
        self._session = f"memaudit/{secrets.token_hex(8)}"
        self._num_blocks = self._num_results = self._num_asked = 0
        self._asking = threading.Lock()
        self._ticket: int | None = None
        self._blocks: dict[int, bytes] = {}
        self._on_arrival: dict[int, Callable[[Message], None]] = {}
        self._arrived: dict[int, Message | Exception] = {}
        self._mine: deque[int] = deque()
        self._last_look = 0.0
        self._lost = _LostRanks(store, self._session, num_ranks, lost_after)
        store.set(SESSION, self._session)

    def end(self, status: int) -> None:
        """Let the other ranks end, with this exit status."""
        self._store.set(f"{self._session}/end", str(status))

    def spread(
        self,
        blocks: Iterable[bytes],
        *,
        on_arrival: Callable[[int, Message], None] = lambda place, message: None,
    ) -> Generator[Message]:
        """Have the blocks worked on, and give what comes of them in the order of the blocks.

        Blocks are handed out ahead of what is asked for. Those that nobody asks for any more, when
        the iterator is closed, are dropped.

        Args:
            blocks: messages, each with a `task`.
            on_arrival: told each block's place and its result as soon as it is there, in any order.

        Raises:
            MemauditError: what a block ended with, when it is next in order; two ranks died on it;
                a rank could not begin.
        """
        coming = enumerate(blocks)
        pending: deque[int] = deque()
        try:
            while True:
                while len(pending) < AHEAD * self.num_ranks:
                    place, block = next(coming, (0, None))
                    if block is None:
                        break
                    pending.append(self._hand_out(block, place, on_arrival))
                if not pending:
                    return
                found = self._wait_for(pending[0])
                pending.popleft()
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            for number in pending:
                self._drop(number)

    def ask_each(self, blocks: Sequence[bytes]) -> list[Message]:
        """Have each rank work on a block of its own, at once, and give what comes of them.

        For work that a rank is prepared for, such as a part of the training images that it holds.

        Args:
            blocks: messages with a `task`, one per rank, or for the first ranks.

        Raises:
            MemauditError: what a block ended with.
        """
        with self._asking:  # parts of a search come from several threads
            return self._ask_each(blocks)

    def _ask_each(self, blocks: Sequence[bytes]) -> list[Message]:
        number, self._num_asked = self._num_asked, self._num_asked + 1
        for rank, block in enumerate(blocks[1:], 1):
            self._store.set(asked(self._session, rank, number), block)
        for rank in range(len(blocks), self.num_ranks):
            self._store.set(asked(self._session, rank, number), b"")
        answers = [work_on(self._store, 0, blocks[0], self.handlers, self._look)]
        for rank, block in enumerate(blocks[1:], 1):
            key = answer(self._session, rank, number)
            while (data := read(self._store, key)) is None:
                self._collect()
                if self._lost.is_silent(rank):
                    data = work_on(self._store, 0, block, self.handlers, self._look)
                    break
                time.sleep(POLL)
            self._store.delete_key(key)
            answers.append(data)
        messages = list(map(unpack, answers))
        for message in messages:
            if (error := error_in(message)) is not None:
                raise error
        return messages

    def _hand_out(
        self, block: bytes, place: int, on_arrival: Callable[[int, Message], None]
    ) -> int:
        number = self._num_blocks
        self._num_blocks += 1
        self._blocks[number] = block
        self._on_arrival[number] = lambda message: on_arrival(place, message)
        self._store.set(self._key("block", number), block)
        return number

    def _wait_for(self, number: int) -> Message | Exception:
        while number not in self._arrived:
            self._collect()
            if number in self._arrived:
                break
            if (mine := self._next_of_mine()) is None:
                time.sleep(POLL)
                continue
            data = work_on(self._store, 0, self._blocks[mine], self.handlers, self._look)
            self._arrive(mine, data)
        return self._arrived.pop(number)

    def _next_of_mine(self) -> int | None:
        """A block for rank 0 to work on: one that a lost rank had, or the next of the queue."""
        while self._mine:
            if (number := self._mine.popleft()) in self._blocks:
                return number
        taken = self._key("taken")
        if self._ticket is None and self._store.add(taken, 0) < self._num_blocks:
            self._ticket = self._store.add(taken, 1) - 1  # others may have been faster meanwhile
        if self._ticket is None or self._ticket >= self._num_blocks:
            return None
        number, self._ticket = self._ticket, None
        return number if number in self._blocks else self._next_of_mine()

    def _look(self) -> None:
        """See what has arrived while rank 0 works itself."""
        if time.monotonic() - self._last_look >= LOOK:
            self._collect()

    def _collect(self) -> None:
        """Take over the results that are there, and look for ranks that are not."""
        self._last_look = time.monotonic()
        failed = read(self._store, f"{self._session}/failed")
        if failed is not None:
            raise error_in(unpack(failed)) or MemauditError("A rank could not begin.")
        num_results = self._store.add(self._key("results"), 0)
        if num_results != self._num_results:
            self._num_results = num_results
            for number in list(self._blocks):
                data = read(self._store, self._key("result", number))
                if data is not None:
                    self._store.delete_key(self._key("result", number))
                    self._arrive(number, data)
        self._mine.extend(n for n in self._lost.blocks(self._blocks) if n not in self._mine)

    def _arrive(self, number: int, data: bytes) -> None:
        if number not in self._blocks:  # two ranks have worked on it
            return
        self._forget(number)
        message = unpack(data)
        error = error_in(message)
        self._arrived[number] = error or message
        on_arrival = self._on_arrival.pop(number)
        if error is None:
            on_arrival(message)

    def _drop(self, number: int) -> None:
        self._arrived.pop(number, None)
        self._on_arrival.pop(number, None)
        if number in self._blocks:
            self._forget(number)

    def _forget(self, number: int) -> None:
        del self._blocks[number]
        # Not removed: whoever drew its number looks for it.
        self._store.set(self._key("block", number), b"")

    def _key(self, name: str, number: int | None = None) -> str:
        return f"{self._session}/{name}" + ("" if number is None else f"/{number}")


class _LostRanks:
    """Finds the blocks of ranks that give no sign of life any more."""

    def __init__(self, store: Store, session: str, num_ranks: int, lost_after: float) -> None:
        self._store, self._session, self._lost_after = store, session, lost_after
        now = time.monotonic()
        self._beats = dict.fromkeys(range(num_ranks), (0, now))
        self._unclaimed: dict[int, float] = {}
        self._last_look = now

    def is_silent(self, rank: int) -> bool:
        """Whether a rank has given no sign of life for too long."""
        self.blocks(())
        return time.monotonic() - self._beats[rank][1] > self._lost_after

    def blocks(self, pending: Iterable[int]) -> list[int]:
        """Those of the pending blocks that nobody will return."""
        now = time.monotonic()
        if now - self._last_look < self._lost_after / 10:
            return []
        self._last_look = now
        for rank, (beats, _) in self._beats.items():
            found = self._store.add(alive(rank), 0)
            if found != beats:
                self._beats[rank] = (found, now)
        taken = self._store.add(f"{self._session}/taken", 0)
        return [n for n in pending if n < taken and self._is_lost(n, now)]

    def _is_lost(self, number: int, now: float) -> bool:
        owner = read(self._store, f"{self._session}/owner/{number}")
        if owner == b"0":
            return False
        if owner is None:  # it died between drawing the number and saying so, or is about to
            since = self._unclaimed.setdefault(number, now)
        else:
            since = self._beats[int(owner)][1]
        return now - since > self._lost_after
