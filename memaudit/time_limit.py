"""A time limit for calls of compiled code that is not ours and may never return.

Nothing can stop such a call from inside the process. It runs in a thread of its own, without
Python's lock, so that whoever waits for it can give up, or be stopped with Ctrl-C. The call runs on
until the process ends, which it must not do by itself: torch aborts where its code still runs.
`end_process` ends it.
"""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

_calls: list[threading.Thread] = []
"""Calls under way, and those that nobody waits for any more."""


def call_within(seconds: float, function: Callable[..., T], *arguments: Any) -> T:
    """What `function(*arguments)` returns or raises, unless it takes too long.

    Raises:
        TimeoutError: it did not return within `seconds`.
    """
    returned: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(function(*arguments))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    _calls.append(thread)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError
    _calls.remove(thread)
    if raised:
        raise raised[0]
    return returned[0]


def is_abandoned() -> bool:
    """Whether a call that nobody waits for still runs."""
    return any(thread.is_alive() for thread in _calls)


def end_process(status: int) -> NoReturn:
    """End the process at once, whatever still runs in it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or never there
            pass
    os._exit(status)
