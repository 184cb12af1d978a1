"""How much memory and disk there is, asked before what a file announces is allocated."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from memaudit.errors import DataError


def check_memory(num_bytes: int, what: str) -> None:
    """Refuse what does not fit into memory, before anything is allocated.

    Raises:
        DataError: more bytes are needed than are free, where that is known.
    """
    free = free_memory()
    if free is not None and num_bytes > free:
        raise DataError(
            f"{what} needs {in_words(num_bytes)} of memory and {in_words(free)} are free. Use a "
            "part of it, smaller images, or a machine with more memory."
        )


def free_memory() -> int | None:
    """Bytes that this process may still allocate, or None where the system does not say."""
    return min(_limits(), default=None)


def free_disk(folder: Path) -> int:
    """Bytes that may be written to a folder, which need not exist yet; 0 if unknown."""
    existing = next((place for place in (folder, *folder.parents) if place.is_dir()), folder)
    try:
        return shutil.disk_usage(existing).free
    except OSError:
        return 0


def in_words(num_bytes: int) -> str:
    """A number of bytes as `12 MB` or `3.4 GB`."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.0f} MB"


def _limits() -> Iterator[int]:
    for line in _read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            yield int(value.split()[0]) << 10
    # A container's limit.
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _read(f"/sys/fs/cgroup/{file}").strip()
        if limit.isdecimal():
            yield int(limit)
    try:
        import resource
    except ImportError:  # Windows
        return
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _read("/proc/self/statm").split()
    if addresses != resource.RLIM_INFINITY and used:
        yield max(0, addresses - int(used[0]) * os.sysconf("SC_PAGE_SIZE"))


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
