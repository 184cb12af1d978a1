"""Regular files read within a limit, files that appear whole or not at all, and locks."""

import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from memaudit.errors import ConfigError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Opening a pipe that nobody writes to must not wait, nor a terminal become this process's own.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


def check_regular(found: os.stat_result, path: str | Path) -> None:
    """Refuse what is not a regular file: pipes may never end, devices never do.

    Raises:
        OSError: it is something else; `strerror` says what, `filename` which.
    """
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "a special file")
        number = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(number, f"it is {kind}, not a regular file", str(path))


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading bytes; never waits.

    Raises:
        OSError: there is none, or it is something else; `strerror` says what, `filename` which.
    """
    check_regular(os.stat(path), path)  # a socket cannot even be opened
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _AT_ONCE))
    try:
        check_regular(os.fstat(file.fileno()), path)  # it may have been exchanged
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: str | Path, limit: int) -> bytes:
    """All bytes of a regular file, or of a link to one, of which at most `limit` are expected.

    Its size is compared with the limit before anything is read, and no more is read whatever the
    file becomes meanwhile.

    Args:
        path: the file.
        limit: most bytes that it may hold.

    Raises:
        OSError: there is no such file, it is not a regular one, or it is too large; `strerror`
            says what was found and `filename` where.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # Python allocates all that it is asked to read; a file of /proc has no size.
        data = b"" if size > limit else file.read(min(limit, max(size, 1 << 16)) + 1)
    size = max(size, len(data))
    if size > limit:
        raise OSError(
            errno.EFBIG, f"it has {size:,} bytes; at most {limit:,} make sense here", str(path)
        )
    return data


def check_new(path: Path, *, overwrite: bool) -> None:
    """Check that a file may be written, before the work for it begins.

    Args:
        path: the file.
        overwrite: whether it may replace one.

    Raises:
        ConfigError: it exists and must not be replaced, it is a folder, or its folder is missing.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file.")
    if path.exists() and not overwrite:
        raise ConfigError(
            f"{path} exists; name another file, or replace it with {{overwrite}}.",
            field="overwrite",
        )
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path.parent} is not a folder; make it, or name a file in another one.")


@contextmanager
def atomic_write(
    path: Path, *, private: bool = False, sweep: bool = True, durable: bool = True
) -> Iterator[BinaryIO]:
    """A binary file to write, which takes the name `path` only when it is whole.

    It is written beside `path` first, since a rename is atomic only within one file system, under a
    name that nobody can guess, and is readable only to the user until then. What a killed process
    left of it goes. A link in its place is replaced and not followed.

    Args:
        path: the file to write or replace.
        private: whether only the user can read it afterwards, too.
        sweep: whether to look for what killed processes left, which lists the whole folder. A
            folder of many files is better swept once, by `remove_parts`.
        durable: whether the file is on the disk for sure when it takes its name, even if the
            machine stops at once.

    Raises:
        OSError: it cannot be written, or something other than a regular file is in its place;
            `filename` is `path`, whatever failed.
    """
    with _named(path):
        if path.exists():
            check_regular(path.stat(), path)  # a rename would replace a device such as /dev/null
        if sweep:
            remove_parts(path.parent, path.name)
        part, file = _new_part(path)
        try:
            with file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                _open_up(file, 0o600 if private else 0o666 & ~_umask())
                os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def append(path: Path, data: bytes) -> None:
    """Add bytes to the end of a regular file, which is made if there is none.

    Raises:
        OSError: it cannot be written, or is a link, which is not followed; `filename` is `path`.
    """
    with _named(path):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with open(_open_unlinked(path, flags), "ab") as file:
            file.write(data)


def remove_parts(folder: Path, of: str | None = None) -> None:
    """Remove what killed processes left of files that `atomic_write` was writing.

    A part that a process still writes is locked by it and stays.

    Args:
        folder: where to look.
        of: the name of the one file whose parts are removed, or None for all.
    """
    with suppress(OSError):
        for name in os.listdir(folder):
            is_part = _PART.fullmatch(name)
            if is_part and (of is None or is_part[1] == of[:_NAME_IN_PART]):
                with suppress(OSError):
                    _remove_abandoned(folder / name)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock named by the file `path`, and release it however the process ends.

    The empty file stays: if it were removed, two processes could hold locks on two files of its
    name.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file cannot be made, or is a link, which is not followed.
    """
    lock = _open_unlinked(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"{path} is held by another process") from error
        yield
    finally:
        os.close(lock)


def try_lock(descriptor: int) -> bool | None:
    """Take the lock of an open file or folder at once, until it is closed.

    Returns:
        Whether it could be taken; None if the disk has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC
_NAME_IN_PART = 50
"""Characters of a file's name in those of its parts, so that a long name stays within limits."""
_PART = re.compile(r"\.(.+)\.[0-9a-f]{16}\.part", re.DOTALL)
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_ABANDONED = 24 * 3600
"""Seconds after which a part is taken for abandoned on a disk that has no locks."""


def _open_unlinked(path: Path, flags: int) -> int:
    """The descriptor of a regular file that no link leads to."""
    try:
        descriptor = os.open(path, flags | _NO_LINK | _AT_ONCE, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            said = "it is a link, which is not followed; remove it"
            raise OSError(error.errno, said, str(path)) from error
        raise
    try:
        check_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _new_part(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `path`, locked for as long as it is open."""
    while True:
        part = path.with_name(f".{path.name[:_NAME_IN_PART]}.{secrets.token_hex(8)}.part")
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o600)
        # Another process that looks for abandoned parts may have come before the lock.
        if try_lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return part, open(descriptor, "wb")
        os.close(descriptor)
        part.unlink(missing_ok=True)


def _remove_abandoned(part: Path) -> None:
    descriptor = os.open(part, os.O_RDWR | _NO_LINK | _AT_ONCE)
    try:
        found = os.fstat(descriptor)
        check_regular(found, part)
        is_free = try_lock(descriptor)
        if is_free is None:
            is_free = time.time() - found.st_mtime > _ABANDONED
        if is_free:
            part.unlink()
    finally:
        os.close(descriptor)


def _open_up(file: BinaryIO, mode: int) -> None:
    with suppress(OSError):  # some disks have no permissions
        os.fchmod(file.fileno(), mode)


def _umask() -> int:
    """The permissions that new files do not get."""
    mask = os.umask(0o077)  # it can only be read by setting it; meanwhile nobody gains anything
    os.umask(mask)
    return mask


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Give the errors of writing a file its name: those of a full disk have none."""
    try:
        yield
    except OSError as error:
        place = error.filename
        if place is None and error.errno in _DISK_ERRORS:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if isinstance(place, str) and _PART.fullmatch(Path(place).name):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
