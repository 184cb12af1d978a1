"""A program on a terminal of its own: what would reach the screen, byte by byte."""

import os
import pty
import re
import select
import sys
import time
import traceback
import warnings
from pathlib import Path

from memaudit.wording import printable

OWN = re.compile(
    r"\x1b\[(?:[0-9;]*m|\?25[lh]|2K|\d*A)"  # styles, and the movements of progress bars
    r"|\r+\n|\r(?=\x1b\[2K|\Z)"
)
"""What rich itself sends; anything else that is not printable came from an input."""


def run_on_terminal(
    *args: object, cwd: Path, env: dict[str, str] | None = None, limit: float = 120
) -> tuple[int, str]:
    """Run `memaudit ARGS…` in a child process whose three streams are a new terminal.

    The child is forked, so that it has the modules which the tests have imported already.

    Args:
        args: arguments, which may be any text without a zero byte.
        cwd: its working folder.
        env: variables to set.
        limit: seconds until it is killed.

    Returns:
        Exit status, and all that the terminal received, as text.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside sleeping threads
        pid, terminal = pty.fork()
    if pid == 0:
        _be_memaudit([str(arg) for arg in args], cwd, env or {})
    received = b""
    ends = time.monotonic() + limit
    try:
        while time.monotonic() < ends:
            if select.select([terminal], [], [], 0.5)[0]:
                try:
                    part = os.read(terminal, 65536)
                except OSError:  # the child closed its end
                    break
                if not part:
                    break
                received += part
        else:
            os.kill(pid, 9)
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), received.decode("utf-8", "backslashreplace")


def _be_memaudit(args: list[str], cwd: Path, env: dict[str, str]) -> None:
    status = 70
    try:
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        warnings.resetwarnings()
        os.chdir(cwd)
        os.environ.update({"TERM": "xterm-256color", "COLUMNS": "100"} | env)
        sys.argv = ["memaudit", *args]
        for name in [name for name in sys.modules if name.startswith("memaudit.cli")]:
            del sys.modules[name]  # consoles look at the terminal when they are made
        from memaudit.cli.main import main

        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def foreign(text: str) -> list[str]:
    """The lines of what a terminal received that hold a character which steers or hides."""
    lines = OWN.sub("\n", text).split("\n")
    return [line for line in lines if printable(line) != line]
