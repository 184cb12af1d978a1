"""Print to the terminal: results on stdout, progress and remarks on stderr."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, ConsoleOptions, RenderableType
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
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from memaudit.cli.long_work import recorded
from memaudit.escapes import terminal, terminal_json
from memaudit.progress import WIDTH, LineProgress, Progress, silent
from memaudit.wording import printable

if TYPE_CHECKING:
    from memaudit.data.images import ImageSet


class _Console(Console):
    """A console on which every text is a text: no markup, and nothing that steers a terminal.

    What is printed holds names and values from files that nobody vouches for. So a `str`, also in
    the cell of a table, is escaped before it is laid out, and whatever else reaches the terminal is
    escaped at the end. Only styles and cursor movements of rich's own pass: use `styled` for style.
    It also survives a closed pipe, as in `memaudit scan … | head`.
    """

    def render_str(self, text: str, *, style: str | Style = "", **options: Any) -> Text:
        """Make the text of a `str` that is printed: as it is, with escapes."""
        shown = styled(text, style)
        shown.justify, shown.overflow = options.get("justify"), options.get("overflow")
        return shown

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Render, and escape what `render_str` did not see, such as the texts of rich's columns."""
        for segment in super().render(renderable, options):
            if segment.control is None and segment.text != "\n":
                lines = map(printable, segment.text.split("\n"))
                segment = Segment("\n".join(lines), segment.style)
            yield segment

    def on_broken_pipe(self) -> None:
        """Stop writing but keep running: rich would exit with 1, not with the verdict's status."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


out = _Console()
err = _Console(stderr=True)


_NAME_WIDTH = 26
"""Columns of the names of rows, with the space behind them."""


def styled(text: str, style: str | Style) -> Text:
    """Text in one style, such as `bold red`, with escapes for what could steer a terminal."""
    return Text(terminal(text), style)


def remark(text: str, style: str = "") -> None:
    """Print text on stderr."""
    err.print(styled(text, style), soft_wrap=True)


def warn_about(images: "ImageSet") -> None:
    """Print on stderr what casts doubt on images."""
    from memaudit.data.doubts import doubts_about

    for doubt in doubts_about(images):
        remark(f"Warning: {doubt}", "bold yellow")


def say(text: str, style: str = "") -> None:
    """Print text on stdout."""
    out.print(styled(text, style), soft_wrap=True)


def say_in_lines(text: str, style: str = "") -> None:
    """Print text on stdout, on a terminal in lines that break between words."""
    out.print(styled(text, style), soft_wrap=not out.file.isatty())


def print_row(name: str, value: str) -> None:
    """Print a name and its value on one line, or as a column of lines on a terminal.

    A table would break a fingerprint in two; here no word is broken.
    """
    text = terminal(value)
    if out.file.isatty() and (width := out.width - _NAME_WIDTH) > 0:
        lines = wrap(text, width, break_long_words=False, break_on_hyphens=False)
        text = ("\n" + " " * _NAME_WIDTH).join(lines)
    label = styled(f"{name:<{_NAME_WIDTH - 1}} ", "bold")
    out.print(Text.assemble(label, Text(text)), soft_wrap=True)


def print_text(text: str) -> None:
    """Print lines on stdout as they are, none of them broken; a closed pipe changes no status."""
    for line in text.splitlines():
        out.print(Text(terminal(line, len(line))), soft_wrap=True)


def print_plain(text: str, *, err: bool) -> None:
    """Print a line also where the consoles are silent; a closed pipe changes no exit status."""
    try:
        click.echo(terminal(text), err=err)
    except BrokenPipeError:
        out.on_broken_pipe()


def print_json(content: Any) -> None:
    """Print content as strict JSON on stdout; a closed pipe changes no exit status."""
    try:
        click.echo(terminal_json(content))
    except BrokenPipeError:
        out.on_broken_pipe()


def print_script(text: str) -> None:
    """Print a program of memaudit's own on stdout, as it is."""
    click.echo(text)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Show the progress of a library call: bars on a terminal, otherwise a line now and then."""
    if err.quiet:
        yield recorded(silent)
        return
    if not err.is_terminal:
        yield recorded(LineProgress(sys.stderr, overwrite=False, stamped=True))
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bars(*columns, console=err) as bars:
        tasks: dict[str, TaskID] = {}

        def show(task: str, done: int, total: int | None, note: str = "") -> None:
            note = terminal(note, WIDTH)
            if task not in tasks:
                tasks[task] = bars.add_task(terminal(task, WIDTH), total=total, note=note)
            elif done < bars.tasks[bars.task_ids.index(tasks[task])].completed:  # it starts again
                bars.reset(tasks[task], total=total)
            bars.update(tasks[task], completed=done, total=total, note=note)

        yield recorded(show)


class _Rate(ProgressColumn):
    """Recent speed, in units per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s", style="cyan")
