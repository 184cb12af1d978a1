"""The program `memaudit`: find the command asked for and turn errors into messages."""

import errno
import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

import click
from click.shell_completion import CompletionItem

import memaudit
from memaudit.cli.long_work import add_output_options, begin
from memaudit.cli.threads import leave_busy_cores
from memaudit.errors import CacheWarning, ConfigError, MemauditError
from memaudit.escapes import terminal
from memaudit.ranks.joined import current_leader, current_worker, join
from memaudit.ranks.launch import leave_status, status_of_ended
from memaudit.ranks.place import STATUS_FILE, Place, launched_place
from memaudit.time_limit import end_process, is_abandoned
from memaudit.wording import short

COMMANDS = {
    "scan": "Measure how many generated images copy a training image.",
    "check": "Find out whether a model gives certain images back.",
    "repeats": "Find near-equal images among those that a model generates.",
    "train": "Train a diffusion model on a set of images.",
    "emm": "Measure how many training images a setup memorizes.",
    "reproduce": "Train what the paper trained, and compare the ratios with the published ones.",
    "sample": "Generate images from a checkpoint.",
    "dataset": "Build training sets, look into them, find duplicates and what would leak first.",
    "cache": "List the decoded images and features that are kept, and remove them.",
    "inspect": "Show what a checkpoint holds, without running anything in it.",
    "convert": "Turn a checkpoint into safetensors, without running anything in it.",
    "report": "Compare reports side by side, or write one as an annex for an authority.",
    "card": "Print the card of an audit: Markdown for a model's page.",
    "verify": "Check a report: against itself, its checkpoint and images, and the audit agreed on.",
    "selftest": "Test on your own images that the audit measures what is known.",
    "doctor": "Show what is installed here, what it computes with, and what is missing.",
    "completion": "Print a script that completes commands and options in a shell.",
    "manual": "Write a manual page for every command, for man.",
    "demo": "Watch a model being caught copying, in about two minutes.",
    "torchrun": "Run one of these commands on several GPUs or machines.",
}
"""Name and first help line of each command, whose code is in the file of that name."""

COMPUTING = ("scan", "check", "repeats", "train", "emm", "reproduce", "sample", "selftest", "demo")
"""Commands whose time is that of networks and searches."""
COMPUTING_WITH = {"verify": "--source", "inspect": "--data"}
"""Further commands of which this is so with an option."""
SHARED = ("scan", "sample", "selftest", "emm", "reproduce")
"""Commands that ranks share."""
COULD_NOT_RUN = 2
"""Exit status of every error; 1 means FAIL and 3 INCONCLUSIVE."""
STOPPED = 130
"""Exit status after Ctrl-C, SIGTERM or a closed terminal."""
_DEBUG = "memaudit.debug"
"""Key of click's context under which `--debug` is noted."""

LONGEST_MESSAGE = 5000
"""Characters of an error that are printed; the paths in it alone may take thousands."""


class Commands(click.Group):
    """Imports a command's file only when it is needed, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"memaudit.cli.{name}"), name)
        add_output_options(command)
        _add_debug_option(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [name for name in COMMANDS if name.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*(CompletionItem(name, help=COMMANDS[name]) for name in names), *options]

    def invoke(self, ctx: click.Context) -> object:
        talk = begin(ctx)
        try:
            with _cache_warnings_shown():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.meta.get(_DEBUG):
                for line in "".join(traceback.format_exception(error)).splitlines():
                    click.echo(terminal(line), err=True)
            if (worker := current_worker()) is not None:
                raise click.exceptions.Exit(worker.fail(error)) from error
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            names = {} if command is None else option_names(command)
            raise _Failure(in_one_line(error, names)) from error
        finally:
            talk.close()


@contextmanager
def _cache_warnings_shown() -> Iterator[None]:
    """Show in words why the cache is not used, not as Python shows warnings."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_in_words(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            from memaudit.cli.console import remark

            if issubclass(category, CacheWarning):
                remark(f"Warning: {message}")
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_in_words
        yield


def in_one_line(error: Exception, names: Mapping[str, str] = MappingProxyType({})) -> str:
    """What an error says to a person; whatever it is, an audit that met it has no verdict.

    Args:
        error: any error.
        names: the options that set the fields which a message names.
    """
    if isinstance(error, MemauditError):
        return error.worded(names)
    said = " ".join(str(error).split())
    if isinstance(error, OSError):  # for example, a full disk or a removed folder
        place = f"{error.filename}: " if error.filename else ""
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        more = " What was whole before is kept: make room, and give the command again."
        return f"{place}{error.strerror or said}.{more if is_full else ''}"
    is_torchs = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in said
    if isinstance(error, MemoryError) or is_torchs:
        more = f" ({short(said)})" if said else ""
        return f"Memory ran out{more}. Use fewer or smaller images, or a machine with more memory."
    if "no kernel image" in said:
        return (
            f"This PyTorch holds no code for this GPU ({short(said)}). Compute with --device cpu, "
            "or install a PyTorch that supports the GPU."
        )
    if type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError"):
        return (
            "Another process of this run ended or cannot be reached any more "
            f"({short(said)}). Look at what the others printed, and give the command again."
        )
    if isinstance(error, RecursionError):
        return "Something in a file given is nested too deep to be read."
    what = ": ".join(text for text in (type(error).__name__, short(said, 300)) if text)
    return (
        f"{what} ({_place(error)}). memaudit did not expect this: please report it with what the "
        "same command prints with --debug."
    )


def _place(error: Exception) -> str:
    """The last line of the package that an error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "memaudit" in Path(frame.filename).parts]
    if not ours:
        return "outside memaudit"
    path = Path(ours[-1].filename)
    return f"{path.parent.name}/{path.name}:{ours[-1].lineno}"


def _add_debug_option(command: click.Command) -> None:
    """Let every command take `--debug`, which prints the traceback of an error."""
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            _add_debug_option(subcommand)
        if not command.invoke_without_command:
            return
    if not any(param.name == "debug" for param in command.params):
        command.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_note_debug,
                help="Print the traceback of an error.",
            )
        )


def _note_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[_DEBUG] = ctx.meta.get(_DEBUG) or value  # shared by all contexts of one call


def option_names(command: click.Command) -> dict[str, str]:
    """The option that sets each field in a command, such as `--batch-size` for `batch_size`."""
    return {option.name or "": option.opts[0] for option in _options(command)}


def _options(command: click.Command) -> Iterator[click.Option]:
    """The options of a command, or of all commands of a group."""
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            yield from _options(subcommand)
    for param in command.params:
        if isinstance(param, click.Option):
            yield param


class _Failure(click.ClickException):
    exit_code = COULD_NOT_RUN

    def show(self, file: object = None) -> None:
        click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(terminal(self.message, LONGEST_MESSAGE), err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(memaudit.__version__, package_name="memaudit-diffusion")
def cli() -> None:
    """Measure whether a trained diffusion model copies its training images.

    \b
    memaudit demo                                     # the whole story on handwritten digits
    memaudit scan model.safetensors --data ./train    # audit a checkpoint
    memaudit scan ./generated --data ./train          # audit images of any generator

    Exit status: 0 done or PASS, 1 FAIL, 2 could not run, 3 INCONCLUSIVE, 130 stopped.
    """


def main() -> None:
    """Entry point of the installed command."""
    _stop_on_signals()
    place, status_file = launched_place(), os.environ.get(STATUS_FILE)
    try:
        if place is not None and place.restarts and status_file is not None:
            # A rank that dies while it ends has all started again, with nothing left to do.
            if (ended_with := status_of_ended(Path(status_file))) is not None:
                sys.exit(ended_with)
        if place is None:
            if computes_here(sys.argv[1:]):
                chosen = leave_busy_cores(os.environ)
                if chosen is not None and "--quiet" not in sys.argv:
                    click.echo(chosen, err=True)
            _run()
        else:
            _run_as_rank(place)
    except SystemExit as exit_:
        if status_file is not None:
            status = _status(exit_)
            leads = place is not None and not place.rank and sys.argv[1] in SHARED
            has_ended = leads and status != STOPPED
            leave_status(Path(status_file), status, has_ended=has_ended)
            exit_.code = 0
        if is_abandoned():
            end_process(_status(exit_))
        raise


def computes_here(arguments: Sequence[str]) -> bool:
    """Whether a command computes in this process, and not in ranks that it starts."""
    options = {argument.partition("=")[0] for argument in arguments}
    name = next(iter(arguments), "")
    computes = name in COMPUTING or COMPUTING_WITH.get(name) in options
    return computes and not options & {"--help", "--devices"}


def _status(exit_: SystemExit) -> int:
    return exit_.code if isinstance(exit_.code, int) else 0


def _run_as_rank(place: Place) -> None:
    """Run the command asked for as one of several ranks, of which only rank 0 prints."""
    name = next(iter(sys.argv[1:]), "")
    if name == "train":  # its ranks exchange gradients
        _run()
    if place.rank and "--debug" not in sys.argv:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
    if name in COMMANDS and name not in SHARED:
        _Failure(
            f"{name} gains nothing from several processes, and {place.num_ranks} of them run it. "
            "Start it without torchrun."
        ).show()
        sys.exit(COULD_NOT_RUN)
    if place.restarts and not place.rank:
        said = f"A rank died. All are started again (restart {place.restarts})."
        click.echo(said, err=True)
    with join(place):
        try:
            _run()
        except SystemExit as exit_:
            if (leader := current_leader()) is not None:
                leader.end(_status(exit_))
            raise


def _run() -> None:
    """Run the command asked for, and exit with its status."""
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        if (worker := current_worker()) is not None:
            sys.exit(worker.fail(ConfigError(error.format_message())))
        error.message = terminal(error.message, LONGEST_MESSAGE)  # type: ignore[misc]  # quotes arguments as they are
        error.show()
        sys.exit(COULD_NOT_RUN)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        sys.exit(STOPPED)
    except Exception as error:  # Python would exit with 1, which means FAIL
        _Failure(in_one_line(error)).show()
        sys.exit(COULD_NOT_RUN)


def _stop_on_signals() -> None:
    """Let SIGTERM and a closed terminal end the program as Ctrl-C does, unless they are ignored."""
    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) == signal.SIG_DFL:
            signal.signal(name, signal.default_int_handler)
