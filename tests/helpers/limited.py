"""Run what may exhaust the machine in a child process that cannot."""

import os
import resource
import subprocess
import sys
from pathlib import Path

MEMORY = 4 << 30
"""Bytes of addresses that the child may ask for; torch alone takes 1 GiB of them."""
TIMEOUT = 60
"""Seconds until the child is killed."""
ROOT = Path(__file__).parents[2]


def run_python(
    code: str,
    *arguments: str | Path,
    memory: int = MEMORY,
    timeout: float = TIMEOUT,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run Python code, which finds the arguments in `sys.argv[1:]`.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout`, and was killed.
    """
    return _run(["-c", code, *map(str, arguments)], memory, timeout, cwd)


def run_memaudit(
    *arguments: str | Path,
    memory: int = MEMORY,
    timeout: float = TIMEOUT,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command of memaudit.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout`, and was killed.
    """
    return _run(["-m", "memaudit", *map(str, arguments)], memory, timeout, cwd)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Check that a command ended with one message, which holds these words, and status 2."""
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said[-3000:]
    assert done.returncode == 2, f"exit status {done.returncode}: {said[-3000:]}"
    assert done.stderr.count("Error: ") == 1, said[-3000:]
    assert len(done.stderr) < 3000, said[:3000]
    for word in words:
        assert word in done.stderr, said[-3000:]


def _run(
    command: list[str], memory: int, timeout: float, cwd: Path | None
) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Each thread takes addresses of its own.
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        cwd=cwd,
        preexec_fn=limit,
    )
