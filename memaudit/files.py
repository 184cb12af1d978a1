"""Regular files read within a limit, files that appear whole or not at all, and locks."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

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


def open_regular(path: str | Path) -> BinaryIO:
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
        data = b"" if size > limit else file.read(limit + 1)
    size = max(size, len(data))
    if size > limit:
        raise OSError(
            errno.EFBIG, f"it has {size:,} bytes; at most {limit:,} make sense here", str(path)
        )
    return data


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write, which takes the name `path` only when it is whole.

    It is written beside `path` first, since a rename is atomic only within one file system.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock named by the file `path`, and release it however the process ends.

    The empty file stays: if it were removed, two processes could hold locks on two files of its
    name.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise BlockingIOError(f"{path} is held by another process") from error
    try:
        yield
    finally:
        lock.release()
