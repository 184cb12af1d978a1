"""Kill a command at any moment, or fill the disk, and see what the same command makes of the rest.

The commands run in forks of this process, which has imported everything already. A new interpreter
takes seconds to import torch, and nearly all kills would hit that.
"""

import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from typing import BinaryIO

from memaudit.cli.main import main


def kill_after(seconds: float, *arguments: object) -> bool:
    """Run `memaudit ARGUMENTS…`, and kill it so that it cannot tidy up.

    Returns:
        Whether it was still running.
    """
    with open(os.devnull, "r+b", buffering=0) as nowhere:
        child = _fork(lambda: None, nowhere, arguments)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def run_on_a_full_disk(largest: int, *arguments: object) -> tuple[int, str]:
    """Run `memaudit ARGUMENTS…`, where no file may grow beyond `largest` bytes.

    Returns:
        The exit status, and what it printed.
    """

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    reader, writer = os.pipe()  # which has no size, unlike a file
    with open(writer, "wb", buffering=0) as said:
        child = _fork(fill, said, arguments)
    with open(reader, "rb") as heard:
        text = heard.read().decode()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), text


def _fork(prepare: Callable[[], None], said: BinaryIO, arguments: tuple[object, ...]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of pytest-xdist, not ours
        child = os.fork()
    if child == 0:
        status = 99
        try:
            sys.stdout = sys.stderr = open(said.fileno(), "w", buffering=1, closefd=False)
            sys.argv = ["memaudit", *map(str, arguments)]
            prepare()
            main()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 98
        finally:
            sys.stdout.flush()
            os._exit(status)
    return child
