"""Image files inside a store: names, and a function that reads their bytes, become contents."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from memaudit.data.fitting import UnlikeError
from memaudit.data.preparation import Preparation
from memaudit.data.readers.batch_decoding import EncodedBatch, choose_num_processes, decode_batches
from memaudit.data.readers.decoding import decode_image
from memaudit.data.readers.lazy_images import Contents, batch_rows
from memaudit.data.readers.unlike import explain_unlike
from memaudit.data.room import in_words
from memaudit.errors import DataError

ReadEncoded = Callable[[np.ndarray], Iterator[bytes]]
"""Rows, int64 [M], ascending → the bytes of each image file, in that order."""

_RATIO = 100
_ALWAYS = 256 << 20
"""Bytes of image files that are read in any case, and for each byte of the store."""
_BATCH_BYTES = 64 << 20
"""Bytes of image files from which a batch ends, however few images it holds."""


def encoded_contents(
    source: str,
    names: Sequence[str],
    read: ReadEncoded,
    *,
    num_bytes: int,
    preparation: Preparation,
    labels: np.ndarray | None = None,
    class_names: tuple[str, ...] = (),
) -> Contents:
    """The contents of a store of image files.

    Args:
        source: the path as the user wrote it.
        names: one per image, [N].
        read: reads the image files.
        num_bytes: bytes of the files that they lie in. What is read of them may be more where
            images share their bytes, but not without bound.
        preparation: as for `decode_image`.
        labels: int64 [N], or None.
        class_names: one name per class, or empty.

    Raises:
        DataError: there are no images, or the first is broken.
    """
    num_images = len(names)
    if num_images == 0:
        raise DataError(f"{source} holds no images.")
    numbers = {name: i for i, name in enumerate(names)}

    def read_one(name: str) -> bytes:
        return next(read(np.array([numbers[name]])))

    def explained(error: UnlikeError) -> DataError:
        return explain_unlike(source, names, read_one, preparation, error)

    first_file = read_one(names[0])
    try:
        first = decode_image(first_file, f"{source}: {names[0]}", preparation)
    except UnlikeError as error:
        raise explained(error) from error
    kinds: Counter[str] = Counter()
    C, H, W = first.shape

    def batches(rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
        wanted = np.arange(num_images) if rows is None else np.asarray(rows, np.int64)
        kinds.clear()
        try:
            yield from decode_batches(
                _batched(
                    wanted,
                    names,
                    _bounded(read(wanted), num_bytes, source),
                    batch_rows(first.nbytes),
                ),
                source=source,
                shape=(C, H, W),
                first_name=names[0],
                preparation=preparation,
                kinds=kinds,
                num_processes=choose_num_processes(
                    num_bytes * len(wanted) // num_images, first_file
                ),
            )
        except UnlikeError as error:
            raise explained(error) from error

    return Contents(
        source,
        (num_images, C, H, W),
        names,
        batches,
        labels,
        class_names,
        kinds=kinds,
        encoded_bytes=num_bytes,
    )


def _batched(
    rows: np.ndarray, names: Sequence[str], files: Iterator[bytes], size: int
) -> Iterator[EncodedBatch]:
    at = 0
    while at < len(rows):
        data: list[bytes] = []
        num_bytes = 0
        for file in islice(files, size):
            data.append(file)
            num_bytes += len(file)
            if num_bytes > _BATCH_BYTES:
                break
        yield EncodedBatch([names[i] for i in rows[at : at + len(data)]], data)
        at += len(data)


def _bounded(files: Iterator[bytes], stored: int, source: str) -> Iterator[bytes]:
    """The same files, until they have more bytes than any set that is not made to take long."""
    left = _ALWAYS + _RATIO * stored
    for file in files:
        left -= len(file)
        if left < 0:
            raise DataError(
                f"{source} has {in_words(stored)} and holds images of more than "
                f"{in_words(_ALWAYS + _RATIO * stored)}, all of which share their bytes."
            )
        yield file
