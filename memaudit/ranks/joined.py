"""The launch that this process is part of: joined once, when the program starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from memaudit.ranks.place import Place

if TYPE_CHECKING:
    from memaudit.ranks.leader import Leader
    from memaudit.ranks.worker import Worker

_place: Place | None = None
_leader: "Leader | None" = None
_worker: "Worker | None" = None


@contextmanager
def join(place: Place) -> Iterator[None]:
    """Be a rank of the launch within the context."""
    from memaudit.ranks.board import connect, pulse
    from memaudit.ranks.leader import Leader
    from memaudit.ranks.worker import Worker

    global _place, _leader, _worker
    store = connect(place)
    _place = place
    with pulse(store, place.rank):
        if place.rank:
            _worker = Worker(store, place.rank)
        else:
            _leader = Leader(store, place.num_ranks)
        try:
            yield
        finally:
            _place = _leader = _worker = None


def joined_place() -> Place | None:
    """This process's place, if it shares its work with others."""
    return _place


def current_leader() -> "Leader | None":
    """The leader, if this process is rank 0 of a launch."""
    return _leader


def current_worker() -> "Worker | None":
    """The worker, if this process is another rank of a launch."""
    return _worker


def num_sharing() -> int:
    """Number of processes that share the sampling which this one does now."""
    return _leader.num_ranks if _leader is not None and _leader.is_sharing else 1
