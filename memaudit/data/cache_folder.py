"""The user's cache folder: what in it may be used, what lies in it, and how it is cleared.

Whoever can write a cache can change what an audit finds. So only folders and files count that
belong to the user and that nobody else can write, from the cache's own folder down to the file.
They are checked by the descriptors through which they are read, not by their names, and no link is
followed.
"""

import errno
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from memaudit.errors import CacheWarning, ConfigError
from memaudit.files import check_regular, try_lock

CacheDir = str | Path | Literal[False] | None
"""The folder of a cache; None means `default_cache_dir`, and False that none is read or written."""

IMAGES = "images"
"""The folder of decoded images."""
FEATURES = "features"
"""The folder of what encoders gave for images."""
ABOUT = "about.json"
PIXELS = "images.npy"
VECTORS = "features.bin"
JOURNAL = "journal.jsonl"
"""How far a part is filled."""
_ENTRY = re.compile(r"[0-9a-f]{32}")
PART = "part-"
_MAX_ABOUT_BYTES = 1 << 16
_OTHERS_MAY_WRITE = 0o022
_ABANDONED = 24 * 3600
"""Seconds after which a part that nobody fills is taken for abandoned."""


class NotPrivateError(Exception):
    """Something in the cache is not the user's alone; the message says what, and how to mend it."""


def cache_root(cache_dir: CacheDir) -> Path | None:
    """The folder of a cache, or None without a cache."""
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


# ------------------------------------------------------------------------------------------------
# Only what is the user's alone


@contextmanager
def private_folder(root: Path, *parts: str, create: bool = False) -> Iterator[int]:
    """The descriptor of a folder in the cache, for which the user alone may write.

    Args:
        root: the cache's folder.
        parts: the folders inside, from the outermost.
        create: whether to make what is missing.

    Raises:
        NotPrivateError: it, or a folder above it up to `root`, may be written by others, belongs to
            somebody else, or is a link.
        OSError: it does not exist, or cannot be made.
    """
    if create:
        root.parent.mkdir(parents=True, exist_ok=True)
    folder, place = None, root
    try:
        for part in (str(root), *parts):
            place = root if folder is None else place / part
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=folder)
            inner = _open_private(part, place, root, folder, os.O_DIRECTORY)
            if folder is not None:
                os.close(folder)
            folder = inner
        assert folder is not None
        yield folder
    finally:
        if folder is not None:
            os.close(folder)


def open_private(
    name: str, folder: int, place: Path, root: Path, *, write: bool = False
) -> BinaryIO:
    """Open a file in a folder that `private_folder` opened.

    Args:
        name: the file's name.
        folder: the folder's descriptor.
        place: the file's path, for messages.
        root: the cache's folder, for messages.
        write: open it for writing as well, and make it if it is missing.

    Raises:
        NotPrivateError: others may write it, it belongs to somebody else, or is a link.
        OSError: it does not exist, or is not a regular file.
    """
    flags = os.O_NONBLOCK | (os.O_RDWR | os.O_CREAT if write else os.O_RDONLY)
    descriptor = _open_private(name, place, root, folder, flags)
    try:
        check_regular(os.fstat(descriptor), place)
    except OSError:
        os.close(descriptor)
        raise
    return open(descriptor, "r+b" if write else "rb")


def _open_private(name: str, place: Path, root: Path, folder: int | None, flags: int) -> int:
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR) or not place.is_symlink():
            raise
        is_root = place == root
        remedy = f"set MEMAUDIT_CACHE to {place.resolve()} itself" if is_root else _clear(root)
        said = f"{place} is a link, which is not followed there; {remedy}"
        raise NotPrivateError(said) from error
    found = os.fstat(descriptor)
    if found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_MAY_WRITE:
        return descriptor
    os.close(descriptor)
    if found.st_uid != os.geteuid():
        raise NotPrivateError(
            f"{place} belongs to another user (number {found.st_uid}); set MEMAUDIT_CACHE to a "
            "folder of your own"
        )
    raise NotPrivateError(
        f"others may write to {place} (mode {stat.S_IMODE(found.st_mode):o}); {_clear(root)}"
    )


def _clear(root: Path) -> str:
    chosen = "" if root == default_cache_dir() else f"MEMAUDIT_CACHE={root} "
    return f"`{chosen}memaudit cache clear` empties the cache and makes it yours alone"


def warn_unused(source: str, reason: Exception | str) -> None:
    """Tell that the cache is not used for a source, and why; a process tells each error once."""
    if isinstance(reason, OSError):
        place = f"{reason.filename}: " if reason.filename else ""
        reason = OSError(f"{place}{reason.strerror or reason}")
    said = f"The cache is not used for {source}: {reason}."
    if isinstance(reason, Exception) and said in _told:
        return
    _told.add(said)
    warnings.warn(said, CacheWarning, stacklevel=2)


_told: set[str] = set()


# ------------------------------------------------------------------------------------------------
# New entries


@contextmanager
def locked_part(root: Path, name: str) -> Iterator["Part | None"]:
    """The part of an entry's folder that this process alone may fill.

    It is renamed to the entry when it is full. A part that keeps its name stays for the next
    process to resume, until it has been left alone for a day.

    Args:
        root: the cache's folder, which exists.
        name: the entry's.

    Yields:
        The part, or None if another process fills it.

    Raises:
        NotPrivateError, OSError: as `private_folder`.
    """
    part = root / IMAGES / f"{PART}{name}"
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(private_folder(root, IMAGES, part.name, create=True))
        except FileNotFoundError:  # renamed as it was opened
            yield None
            return
        is_locked = try_lock(folder)
        if is_locked is None:  # without locks, two processes must not share one
            with suppress(OSError):
                part.rmdir()
            images = stack.enter_context(private_folder(root, IMAGES))
            own = Path(tempfile.mkdtemp(dir=part.parent, prefix=PART))
            stack.callback(shutil.rmtree, own, ignore_errors=True)
            inner = _open_private(own.name, own, root, images, os.O_DIRECTORY)
            stack.callback(os.close, inner)
            yield Part(root, own, inner)
        # The process that filled it may have renamed or removed it before this one had the lock.
        elif is_locked and _is_at(folder, part):
            yield Part(root, part, folder)
        else:
            yield None


@dataclass(frozen=True)
class Part:
    """A folder in which an entry is being made."""

    root: Path
    path: Path
    descriptor: int

    def opened(self, name: str, *, write: bool = False) -> BinaryIO:
        """Open a file in it, as `open_private` does."""
        return open_private(name, self.descriptor, self.path / name, self.root, write=write)

    def touch(self) -> None:
        """Let those who wait see that the process that fills it is alive."""
        with suppress(OSError):
            os.utime(self.descriptor)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def part_state(root: Path, name: str) -> tuple[float, int]:
    """When a process that fills an entry was last alive, and how many bytes of pixels it wrote."""
    part = root / IMAGES / f"{PART}{name}"
    try:
        alive = part.stat().st_mtime
        return alive, (part / PIXELS).stat().st_size
    except OSError:
        return 0.0, 0


def _is_at(folder: int, place: Path) -> bool:
    """Whether an open folder is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(folder), place.lstat())
    except OSError:
        return False


def remove_abandoned_parts(folder: Path, *, unused_for: float = _ABANDONED) -> None:
    """Remove what killed processes left; a part that a process still fills is locked by it.

    Args:
        folder: that of the entries.
        unused_for: seconds for which nothing was written into it.
    """
    for part in folder.glob(f"{PART}*"):
        with suppress(OSError):
            _remove_abandoned(part, unused_for)


def _remove_abandoned(part: Path, unused_for: float) -> None:
    descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        is_free = try_lock(descriptor)
        limit = _ABANDONED if is_free is None else unused_for
        if is_free is not False and time.time() - found.st_mtime >= limit:
            if found.st_uid == os.geteuid():
                shutil.rmtree(part, ignore_errors=True)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------
# What lies in the cache


@dataclass(frozen=True)
class CachedSet:
    """One entry: the decoded images of one source at one resolution, their features by one encoder,
    or a part of a killed run."""

    name: str
    """Its name in the cache, `images/…` or `features/…`."""
    source: str | None
    """The path of the source; None for a part, or an entry that cannot be read."""
    shape: tuple[int, ...] | None
    """[N, C, H, W] of the images, or None likewise."""
    num_bytes: int
    """Bytes of its files."""
    stored: float
    """When it was made, in seconds since 1970."""
    used: float
    """When it was last used, in seconds since 1970."""


def list_cache(cache_dir: CacheDir = None) -> list[CachedSet]:
    """The entries of a cache, the last used first; empty if there is none.

    Raises:
        OSError: it cannot be read.
    """
    root = cache_root(cache_dir)
    if root is None:
        return []
    folders = [folder for kind in (IMAGES, FEATURES) if (folder := root / kind).is_dir()]
    entries = [_describe(path) for each in folders for path in each.iterdir() if _is_entry(path)]
    return sorted(entries, key=lambda entry: -entry.used)


def clear_cache(
    names: Sequence[str] = (), *, older_than: float = 0.0, cache_dir: CacheDir = None
) -> list[CachedSet]:
    """Remove entries of a cache, and the right of others to write to it.

    Only what memaudit makes there is removed. Links are removed and not followed.

    Args:
        names: those of `list_cache`, or their beginnings; none means all.
        older_than: days; only entries that were not used for that long.
        cache_dir: the cache's folder.

    Returns:
        The entries that were removed.

    Raises:
        ConfigError: a name that no entry has, or that two have; a cache of somebody else.
        OSError: an entry cannot be removed.
    """
    root = cache_root(cache_dir)
    if root is None or not root.exists():
        return []
    for place in (root, root / IMAGES, root / FEATURES):
        found = place.lstat() if os.path.lexists(place) else None
        if found is not None and (stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid()):
            kind = "a link" if stat.S_ISLNK(found.st_mode) else "somebody else's"
            raise ConfigError(f"{place} is {kind}; nothing was removed. Remove it by hand.")
        if found is not None:
            os.chmod(place, stat.S_IMODE(found.st_mode) & ~_OTHERS_MAY_WRITE)
    entries = list_cache(root)
    chosen = [_named(name, entries) for name in names] or entries
    latest = time.time() - older_than * 24 * 3600
    removed = [entry for entry in chosen if entry.used <= latest]
    for entry in removed:
        path = root / entry.name
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)
    return removed


def _named(name: str, entries: Sequence[CachedSet]) -> CachedSet:
    found = [entry for entry in entries if entry.name.startswith(name)]
    if len(found) != 1:
        what = "Nothing" if not found else f"{len(found)} entries"
        raise ConfigError(
            f"{what} in the cache has the name {name}, or begins with it; nothing was removed. "
            "`memaudit cache` lists the names."
        )
    return found[0]


def _is_entry(path: Path) -> bool:
    """Whether a path has the name and the content of what `CacheEntry` makes."""
    if not _ENTRY.fullmatch(path.name) and not path.name.startswith(PART):
        return False
    if path.is_symlink():
        return True
    return path.is_dir() and {file.name for file in path.iterdir()} <= {
        ABOUT,
        PIXELS,
        JOURNAL,
        VECTORS,
    }


def _describe(path: Path) -> CachedSet:
    about: dict[str, Any] = {}
    with suppress(OSError, ValueError, RecursionError):
        file = os.open(path / ABOUT, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(file, "rb") as opened:
            check_regular(os.fstat(file), path)
            about = json.loads(opened.read(_MAX_ABOUT_BYTES))
    source, shape = (about.get("source"), about.get("shape")) if isinstance(about, dict) else (0, 0)
    stats = [] if path.is_symlink() else [file.lstat() for file in path.iterdir()]
    stats = stats or [path.lstat()]
    return CachedSet(
        name=f"{path.parent.name}/{path.name}",
        source=source if isinstance(source, str) else None,
        shape=_as_shape(shape),
        num_bytes=sum(found.st_size for found in stats if stat.S_ISREG(found.st_mode)),
        stored=min(found.st_mtime for found in stats),
        used=max(found.st_mtime for found in stats),
    )


def _as_shape(value: Any) -> tuple[int, ...] | None:
    is_shape = isinstance(value, list) and len(value) == 4 and all(type(n) is int for n in value)
    return tuple(value) if is_shape else None
