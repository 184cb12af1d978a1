"""Print to the terminal: results on stdout, progress and remarks on stderr."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from memaudit.cli.wording import printable
from memaudit.progress import LineProgress, Progress


class _Console(Console):
    """A console that survives a closed pipe, as in `memaudit scan … | head`."""

    def on_broken_pipe(self) -> None:
        """Stop writing but keep running: rich would exit with 1, not with the verdict's status."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


out = _Console()
err = Console(stderr=True)


def remark(text: str) -> None:
    """Print text on stderr without interpreting it: a path may look like rich's markup."""
    err.print(printable(text), soft_wrap=True)


def say(text: str) -> None:
    """Print text on stdout without interpreting or coloring it."""
    out.print(printable(text), soft_wrap=True)


def print_row(name: str, value: str) -> None:
    """Print a name and its value on one line: a table would break a fingerprint in two."""
    out.print(Text.assemble((f"{name:<25} ", "bold"), printable(value)), soft_wrap=True)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Show the progress of a library call: bars on a terminal, otherwise a line now and then."""
    if not err.is_terminal:
        yield LineProgress(sys.stderr, overwrite=False)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=err) as bars:
        tasks: dict[str, TaskID] = {}

        def show(task: str, done: int, total: int | None, note: str = "") -> None:
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=total, note=note)
            bars.update(tasks[task], completed=done, total=total, note=note)

        yield show


class _Rate(ProgressColumn):
    """Recent speed, in units per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s", style="cyan")
