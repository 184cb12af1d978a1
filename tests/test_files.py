"""Files appear whole or not at all; a lock is held by one process, and no longer than it lives."""

import subprocess
import sys
from pathlib import Path

import pytest

from memaudit.files import atomic_write, exclusive

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
