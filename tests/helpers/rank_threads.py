"""Ranks as threads that share a store, where processes would take seconds to start."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from memaudit.ranks.board import Handler, Store
from memaudit.ranks.worker import Worker


@contextmanager
def workers(store: Store, *served: Mapping[str, Handler]) -> Iterator[list[int]]:
    """Ranks from 1 on, each with its handlers; yields the statuses that they end with."""
    statuses: list[int] = []

    def work(rank: int, handlers: Mapping[str, Handler]) -> None:
        statuses.append(Worker(store, rank).serve(handlers))

    threads = [
        threading.Thread(target=work, args=(rank, handlers), daemon=True)
        for rank, handlers in enumerate(served, 1)
    ]
    for thread in threads:
        thread.start()
    yield statuses
    for thread in threads:
        thread.join(10)
