"""Decoded images kept on disk, so that a large source is decoded once and then mapped.

One folder per source and resolution holds `images.npy` (uint8 [N, C, H, W]) and `about.json`. It is
used only while the source's files keep their sizes and times, and the pixels their SHA-256. Only
the user can read it, since training images may be private.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from memaudit.data.images import ImageSet
from memaudit.data.readers.lazy_images import Contents
from memaudit.progress import Progress

CacheDir = str | Path | Literal[False] | None
"""The folder of a cache; None means `default_cache_dir`, and False that none is read or written."""

_VERSION = 2
"""Raise this when the same files give other pixels, names or labels than before."""


@dataclass(frozen=True)
class CacheEntry:
    """Where one source's decoded images are, or would be."""

    folder: Path
    signature: str
    """SHA-256 of the names, sizes and times of the files that decide the images."""

    def load(self, source: str) -> ImageSet | None:
        """The images, or None if the entry is missing, outdated or damaged."""
        try:
            about = json.loads((self.folder / "about.json").read_bytes())
            if about["signature"] != self.signature:
                return None
            images = _image_set(self.folder / "images.npy", about, source)
            return images if images.fingerprint == about["fingerprint"] else None
        except Exception:  # however a file is damaged, the source is decoded again
            return None

    def store(self, contents: Contents, progress: Progress) -> ImageSet:
        """Read the pixels into the cache and map them.

        Raises:
            OSError: the cache cannot be written.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=self.folder.parent, prefix="part-", ignore_cleanup_errors=True
        ) as part:
            pixels = Path(part, "images.npy")
            with pixels.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": contents.shape}
                np.lib.format.write_array_header_1_0(file, header)
                done = 0
                for batch in contents.batches():
                    file.write(np.ascontiguousarray(batch).data)
                    done += len(batch)
                    progress("Reading images", done, len(contents.names))
            about = {
                "signature": self.signature,
                "names": list(contents.names),
                "labels": None if contents.labels is None else contents.labels.tolist(),
                "class_names": contents.class_names,
            }
            images = _image_set(pixels, about, contents.source)
            about["fingerprint"] = images.fingerprint
            Path(part, "about.json").write_text(json.dumps(about))
            # Another process may have stored it meanwhile: then its entry stays, and this map
            # outlives its file.
            with contextlib.suppress(OSError):
                shutil.rmtree(self.folder, ignore_errors=True)
                os.rename(part, self.folder)
        return images


def cache_entry(
    cache_dir: CacheDir,
    path: Path,
    files: Mapping[str, os.stat_result],
    resolution: int | None,
) -> CacheEntry | None:
    """The entry of a source, whether or not it is in the cache; None if there is to be no cache.

    Args:
        cache_dir: the folder of all entries.
        path: the source.
        files: all files that decide its images.
        resolution: the resolution that the images are resized to, or None.
    """
    root = cache_root(cache_dir)
    if root is None:
        return None
    place = hashlib.sha256(f"{path.resolve()}\n{resolution}".encode()).hexdigest()
    digest = hashlib.sha256(f"{_VERSION}\n".encode())
    for name, stat in sorted(files.items()):
        digest.update(
            f"{name}\n{stat.st_size} {stat.st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    return CacheEntry(root / "images" / place[:32], digest.hexdigest())


def cache_root(cache_dir: CacheDir) -> Path | None:
    """The folder of a cache, or None if there is to be none."""
    if cache_dir is False:
        return None
    return default_cache_dir() if cache_dir is None else Path(cache_dir)


def default_cache_dir() -> Path:
    """$MEMAUDIT_CACHE, or else the system's folder for caches."""
    if chosen := os.environ.get("MEMAUDIT_CACHE"):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base, "memaudit")
    caches = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return Path(os.path.expanduser(caches), "memaudit")


def _image_set(pixels: Path, about: dict[str, Any], source: str) -> ImageSet:
    labels = about["labels"]
    return ImageSet(
        images=np.load(pixels, mmap_mode="r"),
        names=about["names"],
        labels=None if labels is None else np.array(labels, dtype=np.int64),
        class_names=tuple(about["class_names"]),
        source=source,
    )
