"""Only regular files are read; files appear whole or not at all; a lock has one holder."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.limited import run_python

from memaudit.files import atomic_write, exclusive, read_regular

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
