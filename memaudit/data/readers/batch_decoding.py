"""Decode image files in batches, in this process or in several.

Threads are not used: they share one lock, which costs more than decoding a small image.
"""

import multiprocessing
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import NamedTuple

import numpy as np

from memaudit.cores import num_cores
from memaudit.data.fitting import FIT_FIELDS, HOW_TO_FIT, UnlikeError
from memaudit.data.preparation import AS_STORED, Preparation
from memaudit.data.readers.decoding import decode_image
from memaudit.data.readers.jpeg import is_jpeg

# Encoded bytes from which several processes finish sooner than one. One decodes 256 MiB of PNG in
# about 6 s and 1 GiB of JPEG in about 25 s. A process takes 0.5 s of a core to start, and 4 s if
# torch is imported: for JPEG, or by the user's script, which is run again in it.
_PROCESSES_FROM = 256 << 20
_PROCESSES_FROM_JPEG = 1 << 30


_Decoded = tuple[np.ndarray, Counter[str]]
"""Pixels of a batch, and its images that are not plain 8-bit gray or RGB."""


class EncodedBatch(NamedTuple):
    """Consecutive image files: names and bytes, [B] each."""

    names: list[str]
    data: list[bytes]


def decode_batches(
    batches: Iterable[EncodedBatch],
    *,
    source: str,
    shape: tuple[int, int, int],
    first_name: str,
    preparation: Preparation = AS_STORED,
    kinds: Counter[str] | None = None,
    num_processes: int = 1,
) -> Iterator[np.ndarray]:
    """Decode batches in order.

    Processes are spawned, so a script needs the usual `if __name__ == "__main__":`. Without it, all
    images are decoded in the script's own process.

    Args:
        batches: the encoded images.
        source: the path as the user wrote it, for errors.
        shape: (C, H, W) that every image must have when it is prepared.
        first_name: an image that has it, for errors.
        preparation: how each image is prepared.
        kinds: counts images that are not plain 8-bit gray or RGB.
        num_processes: see `choose_num_processes`.

    Yields:
        uint8 [B, C, H, W], one array per batch.

    Raises:
        UnlikeError: an image differs in shape from the first, or needs a choice.
        DataError: an image is broken.
    """
    decode = partial(
        _decode_batch, source=source, shape=shape, first_name=first_name, preparation=preparation
    )
    is_alone = num_processes == 1
    decoded = map(decode, batches) if is_alone else _in_processes(decode, batches, num_processes)
    for images, found in decoded:
        if kinds is not None:
            kinds.update(found)
        yield images


def choose_num_processes(num_bytes: int, first: bytes) -> int:
    """The number of processes that decode `num_bytes` of image files such as `first` soonest."""
    enough = num_bytes >= (_PROCESSES_FROM_JPEG if is_jpeg(first) else _PROCESSES_FROM)
    if not enough or multiprocessing.current_process().daemon:  # a daemon may not start any
        return 1
    return num_cores()


def _decode_batch(
    batch: EncodedBatch,
    *,
    source: str,
    shape: tuple[int, int, int],
    first_name: str,
    preparation: Preparation,
) -> _Decoded:
    kinds: Counter[str] = Counter()
    images = np.empty((len(batch.names), *shape), np.uint8)
    for i, (name, data) in enumerate(zip(batch.names, batch.data, strict=True)):
        image = decode_image(data, f"{source}: {name}", preparation, kinds)
        if image.shape != shape:
            raise UnlikeError(
                f"{source}: {name} is {_in_words(image.shape)}, but {first_name} is "
                f"{_in_words(shape)}. All images must have one size and one mode. {HOW_TO_FIT} "
                "{mode} makes all gray or RGB.",
                field=(*FIT_FIELDS, "mode"),
            )
        images[i] = image
    return images, kinds


def _in_words(shape: tuple[int, ...]) -> str:
    return f"{list(shape)} ({'gray' if shape[0] == 1 else 'RGB'})"


def _in_processes(
    decode: Callable[[EncodedBatch], _Decoded],
    batches: Iterable[EncodedBatch],
    num_processes: int,
) -> Iterator[_Decoded]:
    context = multiprocessing.get_context("spawn")  # fork copies locks that other threads hold
    pool = ProcessPoolExecutor(num_processes, mp_context=context, initializer=_ignore_interrupts)
    waiting: deque[tuple[EncodedBatch, Future[_Decoded] | None]] = deque()

    def submit(batch: EncodedBatch) -> None:
        try:
            waiting.append((batch, pool.submit(decode, batch)))
        except BrokenProcessPool:
            waiting.append((batch, None))

    def next_result() -> _Decoded:
        batch, future = waiting.popleft()
        try:
            return decode(batch) if future is None else future.result()
        except BrokenProcessPool:
            return decode(batch)

    try:
        for batch in batches:
            submit(batch)
            if len(waiting) > 2 * num_processes:
                yield next_result()
        while waiting:
            yield next_result()
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    # Ctrl-C reaches every process of the terminal; only the parent responds.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
