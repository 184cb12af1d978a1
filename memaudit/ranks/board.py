"""The key-value store that ranks share, and the keys in it.

It is the launcher's own, which outlives a rank that dies; where the launcher has none for its
ranks, rank 0's. Keys of a session begin with its random name, so that what an earlier command or
attempt of the same launch left is not taken for this one's.
"""

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol, cast

from memaudit.errors import MemauditError
from memaudit.ranks.message import Message, pack_error, unpack
from memaudit.ranks.place import Place

POLL = 0.02
"""Seconds between two looks at the store while there is nothing else to do."""
LOOK = 0.5
"""Seconds between two looks at it amid the work on a block."""
PULSE = 1.0
"""Seconds between two signs of life."""
SESSION = "memaudit/session"
"""Key of the name of the session that rank 0 leads."""
MOST_DEATHS = 2
"""Ranks that may die while they work on one block, before the job ends with an error."""

Handler = Callable[[Message, Callable[[], None]], bytes]
"""Does a block's work: gets its message and a function to call now and then, and gives another."""


class Store(Protocol):
    """What is used of torch.distributed's stores."""

    def set(self, key: str, value: str | bytes, /) -> Any: ...
    def get(self, key: str, /) -> bytes: ...
    def add(self, key: str, value: int, /) -> int: ...
    def check(self, keys: list[str], /) -> bool: ...
    def delete_key(self, key: str, /) -> bool: ...


def connect(place: Place) -> Store:
    """Open the store of this launch."""
    import torch.distributed as dist

    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store: Any = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=place.rank == 0 and not is_agents,
        wait_for_workers=False,
        timeout=timedelta(minutes=5),
    )
    return cast(Store, store)


def read(store: Store, key: str) -> bytes | None:
    """The value of a key, or None if there is none; never waits for it."""
    return bytes(store.get(key)) if store.check([key]) else None


def alive(rank: int) -> str:
    """The key at which a rank counts its signs of life."""
    return f"memaudit/alive/{rank}"


def asked(session: str, rank: int, number: int) -> str:
    """The key of the block with a number that is for one rank alone."""
    return f"{session}/asked/{rank}/{number}"


def answer(session: str, rank: int, number: int) -> str:
    """The key of what became of it."""
    return f"{session}/answer/{rank}/{number}"


def work_on(
    store: Store,
    rank: int,
    block: bytes,
    handlers: dict[str, Handler],
    look: Callable[[], None],
) -> bytes:
    """Do the work of a block; an error is part of what comes of it.

    Args:
        store: where deaths are counted, beyond the restarts of the ranks.
        rank: this rank.
        block: the message that describes it.
        handlers: by the names of tasks.
        look: called now and then meanwhile.
    """
    deaths = f"memaudit/deaths/{hashlib.sha256(block).hexdigest()[:32]}"
    # Counted before the work and taken back after it: whoever dies meanwhile cannot take it back.
    died = store.add(deaths, 1) - 1
    try:
        if died >= MOST_DEATHS:
            raise MemauditError(
                f"{died} ranks died while they worked on the same images. Is there enough memory? "
                "The system's log may say what ended them."
            )
        message = unpack(block)
        return handlers[message.about["task"]](message, look)
    except Exception as error:
        if isinstance(error, DroppedError):
            raise
        return pack_error(error, rank)
    finally:
        store.add(deaths, -1)


class DroppedError(Exception):
    """Nobody wants the block any more."""


@contextmanager
def pulse(store: Store, rank: int) -> Iterator[None]:
    """Give signs of life within the context, and end this process when the launcher has ended.

    A rank that outlived its launcher would write into a folder that the next command resumes.
    """
    launcher, ended = os.getppid(), threading.Event()

    def beat() -> None:
        while not ended.wait(PULSE):
            if os.getppid() != launcher:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            try:
                store.add(alive(rank), 1)
            except RuntimeError:  # the store has ended: whoever needs it will notice
                return

    thread = threading.Thread(target=beat, name="pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
