"""Sources of images made of any bytes, to be opened or refused."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from helpers.fuzzing import Read
from memaudit.data.sources import open_images
from memaudit.errors import MemauditError


class Family(NamedTuple):
    """Inputs of one kind."""

    samples: Mapping[str, bytes]
    read: Read


def opened(name: str, wrap: Callable[[bytes], bytes] = bytes, *, as_folder: bool = False) -> Read:
    """Opens a file of this name with the bytes in it, wrapped so that checksums are right.

    Args:
        name: of the file.
        wrap: makes the file of the bytes.
        as_folder: open the folder that the file lies in.
    """
    path = Path(tempfile.mkdtemp()) / name

    def read(data: bytes) -> None:
        path.unlink(missing_ok=True)  # ext4 writes at once what replaces another content
        path.write_bytes(wrap(data))
        try:
            images = open_images(path.parent if as_folder else path, cache_dir=False)
        except MemauditError as error:
            assert str(error)
        else:
            assert len(images.names) == len(images.images) > 0
            assert images.labels is None or images.num_classes <= 10**6

    return read
