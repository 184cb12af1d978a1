"""Ctrl-C and SIGTERM that wait until the step at hand is done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, the polite end that schedulers send before they kill, and a closed terminal."""


class Interrupt:
    """Whether the program was asked to stop."""

    requested = False


@contextmanager
def defer_interrupt() -> Iterator[Interrupt]:
    """Note the first of SIGNALS instead of ending at once; a second one does what it always does.

    This lets a loop end between two steps, with its state complete. It does nothing outside the
    main thread, which receives no signals, and for a signal that is ignored, as Ctrl-C is in a
    shell's background job.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    previous = {
        signum: handler
        for signum in SIGNALS
        if (handler := signal.getsignal(signum)) not in (signal.SIG_IGN, None)
    }

    def restore() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    def note(signum: int, frame: FrameType | None) -> None:
        interrupt.requested = True
        restore()

    for signum in previous:
        signal.signal(signum, note)
    try:
        yield interrupt
    finally:
        restore()
