"""Any rank but 0: it works on blocks until rank 0 says that the job has ended."""

import time
from collections.abc import Mapping

from memaudit.ranks.board import (
    LOOK,
    POLL,
    SESSION,
    DroppedError,
    Handler,
    Store,
    answer,
    asked,
    read,
    work_on,
)
from memaudit.ranks.message import pack_error


class Worker:
    """Takes block after block of the session that rank 0 leads."""

    def __init__(self, store: Store, rank: int) -> None:
        self.rank = rank
        self._store = store
        self._session = ""
        self._num_answered = 0
        self._last_look = 0.0

    def serve(self, handlers: Mapping[str, Handler]) -> int:
        """Work on blocks, and return the exit status of rank 0 when it has one.

        Args:
            handlers: what this rank can do, by the names of tasks.
        """
        self._wait_for_session()
        number: int | None = None
        while True:
            if number is None:
                number = self._store.add(f"{self._session}/taken", 1) - 1
                self._store.set(f"{self._session}/owner/{number}", str(self.rank))
            self._answer(dict(handlers))
            block = read(self._store, f"{self._session}/block/{number}")
            if block is None:
                if (status := self.status) is not None:
                    return status
                if self._has_new_session():
                    number = None
                time.sleep(POLL)
            else:
                if block:
                    self._work_on(number, block, dict(handlers))
                number = None

    def fail(self, error: Exception) -> int:
        """Tell rank 0 why this rank cannot begin, and return the exit status when there is one.

        Mostly rank 0 fails in the same way, and says so itself.
        """
        session = self._wait_for_session()
        self._store.set(f"{session}/failed", pack_error(error, self.rank))
        while (status := self.status) is None:
            time.sleep(POLL)
        return status

    @property
    def status(self) -> int | None:
        """The exit status of rank 0, or None until the job has ended."""
        ended = read(self._store, f"{self._session}/end")
        return None if ended is None else int(ended)

    def _work_on(self, number: int, block: bytes, handlers: dict[str, Handler]) -> None:
        key = f"{self._session}/block/{number}"

        def look() -> None:
            self._answer(handlers)
            if time.monotonic() - self._last_look < LOOK:
                return
            self._last_look = time.monotonic()
            if self.status is not None or not read(self._store, key) or self._has_new_session():
                raise DroppedError

        try:
            data = work_on(self._store, self.rank, block, handlers, look)
        except DroppedError:
            return
        self._store.set(f"{self._session}/result/{number}", data)
        self._store.add(f"{self._session}/results", 1)

    def _answer(self, handlers: dict[str, Handler]) -> None:
        """Answer what this rank alone is asked, also amid the work on a block: rank 0 waits."""
        key = asked(self._session, self.rank, self._num_answered)
        while (block := read(self._store, key)) is not None:
            self._store.delete_key(key)
            if block:
                found = work_on(self._store, self.rank, block, handlers, lambda: None)
                self._store.set(answer(self._session, self.rank, self._num_answered), found)
            self._num_answered += 1
            key = asked(self._session, self.rank, self._num_answered)

    def _wait_for_session(self) -> str:
        while not self._session and not self._has_new_session():
            time.sleep(POLL)
        return self._session

    def _has_new_session(self) -> bool:
        """Whether rank 0 leads another session than the one known: it was started again."""
        found = read(self._store, SESSION)
        if found is None or found.decode() == self._session:
            return False
        self._session, self._num_answered = found.decode(), 0
        return True
