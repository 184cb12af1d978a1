"""How long commands speak: `--quiet`, `--verbose`, and the line that each of them ends with.

A command ends with one line that fits the status of a commit. It goes to standard error, or to
standard output with `--quiet`, which prints nothing else but errors. With `--json`, standard output
belongs to the JSON.
"""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import click

from memaudit.errors import ConfigError
from memaudit.progress import Progress
from memaudit.wording import duration, file_size, short

LONG = (
    *("scan", "check", "repeats", "train", "emm", "reproduce", "sample", "selftest", "demo"),
    *("verify", "build", "duplicates", "risk"),
)
"""Commands that may take minutes; the last three are commands of `dataset`."""
LONGEST = 140
"""Characters of the line at the end: GitHub shows as many of a commit's status."""
SHORTEST = 0.05
"""Seconds below which `--verbose` passes over a task."""
_KEY = "memaudit.long_work"
"""Key of click's context under which the state is."""


@dataclass
class _Spent:
    """What is known of a task for `--verbose`."""

    first: float
    last: float
    units: int = 0
    seconds: float = 0.0
    """Time that earlier runs of the same task took."""


@dataclass
class Talk:
    """What one call of a command says, and when it began."""

    quiet: bool = False
    verbose: bool = False
    started: float = field(default_factory=time.monotonic)
    tasks: dict[str, _Spent] = field(default_factory=dict)
    steps: list[tuple[str, float]] = field(default_factory=list)
    """Names and seconds of steps that were timed by the library, in place of the tasks."""
    line: str | None = None
    on_stdout: bool = False

    def silence(self, *, quiet: bool) -> None:
        """Print nothing more on the consoles, or everything again."""
        from memaudit.cli import console

        console.out.quiet = console.err.quiet = quiet

    def close(self) -> None:
        """Print where the time went, if that was asked for, and the line at the end."""
        if self.quiet:
            self.silence(quiet=False)
        if self.line is None:
            return
        from memaudit.cli.console import print_plain

        if self.verbose:
            for text in self._where_the_time_went():
                print_plain(text, err=True)
        print_plain(self.line, err=not self.on_stdout)

    def _where_the_time_went(self) -> Iterable[str]:
        total = time.monotonic() - self.started
        yield f"Where the time went, of {duration(total)}:"
        rows = list(self.steps)
        for name, task in self.tasks.items():
            seconds = task.seconds + task.last - task.first
            rate = f", {task.units / seconds:,.1f}/s" if seconds >= 0.01 and task.units else ""
            if not self.steps:
                rows.append((f"{name} ({task.units:,}{rate})", seconds))
        others = total - sum(seconds for _, seconds in rows)
        rows = [(name, seconds) for name, seconds in rows if seconds >= SHORTEST]
        if self.steps:  # said even if it is short, so that the list is seen to be whole
            rows.append(("everything else, such as loading and forecasts", max(0.0, others)))
        width = max((len(name) for name, _ in rows), default=0)
        for name, seconds in rows:
            yield f"  {name:{width}}  {duration(seconds):>12}"
        if memory := peak_memory():
            yield f"  memory at its peak: {memory}"


def begin(context: click.Context) -> Talk:
    """The state of the call of a context, which all its commands share."""
    talk = context.meta.setdefault(_KEY, Talk())
    assert isinstance(talk, Talk)
    return talk


def current_talk() -> Talk:
    """The state of the command that is running; a new one where none is."""
    context = click.get_current_context(silent=True)
    return Talk() if context is None else begin(context)


def recorded(progress: Progress) -> Progress:
    """A callback that passes everything on, and notes for `--verbose` how long each task takes."""
    tasks = current_talk().tasks

    def call(task: str, done: int, total: int | None, note: str = "") -> None:
        now = time.monotonic()
        known = tasks.get(task)
        if known is None:
            known = tasks[task] = _Spent(now, now)
        elif done < known.units:  # it starts again
            known.seconds += known.last - known.first
            known.first = now
        known.last, known.units = now, done
        progress(task, done, total, note)

    return call


def timed_steps(steps: Iterable[tuple[str, float]]) -> None:
    """Say with `--verbose` how long these steps took, instead of the tasks of the progress."""
    current_talk().steps = [(name.replace("_", "-"), seconds) for name, seconds in steps]


def finish(*parts: str) -> None:
    """Set the line that the command ends with.

    Args:
        parts: what came out, the most important first; those that do not fit are left out.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return
    talk = current_talk()
    names: list[str] = []
    command: click.Context | None = context
    while command is not None and command.parent is not None:
        names.insert(0, command.info_name or "")
        command = command.parent
    took = duration(time.monotonic() - talk.started)
    talk.line = closing_line(" ".join(["memaudit", *names]), (*parts, took))
    talk.on_stdout = talk.quiet and not context.params.get("as_json", False)


def closing_line(name: str, parts: Sequence[str]) -> str:
    """A line of at most 140 characters.

    Examples:
        >>> closing_line("memaudit scan", ["PASS: at most 1 %", "0 of 377", "12 s"])
        'memaudit scan: PASS: at most 1 % · 0 of 377 · 12 s'
    """
    first, *others = [" ".join(part.split()).rstrip(".") for part in parts if part.strip()]
    # The end of a headline may say what speaks against its start, so the middle is left out.
    line = short(f"{name}: {first}", LONGEST)
    for part in others:
        if len(line) + len(part) + 3 <= LONGEST:
            line += f" · {part}"
    return line


def peak_memory() -> str:
    """The most memory that this process had, and the most of a GPU; empty where nobody counts."""
    found = []
    try:
        import resource
    except ImportError:  # on Windows
        pass
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found.append(file_size(peak if sys.platform == "darwin" else 1024 * peak))
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found.append(f"{file_size(torch.cuda.max_memory_allocated())} of a GPU's")
    return ", ".join(found)


def add_output_options(command: click.Command) -> None:
    """Let a long command take `--quiet` and `--verbose`."""
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            add_output_options(subcommand)
        return
    if command.name not in LONG or any(param.name == "quiet" for param in command.params):
        return
    for name, help_text in (
        ("quiet", "Print only errors and one line at the end, of at most 140 characters."),
        ("verbose", "Say at the end where the time went, and how much memory it took."),
    ):
        command.params.append(
            click.Option(
                [f"--{name}"],
                is_flag=True,
                expose_value=False,
                callback=_note,
                help=help_text,
            )
        )


def _note(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    talk = begin(ctx)
    if not value:
        return
    setattr(talk, str(param.name), True)
    if talk.quiet and talk.verbose:
        raise ConfigError("--quiet and --verbose contradict each other; leave one out.")
    if talk.quiet:
        talk.silence(quiet=True)
