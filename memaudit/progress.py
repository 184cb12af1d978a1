"""How long jobs say where they are: a callback, which becomes a bar, a line, or nothing."""

import sys
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TextIO

from memaudit.escapes import terminal

EVERY = 10.0
"""Seconds between two lines of one task where lines stay, as in a log."""
LATER = 60.0
"""The same for a task that takes long, so that a log of hours can be read."""
LONG = 120.0
"""Seconds after which a task takes long."""
REFRESH = 0.1
"""Seconds between two states of a line that is written over."""
QUIET = 1.0
"""Seconds that a task takes before anything is said of it."""
WIDTH = 79
"""Columns of a line that is written over."""


class Progress(Protocol):
    """Called now and then with the task's name, the units done and the units in all.

    `total` is None where it is not known beforehand. `note` is a short text to show beside the
    numbers, such as the current loss.
    """

    def __call__(self, task: str, done: int, total: int | None, note: str = "") -> None: ...


def silent(task: str, done: int, total: int | None, note: str = "") -> None:
    """Say nothing."""


def add_suffix(progress: Progress, suffix: str) -> Progress:
    """Return a callback that passes everything on, with a suffix to each task's name."""

    def call(task: str, done: int, total: int | None, note: str = "") -> None:
        progress(f"{task} {suffix}", done, total, note)

    return call


@dataclass
class _Clock:
    """What is known of a task: when it started and was last shown, and how far it is."""

    started: float
    shown: float
    first: int
    """Units that were done when it started: not 0 where a job is resumed."""
    done: int = 0
    has_ended: bool = False


class LineProgress:
    """A line of text per task, which a terminal, a notebook and a log can bear.

    Where the stream can write over a line, a task has one line that is kept up to date. In a log a
    task gets a line every few seconds and one at its end. What is over within a second gets none.

    Args:
        stream: where to write.
        overwrite: whether a line can be written over.
        stamped: whether each line that stays begins with the time of day.
    """

    def __init__(self, stream: TextIO, *, overwrite: bool, stamped: bool = False) -> None:
        self._stream, self._overwrite, self._stamped = stream, overwrite, stamped
        self._every = REFRESH if overwrite else EVERY
        self._clocks: dict[str, _Clock] = {}

    def __call__(self, task: str, done: int, total: int | None, note: str = "") -> None:
        now = time.monotonic()
        clock = self._clocks.get(task)
        ends = total is not None and done >= total
        if clock is not None and clock.has_ended and ends:
            return
        if clock is None or clock.has_ended or done < clock.done:  # it starts, maybe again
            clock = self._clocks[task] = _Clock(started=now, shown=now, first=done)
        clock.done, clock.has_ended = done, ends
        elapsed = now - clock.started
        every = LATER if elapsed > LONG and not self._overwrite else self._every
        if elapsed >= QUIET and (ends or now - clock.shown >= every):
            clock.shown = now
            text = describe_progress(task, done, total, elapsed, note, first=clock.first)
            self._write(terminal(text), ends)

    def _write(self, text: str, ends: bool) -> None:
        if self._overwrite:
            text = text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
            self._stream.write(f"\r{text:{WIDTH}}" + ("\n" if ends else ""))
        else:
            at = f"{datetime.now():%H:%M:%S} " if self._stamped else ""
            self._stream.write(f"{at}{text}\n")
        self._stream.flush()


def describe_progress(
    task: str, done: int, total: int | None, elapsed: float, note: str = "", *, first: int = 0
) -> str:
    """`Sampling: 64/1,000, 12.0/s, 5 s, 78 s left, 3 copies among 64 judged`.

    Args:
        first: units that were done before the `elapsed` seconds.
    """
    # A task that speaks only once was not resumed: all of it is new.
    rate = ((done - first) or done) / max(elapsed, 1e-9)
    text = f"{task}: {done:,}" + (f"/{total:,}" if total is not None else "")
    text += f", {rate:,.1f}/s, {elapsed:.0f} s"
    if total is not None and 0 < done < total:
        text += f", {(total - done) / rate:.0f} s left"
    return text + (f", {note}" if note else "")


def show_progress() -> Progress:
    """A callback that writes each task's progress to standard error.

    A terminal and a notebook get a line per task that is kept up to date; a log gets a line now and
    then. Use it as `memaudit.scan(source, data, progress=memaudit.show_progress())`.
    """
    overwrite = is_notebook() or sys.stderr.isatty()
    return LineProgress(sys.stderr, overwrite=overwrite, stamped=not overwrite)


def is_notebook() -> bool:
    """Whether this runs in a notebook, where a line can be written over."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


def automatic(task: str, done: int, total: int | None, note: str = "") -> None:
    """Show progress in a notebook, and say nothing elsewhere: the default of long library calls."""
    if is_notebook():
        _notebook_progress()(task, done, total, note)


_in_notebook: Progress | None = None


def _notebook_progress() -> Progress:
    global _in_notebook
    if _in_notebook is None:
        _in_notebook = show_progress()
    return _in_notebook
