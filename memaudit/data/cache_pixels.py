"""The file of an entry's pixels in the cache: written in batches, resumed, mapped, compared.

A journal beside the file says now and then how many images are in it and what the hash of all was.
What a process that was killed has written is taken up to the last line, if its hash is right and
a part of the images is equal to the source's, as with an entry that is complete.
"""

import hashlib
import io
import json
import math
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from memaudit.data.cache_folder import (
    JOURNAL,
    PIXELS,
    Part,
    remove_abandoned_parts,
    warn_unused,
)
from memaudit.data.images import start_fingerprint
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.room import free_disk, in_words
from memaudit.progress import Progress

CHECKED_SHARE = 0.01
FEWEST_CHECKED = 256
"""Least number of cached images that are decoded again and compared; above it, CHECKED_SHARE."""
_SPARE_BYTES = 64 << 20
"""Bytes of the disk that an entry leaves free."""
_EVERY = 5.0
"""Seconds between two lines of the journal."""
_TAIL_BYTES = 1 << 16
"""Bytes at the end of a journal that are read."""
_PIECE = 16 << 20

Shape = tuple[int, int, int, int]


@dataclass
class _State:
    """What a file of pixels holds."""

    done: int
    digest: "hashlib._Hash"
    """The fingerprint of what is there, to be updated."""
    kinds: Counter[str]


def write_pixels(
    part: Part, contents: Contents, signature: str, *, check_all: bool, progress: Progress
) -> str:
    """Write all pixels of a source into a part of the cache, or those that are missing.

    Args:
        part: where to write.
        contents: the source; its `kinds` are those of all images afterwards.
        signature: that of the source's files.
        check_all: whether to compare all images that are there already with the source's.
        progress: told how many images are there.

    Returns:
        The fingerprint of the images.

    Raises:
        DataError: the source cannot be decoded.
        OSError: the disk is full.
    """
    num_images = contents.shape[0]
    with part.opened(PIXELS, write=True) as file, part.opened(JOURNAL, write=True) as journal:
        state = _resumable(file, journal, contents, signature)
        if state.done and not _is_trusted(file, state.done, contents, check_all, progress):
            warn_unused(
                contents.source,
                f"{part.path} holds other pixels than the source: somebody changed it. All are "
                "decoded again",
            )
            state = _start(contents.shape)
        _check_disk(part, contents, state.done)
        end = _end(contents.shape, state.done)
        file.truncate(end if state.done else 0)
        if not state.done:
            file.seek(0)
            file.write(_header(contents.shape))
        file.seek(end)
        journal.seek(0, io.SEEK_END)
        before, first = state.kinds, state.done
        rows = None if not first else np.arange(first, num_images)
        with _keeper(file, journal, state, signature, part) as keep:
            reached = first
            for batch in contents.batches(rows) if first < num_images else ():
                reached += len(batch)
                keep(batch, before + contents.kinds)
                progress("Reading images", reached, num_images)
        contents.kinds.clear()
        contents.kinds.update(state.kinds)
        return state.digest.hexdigest()


@contextmanager
def _keeper(
    file: BinaryIO, journal: BinaryIO, state: _State, signature: str, part: Part
) -> Iterator[Any]:
    """A function that writes and hashes one batch while the next one is decoded."""
    last = time.monotonic()
    pending: Future[None] | None = None

    def write(batch: np.ndarray, kinds: Counter[str]) -> None:
        nonlocal last
        data = np.ascontiguousarray(batch).data
        file.write(data)
        state.digest.update(data)
        state.done += len(batch)
        state.kinds = kinds
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            _note(file, journal, state, signature)

    def keep(batch: np.ndarray, kinds: Counter[str]) -> None:
        nonlocal pending
        if pending is not None:
            pending.result()
        pending = writer.submit(write, batch, kinds)
        part.touch()

    with ThreadPoolExecutor(1, "memaudit-cache") as writer:
        try:
            yield keep
        finally:
            if pending is not None:
                pending.result()
            _note(file, journal, state, signature)


def _note(file: BinaryIO, journal: BinaryIO, state: _State, signature: str) -> None:
    file.flush()
    line = {
        "signature": signature,
        "done": state.done,
        "fingerprint": state.digest.copy().hexdigest(),
        "kinds": dict(state.kinds),
    }
    journal.write(json.dumps(line).encode() + b"\n")
    journal.flush()


def _start(shape: Shape) -> _State:
    return _State(0, start_fingerprint(shape), Counter())


def _resumable(file: BinaryIO, journal: BinaryIO, contents: Contents, signature: str) -> _State:
    """What an earlier process wrote for the same source, as far as its hash is right."""
    shape = contents.shape
    journal.seek(0, io.SEEK_END)
    journal.seek(max(0, journal.tell() - _TAIL_BYTES))
    noted = None
    for line in journal.read(_TAIL_BYTES).splitlines():
        try:
            found = json.loads(line)
            is_right = (
                found["signature"] == signature
                and type(found["done"]) is int
                and 0 < found["done"] <= shape[0]
                and isinstance(found["fingerprint"], str)
            )
            kinds = Counter({str(name): int(n) for name, n in found["kinds"].items()})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # the process was killed while it wrote the line
        if is_right:
            noted = found["done"], found["fingerprint"], kinds
    state = _start(shape)
    header = _header(shape)
    file.seek(0)
    if noted is None or file.read(len(header)) != header:
        return state
    done, fingerprint, kinds = noted
    left = _end(shape, done) - len(header)
    while left and (data := file.read(min(_PIECE, left))):
        state.digest.update(data)
        left -= len(data)
    if left or state.digest.hexdigest() != fingerprint:
        return _start(shape)
    return _State(done, state.digest, kinds)


def _is_trusted(
    file: BinaryIO, done: int, contents: Contents, check_all: bool, progress: Progress
) -> bool:
    begin = len(_header(contents.shape))
    shape = (done, *contents.shape[1:])
    pixels = np.memmap(file, np.uint8, mode="r", offset=begin, shape=shape)
    return is_equal(contents, pixels, check_all=check_all, progress=progress)


def _check_disk(part: Part, contents: Contents, done: int) -> None:
    missing = _end(contents.shape, contents.shape[0]) - (_end(contents.shape, done) if done else 0)
    if free_disk(part.path) < missing + _SPARE_BYTES:
        remove_abandoned_parts(part.path.parent, unused_for=0)
    free = free_disk(part.path)
    if free < missing + _SPARE_BYTES:
        raise OSError(
            f"{part.root} has {in_words(free)} free, and the images take {in_words(missing)}"
        )


def _header(shape: Shape) -> bytes:
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def _end(shape: Shape, done: int) -> int:
    """The position after the first images."""
    return len(_header(shape)) + done * math.prod(shape[1:])


def mapped(file: BinaryIO, shape: Shape) -> np.ndarray:
    """The pixels in a file that `write_pixels` wrote, mapped.

    Raises:
        ValueError: it is not such a file, or has another shape.
    """
    version = np.lib.format.read_magic(file)
    found, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if (version, found, fortran_order, dtype) != ((1, 0), shape, False, np.dtype(np.uint8)):
        raise ValueError("it does not hold the pixels of this source")
    return np.memmap(file, np.uint8, mode="r", offset=file.tell(), shape=shape)


def is_equal(
    contents: Contents, pixels: np.ndarray, *, check_all: bool, progress: Progress
) -> bool:
    """Whether images of the source, decoded again, equal those in the cache.

    Of n images of which m were changed, k chosen at random miss all changed ones with probability
    C(n - m, k) / C(n, k) ≤ (1 - m/n)^k.

    Args:
        contents: the source.
        pixels: its first images, uint8 [M, C, H, W].
        check_all: whether to compare all, not a random part.
        progress: told how many were compared.
    """
    num_images = len(pixels)
    number = num_images
    if not check_all and contents.array is None:
        number = min(num_images, max(FEWEST_CHECKED, round(CHECKED_SHARE * num_images)))
    rows: np.ndarray | None = None
    if number < num_images:
        # Of the system's randomness: nobody who changes a cache can know which ones.
        rows = np.array(sorted(secrets.SystemRandom().sample(range(num_images), number)))
    elif num_images < contents.shape[0]:
        rows = np.arange(num_images)
    done = 0
    for batch in contents.batches(rows):
        part = slice(done, done + len(batch))
        if not np.array_equal(batch, pixels[part if rows is None else rows[part]]):
            return False
        done += len(batch)
        progress("Comparing images with the cache", done, number)
    return done == number
