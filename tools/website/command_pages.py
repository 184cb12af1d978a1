"""One page per command with all of its options, as click knows them."""

import html
import re
import textwrap
from collections.abc import Iterator

import click

from memaudit.cli.main import COMMANDS, cli

_SENTENCE_OF_A_FILE = re.compile(r"\bdocs/([\w-]+\.md)\b")


def command_pages() -> dict[str, str]:
    """Return the pages of the command line by their places in docs/."""
    rows = "\n".join(f"| [`memaudit {name}`]({name}.md) | {COMMANDS[name]} |" for name in COMMANDS)
    index = (
        "# Commands\n\nEvery command and option, as `memaudit COMMAND --help` prints them; these "
        "pages are generated from the program.\n\n| command | job |\n|---|---|\n"
        f"{rows}\n\nExit status of every command: 0 done or PASS, 1 FAIL, 2 could not run, "
        "3 INCONCLUSIVE, 130 stopped.\n"
    )
    pages = {"reference/commands/index.md": index}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        parts = [_section(path, each, level) for path, each, level in _with_parts(name, command)]
        pages[f"reference/commands/{name}.md"] = "\n\n".join(parts) + "\n"
    return pages


def _with_parts(
    path: str, command: click.Command, level: int = 1
) -> Iterator[tuple[str, click.Command, int]]:
    """A command and, if it is a group, its subcommands."""
    yield path, command, level
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from _with_parts(f"{path} {name}", each, level + 1)


def _section(path: str, command: click.Command, level: int) -> str:
    context = click.Context(command, info_name=f"memaudit {path}")
    heading = f"{'#' * level} memaudit {path}"
    usage = f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```"
    prefix = path.replace(" ", "-") + "-"
    options = [
        _option(record, prefix)
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        if (record := parameter.get_help_record(context)) is not None
    ]
    listed = [f"{'#' * (level + 1)} Options of {path}", *options] if options else []
    return "\n\n".join([heading, _prose(command.help or ""), usage, *listed])


def _prose(text: str) -> str:
    """Help text as Markdown: what click is told not to wrap is code."""
    blocks = re.split(r"\n\s*\n", textwrap.dedent(f"{' ' * 4}{text}").strip())
    return "\n\n".join(
        f"```bash\n{block.partition(chr(8))[2].strip(chr(10))}\n```"
        if chr(8) in block
        else _linked(_plain(block))
        for block in map(textwrap.dedent, blocks)
    )


def _option(record: tuple[str, str], prefix: str) -> str:
    """An option as a term and its meaning, with an anchor of its own."""
    names, meaning = record
    first = re.search(r"--[\w-]+", names)
    anchor = prefix + (first[0] if first else names).strip("-").lower()
    text = _linked(_plain(" ".join(meaning.split())))
    return f"`{names}`{{ #{anchor} }}\n:   {text or '–'}"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", html.escape(text, quote=False))


def _linked(text: str) -> str:
    """Names of documents as links to them."""
    return _SENTENCE_OF_A_FILE.sub(r"[\1](../../\1)", text)
