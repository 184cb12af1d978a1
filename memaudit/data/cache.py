"""Decoded images kept on disk, so that a large source is decoded once and then mapped.

One folder per source and preparation holds `images.npy` (uint8 [N, C, H, W]) and `about.json`. The
pixels are used only while the source's files are the same ones (size, times, number on the disk),
and after images of the source, decoded again, were found to equal those in the cache: a random
part, or all. Names and labels always come from the source. docs/threats.md says what that finds.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from memaudit.data.cache_folder import (
    ABOUT,
    IMAGES,
    PIXELS,
    CacheDir,
    NotPrivateError,
    cache_root,
    new_part,
    open_private,
    private_folder,
    warn_unused,
)
from memaudit.data.images import ImageSet
from memaudit.data.preparation import Preparation
from memaudit.data.readers.lazy_images import Contents
from memaudit.data.room import free_disk, in_words
from memaudit.progress import Progress

CHECKED_SHARE = 0.01
FEWEST_CHECKED = 256
"""Least number of cached images that are decoded again and compared; above it, CHECKED_SHARE."""
_VERSION = 4
"""Raise this when the same files give other pixels than before."""
_MAX_ABOUT_BYTES = 1 << 16
_SPARE_BYTES = 64 << 20
"""Bytes of the disk that an entry leaves free."""


@dataclass(frozen=True)
class CacheEntry:
    """Where one source's decoded images are, or would be."""

    root: Path
    name: str
    signature: str
    """SHA-256 of names, sizes, times and inodes of the files that decide the images."""

    @property
    def folder(self) -> Path:
        """The entry's folder."""
        return self.root / IMAGES / self.name

    def load(self, contents: Contents, *, check_all: bool, progress: Progress) -> ImageSet | None:
        """The images, or None if the entry is missing, outdated, damaged or not to be trusted.

        Args:
            contents: the source.
            check_all: whether to compare all images with the source's, not a random part.
            progress: told how many images were compared.

        Raises:
            DataError: the source cannot be decoded.
        """
        try:
            with private_folder(self.root, IMAGES, self.name) as folder:
                about_file = open_private(ABOUT, folder, self.folder / ABOUT, self.root)
                with about_file:
                    about = json.loads(about_file.read(_MAX_ABOUT_BYTES))
                    if about["signature"] != self.signature:
                        return None
                    with suppress(OSError):
                        os.utime(about_file.fileno())  # `memaudit cache` says when it was used
                with open_private(PIXELS, folder, self.folder / PIXELS, self.root) as file:
                    pixels = _mapped(file, contents.shape)
            contents.kinds.update({str(name): int(n) for name, n in about["kinds"].items()})
            images = contents.with_pixels(pixels)
            if images.fingerprint != about["fingerprint"]:
                return None
        except NotPrivateError as error:
            warn_unused(contents.source, error)
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None  # however a file is damaged, the source is decoded again
        if not _equal(contents, pixels, check_all=check_all, progress=progress):
            warn_unused(
                contents.source,
                f"{self.folder} holds other pixels than the source, though its checksum is right: "
                "somebody changed it. What earlier runs said about this source may be wrong",
            )
            return None
        return images

    def store(self, contents: Contents, progress: Progress) -> ImageSet | None:
        """Read the pixels into the cache and map them; None if the cache cannot be used.

        Raises:
            DataError: the source cannot be decoded.
        """
        try:
            with private_folder(self.root, IMAGES, create=True):
                return self._store(contents, progress)
        except (NotPrivateError, OSError) as error:
            warn_unused(contents.source, error)
            return None

    def _store(self, contents: Contents, progress: Progress) -> ImageSet:
        with new_part(self.folder.parent) as part:
            free = free_disk(part)
            if free < contents.num_bytes + _SPARE_BYTES:
                raise OSError(
                    f"{self.root} has {in_words(free)} free, and the images take "
                    f"{in_words(contents.num_bytes)}"
                )
            with (part / PIXELS).open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": contents.shape}
                np.lib.format.write_array_header_1_0(file, header)
                done = 0
                for batch in contents.batches():
                    file.write(np.ascontiguousarray(batch).data)
                    done += len(batch)
                    progress("Reading images", done, len(contents.names))
            with (part / PIXELS).open("rb") as file:
                images = contents.with_pixels(_mapped(file, contents.shape))
            about = {
                "signature": self.signature,
                "fingerprint": images.fingerprint,
                "source": os.path.abspath(contents.source),
                "shape": list(contents.shape),
                "kinds": dict(contents.kinds),
            }
            (part / ABOUT).write_text(json.dumps(about))
            # Another process may have stored it meanwhile: then its entry stays, and this map
            # outlives its file.
            with suppress(OSError):
                shutil.rmtree(self.folder, ignore_errors=True)
                os.rename(part, self.folder)
        return images


def cache_entry(
    cache_dir: CacheDir,
    path: Path,
    files: Mapping[str, os.stat_result],
    preparation: Preparation,
    split: str | None = None,
) -> CacheEntry | None:
    """The entry of a source, whether or not it is in the cache; None without a cache.

    Args:
        cache_dir: the folder of all entries.
        path: the source.
        files: all files that decide its images.
        preparation: how the images are prepared.
        split: the split that was taken, or None.
    """
    root = cache_root(cache_dir)
    if root is None:
        return None
    where = f"{path.resolve()}\n{preparation.key}\n{split}"
    place = hashlib.sha256(where.encode(errors="surrogateescape"))
    digest = hashlib.sha256(f"{_VERSION}\n".encode())
    for name, found in sorted(files.items()):
        # The time of the last change (ctime) and the inode tell a file whose content was replaced
        # and whose other times were put back, as `cp -p` and rsync do.
        state = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
        digest.update(f"{name}\n{state}\n".encode(errors="surrogateescape"))
    return CacheEntry(root, place.hexdigest()[:32], digest.hexdigest())


def _mapped(file: BinaryIO, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The pixels in a file that `store` wrote, mapped.

    Raises:
        ValueError: it is not such a file, or has another shape.
    """
    version = np.lib.format.read_magic(file)
    found, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if (version, found, fortran_order, dtype) != ((1, 0), shape, False, np.dtype(np.uint8)):
        raise ValueError("it does not hold the pixels of this source")
    return np.memmap(file, np.uint8, mode="r", offset=file.tell(), shape=shape)


def _equal(contents: Contents, pixels: np.ndarray, *, check_all: bool, progress: Progress) -> bool:
    """Whether images of the source, decoded again, equal those in the cache.

    Of n images of which m were changed, k chosen at random miss all changed ones with probability
    C(n - m, k) / C(n, k) ≤ (1 - m/n)^k.
    """
    num_images = len(pixels)
    rows = None
    if not check_all and contents.array is None:
        number = min(num_images, max(FEWEST_CHECKED, round(CHECKED_SHARE * num_images)))
        # Of the system's randomness: nobody who changes a cache can know which ones.
        rows = np.array(sorted(secrets.SystemRandom().sample(range(num_images), number)))
    expected = pixels if rows is None else pixels[rows]
    done = 0
    for batch in contents.batches(rows):
        if not np.array_equal(batch, expected[done : done + len(batch)]):
            return False
        done += len(batch)
        progress("Comparing images with the cache", done, len(expected))
    return done == len(expected)
