"""Run the parts of a search in parallel on the CPU, one thread each.

Threads that share an operation wait for each other at its every step, and spin while they wait:
when another program took a core, that made a search 13 times slower. Threads that each have a part
of their own wait once; on an idle machine that is also a quarter faster.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

SMALLEST_PART = 32
_lock = threading.RLock()  # a whole program may run in one thread, searches included


@contextmanager
def one_thread() -> Iterator[int]:
    """Let torch compute with one thread; yields how many threads it had.

    Torch keeps that number for the whole process, so only one caller at a time may enter.
    """
    with _lock:
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield num_threads
        finally:
            torch.set_num_threads(num_threads)


def map_parts(
    function: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    rows: np.ndarray,
    *,
    largest: int,
    device: torch.device,
) -> tuple[np.ndarray, ...]:
    """Cut rows into parts and apply the function to each, in as many threads as torch has.

    Inside, torch computes with one thread, and `function` must not call `map_parts`. On a GPU, the
    parts run one after another.

    Args:
        function: takes a part of the rows; returns arrays with an entry for each of its rows.
        rows: positions, int64 [B].
        largest: most rows of a part.
        device: where the function computes.

    Returns:
        The arrays, concatenated in the order of the rows.
    """
    if device.type != "cpu":
        return _joined([function(part) for part in _cut(rows, largest)])
    with one_thread() as num_threads:
        fair_share = -(-len(rows) // num_threads)
        parts = _cut(rows, min(largest, max(SMALLEST_PART, fair_share)))
        pool = ThreadPoolExecutor(num_threads)
        try:
            return _joined(list(pool.map(function, parts)))
        finally:
            pool.shutdown(cancel_futures=True)


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Parts of `size` rows, the last one possibly shorter; one empty part if there are no rows."""
    return [rows[start : start + size] for start in range(0, max(1, len(rows)), size)]


def _joined(results: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate(arrays) for arrays in zip(*results, strict=True))
