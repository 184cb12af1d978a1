"""Only regular files are read; files appear whole or not at all; a lock has one holder."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.limited import run_python

from memaudit.files import atomic_write, exclusive, read_regular, remove_parts

HOLD = """
import sys, time
from pathlib import Path
from memaudit.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"ne")
        raise RuntimeError
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old"]


def test_a_lock_is_held_once_and_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with exclusive(tmp_path / "lock"):
            with pytest.raises(BlockingIOError, match="lock is held by another process"):
                with exclusive(tmp_path / "lock"):
                    pass


def test_a_killed_process_gives_its_lock_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError), exclusive(path):
            pass
        process.kill()
    with exclusive(path):
        pass


def test_a_regular_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    (tmp_path / "link").symlink_to(path)
    assert read_regular(path, 5) == read_regular(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes; at most 4 make sense here") as error:
        read_regular(path, 4)
    assert error.value.filename == str(path)


def test_a_huge_sparse_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="it has 1,099,511,627,776 bytes"):
        read_regular(path, 1 << 30)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_pipe, "a named pipe"),
        (_socket, "a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (Path.mkdir, "a folder"),
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_special_files_are_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None], kind: str, linked: bool
) -> None:
    path = tmp_path / "file"
    make(path)
    if linked:
        path = tmp_path / "link"
        path.symlink_to("file")
    with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
        read_regular(path, 100)


def test_a_child_process_keeps_its_limits() -> None:
    assert run_python("print(1)").stdout == "1\n"
    assert "MemoryError" in run_python("bytes(1 << 30)", memory=1 << 29).stderr
    with pytest.raises(subprocess.TimeoutExpired):
        run_python("while True: pass", timeout=0.5)


def files_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_on_its_way_is_for_the_user_alone_and_then_as_any_other(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file") as file:
        (part,) = tmp_path.iterdir()
        assert part.stat().st_mode & 0o777 == 0o600
        file.write(b"new")
    (tmp_path / "plain").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
    with atomic_write(tmp_path / "file", private=True) as file:
        file.write(b"secret")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_names_of_parts_cannot_be_guessed_and_long_ones_are_cut(tmp_path: Path) -> None:
    names = set()
    for _ in range(20):
        with atomic_write(tmp_path / ("ä" * 120)):
            names |= set(files_in(tmp_path)) - {"ä" * 120}
    assert len(names) == 20


def test_a_link_in_place_of_the_target_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "report.json"
    victim.write_bytes(b"mine")
    path.symlink_to(victim)
    with atomic_write(path) as file:
        file.write(b"report")
    assert victim.read_bytes() == b"mine"
    assert path.read_bytes() == b"report" and not path.is_symlink()


def test_links_planted_under_the_name_of_a_part_are_never_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the random name were guessed: a name that exists is never opened."""
    victim, path = tmp_path / "victim", tmp_path / "report.json"
    victim.write_bytes(b"mine")
    tokens = ["0" * 16, "1" * 16]
    monkeypatch.setattr("secrets.token_hex", lambda n: tokens.pop(0))
    (tmp_path / f".report.json.{'0' * 16}.part").symlink_to(victim)
    (tmp_path / f".report.json.{os.getpid()}.part").symlink_to(victim)
    with pytest.raises(FileExistsError), atomic_write(path, sweep=False) as file:
        file.write(b"report")
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device", "folder"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/null")
    else:
        path.symlink_to("/dev/null")
    before = path.lstat()
    with pytest.raises(OSError, match="not a regular file"), atomic_write(path):
        raise AssertionError("nothing is opened")
    assert path.lstat().st_mode == before.st_mode


def test_parts_of_killed_processes_are_removed_and_those_in_use_stay(tmp_path: Path) -> None:
    path = tmp_path / "file"
    killed, other = f".file.{'a' * 16}.part", f".other.{'b' * 16}.part"
    for name in (killed, other):
        (tmp_path / name).write_bytes(b"half")
    with atomic_write(path) as first:
        first.write(b"first")
        (in_use,) = set(files_in(tmp_path)) - {other}
        with atomic_write(path) as second:
            second.write(b"second")
        assert files_in(tmp_path) == sorted([in_use, other, "file"])
        remove_parts(tmp_path)
        assert files_in(tmp_path) == sorted([in_use, "file"])
    assert path.read_bytes() == b"first" and files_in(tmp_path) == ["file"]


def test_without_locks_only_old_parts_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr("fcntl.flock", unsupported)
    young, old = tmp_path / f".file.{'a' * 16}.part", tmp_path / f".file.{'b' * 16}.part"
    for part in (young, old):
        part.touch()
    os.utime(old, (1, 1))
    with atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    assert files_in(tmp_path) == [young.name, "file"]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    """No file may grow beyond 300 bytes in the child: as on a full disk."""
    code = """
import resource, signal, sys
from pathlib import Path
from memaudit.files import atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
try:
    with atomic_write(Path(sys.argv[1])) as file:
        file.write(bytes(1000))
except OSError as error:
    print(error.filename)
"""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = run_python(code, path)
    assert done.stdout.strip() == str(path), done.stderr
    assert files_in(tmp_path) == ["file"] and path.read_bytes() == b"old"


def test_a_lock_is_no_way_into_another_file(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(OSError, match="it is a link, which is not followed"):
        with exclusive(tmp_path / "lock"):
            pass
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="named pipe"), exclusive(tmp_path / "pipe"):
        pass
    assert victim.read_bytes() == b"mine"
