"""The program `memaudit`: find the command asked for and turn errors into messages."""

import importlib
import sys
from collections.abc import Iterator

import click

import memaudit
from memaudit.errors import MemauditError

COMMANDS = {
    "scan": "Measure how many generated images copy a training image.",
    "train": "Train a diffusion model on a set of images.",
    "emm": "Measure how many training images a setup memorizes.",
    "reproduce": "Train what the paper trained, and compare the ratios with the published ones.",
    "sample": "Generate images from a checkpoint.",
    "dataset": "Build training sets, inspect them, find duplicates.",
    "inspect": "Show what a checkpoint holds, without running anything in it.",
    "convert": "Turn a checkpoint into safetensors, without running anything in it.",
    "report": "Compare reports side by side: snapshots of a run, models of a sweep.",
    "verify": "Compute a report's verdict again from its saved matches, and check its hashes.",
    "selftest": "Test on your own images that the audit measures what is known.",
    "demo": "Watch a model being caught copying, in about two minutes.",
}
"""Name and first help line of each command, whose code is in the file of that name."""

COULD_NOT_RUN = 2
"""Exit status of every error; 1 means FAIL and 3 INCONCLUSIVE."""


class Commands(click.Group):
    """Imports a command's file only when it is needed, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"memaudit.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except MemauditError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            names = {} if command is None else option_names(command)
            raise _Failure(error.worded(names)) from error
        except OSError as error:  # for example, a full disk or a removed folder
            place = f"{error.filename}: " if error.filename else ""
            raise _Failure(f"{place}{error.strerror or error}.") from error


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
        click.echo(self.message, err=True)


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
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(COULD_NOT_RUN)
    except click.Abort:
        click.echo("Stopped.", err=True)
        sys.exit(130)
