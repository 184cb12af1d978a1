"""The index of a training set, kept on disk so that a second audit does not build it again.

There is one file per training set and width, named after the fingerprint of the pixels. The proof
of a search trusts the projections, so a file is used only if everything in it has the recorded
SHA-256. Only the user can read it, since training images may be private.
"""

import contextlib
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.projection import Basis, ProjectedImages, Projection, projected_width
from memaudit.data.cache import CacheDir, cache_root
from memaudit.data.images import ImageSet
from memaudit.files import atomic_write
from memaudit.progress import Progress, silent

WORTH_KEEPING = 1.0
"""Seconds: an index that is built faster is not worth a file."""
_VERSION = 1
"""To be raised when the same images would be projected differently."""


def open_index(
    data: ImageSet,
    *,
    device: str | torch.device = "cpu",
    flips: bool = False,
    cache_dir: CacheDir = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> NeighborIndex:
    """Open the index of a training set from the cache, or build it.

    Args:
        data: training images, N ≥ 1; may be memory-mapped.
        device: "cpu", or "cuda" to search on a GPU.
        flips: whether a training image also counts as its mirror image.
        cache_dir: where indices are kept; None means `default_cache_dir`, False nowhere. If it
            cannot be written, the index is built every time.
        memory_limit: most bytes that the index may take. A limit shortens the projections, which
            makes searches slower but not less exact.
        progress: told how many images are indexed.

    Raises:
        DataError: there are no images, or they are too large.
        ConfigError: the device is "cuda", but there is no GPU; or the index takes more memory than
            the limit.
    """
    root = cache_root(cache_dir)
    path = projected = None
    if root is not None:
        width = projected_width(len(data), data.images[:1].size, memory_limit)
        path = root / "index" / f"{data.fingerprint}-{width}.npz"
        projected = _load(path, data, torch.device(device))
    if projected is not None:
        return NeighborIndex(data.images, device=device, flips=flips, projected=projected)
    started = time.perf_counter()
    index = NeighborIndex(
        data.images, device=device, flips=flips, memory_limit=memory_limit, progress=progress
    )
    if path is not None and time.perf_counter() - started >= WORTH_KEEPING:
        with contextlib.suppress(OSError):
            _store(index.projected, path, data)
    return index


def _store(projected: ProjectedImages, path: Path, data: ImageSet) -> None:
    projection = projected.projection
    arrays: dict[str, Any] = {
        "vectors": projected.vectors,
        "center": projection.center.numpy(force=True),
    }
    about: dict[str, Any] = {
        "version": _VERSION,
        "fingerprint": data.fingerprint,
        "largest_norm": projected.largest_norm,
    }
    if projection.basis is not None:
        arrays["rows"] = projection.basis.rows.numpy(force=True)
        arrays["whitening"] = projection.basis.whitening.numpy(force=True)
        about["relative_error"] = projection.basis.relative_error
    about["sha256"] = _digest(about, arrays)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with atomic_write(path) as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)


def _load(path: Path, data: ImageSet, device: torch.device) -> ProjectedImages | None:
    """What was stored, or None if it is missing, damaged, or of another version."""
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
        recorded = about.pop("sha256")
        if (about["version"], about["fingerprint"]) != (_VERSION, data.fingerprint):
            return None
        if _digest(about, arrays) != recorded:
            return None
        basis = None
        if "rows" in arrays:
            basis = Basis(
                torch.from_numpy(arrays["rows"]).to(device),
                torch.from_numpy(arrays["whitening"]).to(device),
                about["relative_error"],
            )
        projection = Projection(torch.from_numpy(arrays["center"]).to(device), basis)
        return ProjectedImages(projection, arrays["vectors"], about["largest_norm"])
    except Exception:  # whatever a damaged file causes, the index is built again
        return None


def _digest(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of the record and of every array's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
