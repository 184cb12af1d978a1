"""Decoded images kept on disk, so that a large source is decoded once and then mapped.

One folder per source and preparation holds `images.npy` (uint8 [N, C, H, W]) and `about.json`. The
pixels are used only while the source's files are the same ones (size, times, number on the disk),
and after images of the source, decoded again, were found to equal those in the cache: a random
part, or all. Names and labels always come from the source. docs/threats.md says what that finds.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memaudit.data.cache_folder import (
    ABOUT,
    IMAGES,
    JOURNAL,
    PIXELS,
    CacheDir,
    NotPrivateError,
    Part,
    cache_root,
    locked_part,
    open_private,
    part_state,
    private_folder,
    remove_abandoned_parts,
    warn_unused,
)
from memaudit.data.cache_pixels import is_equal, mapped, write_pixels
from memaudit.data.images import ImageSet
from memaudit.data.preparation import Preparation
from memaudit.data.readers.lazy_images import Contents
from memaudit.progress import Progress

_VERSION = 5
"""Raise this when the same files give other pixels than before."""
_MAX_ABOUT_BYTES = 1 << 16
STALLED = 60.0
"""Seconds without a batch after which another process is no longer waited for."""
_POLL = 0.2
"""Seconds between two looks at what another process has done."""


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
                    pixels = mapped(file, contents.shape)
            contents.kinds.clear()
            contents.kinds.update({str(name): int(n) for name, n in about["kinds"].items()})
            images = contents.with_pixels(pixels)
            if images.fingerprint != about["fingerprint"]:
                return None
        except NotPrivateError as error:
            warn_unused(contents.source, error)
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None  # however a file is damaged, the source is decoded again
        if not is_equal(contents, pixels, check_all=check_all, progress=progress):
            warn_unused(
                contents.source,
                f"{self.folder} holds other pixels than the source, though its checksum is right: "
                "somebody changed it. What earlier runs said about this source may be wrong",
            )
            return None
        return images

    def store(self, contents: Contents, *, check_all: bool, progress: Progress) -> ImageSet | None:
        """Read the pixels into the cache and map them; None if the cache cannot be used.

        Where another process is reading the same images, wait for it and take what it stored.

        Args:
            contents: the source.
            check_all: whether to compare all images that an earlier process stored, not a part.
            progress: told how many images were read.

        Raises:
            DataError: the source cannot be decoded.
        """
        try:
            with private_folder(self.root, IMAGES, create=True):
                remove_abandoned_parts(self.folder.parent)
            return self._fill_or_wait(contents, check_all=check_all, progress=progress)
        except (NotPrivateError, OSError) as error:
            warn_unused(contents.source, error)
            return None

    def _fill_or_wait(
        self, contents: Contents, *, check_all: bool, progress: Progress
    ) -> ImageSet | None:
        alive, since = None, time.monotonic()
        while True:
            with locked_part(self.root, self.name) as part:
                if part is not None and alive is not None:
                    stored = self.load(contents, check_all=check_all, progress=progress)
                    if stored is not None:
                        part.remove()
                        return stored
                if part is not None:
                    return self._fill(part, contents, check_all=check_all, progress=progress)
            state = part_state(self.root, self.name)
            if state != alive:
                alive, since = state, time.monotonic()
            elif time.monotonic() - since > STALLED:
                raise OSError(
                    "another process began to read these images into it, and has done nothing for "
                    f"{STALLED:.0f} seconds"
                )
            num_images = contents.shape[0]
            done = min(num_images, state[1] * num_images // max(1, contents.num_bytes))
            progress("Waiting for another process that reads the images", done, num_images)
            time.sleep(_POLL)

    def _fill(
        self, part: Part, contents: Contents, *, check_all: bool, progress: Progress
    ) -> ImageSet:
        try:
            fingerprint = write_pixels(
                part, contents, self.signature, check_all=check_all, progress=progress
            )
            with part.opened(PIXELS) as file:
                images = contents.with_pixels(mapped(file, contents.shape), fingerprint)
            about = {
                "signature": self.signature,
                "fingerprint": fingerprint,
                "source": os.path.abspath(contents.source),
                "shape": list(contents.shape),
                "kinds": dict(contents.kinds),
            }
            (part.path / ABOUT).write_text(json.dumps(about))
            (part.path / JOURNAL).unlink()
        except Exception:  # but a process that is stopped leaves what it has done
            part.remove()
            raise
        # On a disk without locks another process may have stored it meanwhile: then its entry
        # stays, and this map outlives its file.
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.rename(part.path, self.folder)
        except OSError:
            part.remove()
        return images


def cache_entry(
    cache_dir: CacheDir,
    path: Path,
    files: Mapping[str, os.stat_result],
    preparation: Preparation,
    split: str | None = None,
    rows: np.ndarray | None = None,
) -> CacheEntry | None:
    """The entry of a source, whether or not it is in the cache; None without a cache.

    Args:
        cache_dir: the folder of all entries.
        path: the source.
        files: all files that decide its images.
        preparation: how the images are prepared.
        split: the split that was taken, or None.
        rows: the images that were taken of it, int64 [M], or None for all.
    """
    root = cache_root(cache_dir)
    if root is None:
        return None
    where = f"{path.resolve()}\n{preparation.key}\n{split}"
    if rows is not None:
        where += f"\n{hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()}"
    place = hashlib.sha256(where.encode(errors="surrogateescape"))
    digest = hashlib.sha256(f"{_VERSION}\n".encode())
    for name, found in sorted(files.items()):
        # The time of the last change (ctime) and the inode tell a file whose content was replaced
        # and whose other times were put back, as `cp -p` and rsync do.
        state = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
        digest.update(f"{name}\n{state}\n".encode(errors="surrogateescape"))
    return CacheEntry(root, place.hexdigest()[:32], digest.hexdigest())
