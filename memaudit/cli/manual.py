"""`memaudit manual`: pages for `man`, from the help of every command."""

import re
from collections.abc import Iterator
from pathlib import Path

import click

import memaudit
from memaudit.errors import ConfigError

PROGRAM = "memaudit"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
def manual(folder: Path) -> None:
    """Write a manual page for every command, for man.

    DIR is a folder of section 1 that man searches. The pages say what --help says.

    \b
    memaudit manual ~/.local/share/man/man1 && man memaudit-scan
    """
    from memaudit.cli.console import remark
    from memaudit.cli.main import cli

    pages = dict(manual_pages(cli))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, page in pages.items():
            (folder / f"{name}.1").write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}.") from error
    remark(f"{len(pages)} pages in {folder}, such as {PROGRAM}.1 and {PROGRAM}-scan.1.")


def manual_pages(cli: click.Group) -> Iterator[tuple[str, str]]:
    """The page of each command, in roff: its name, as `memaudit-dataset-build`, and its text."""
    yield from _pages(cli, click.Context(cli, info_name=PROGRAM))


def _pages(command: click.Command, ctx: click.Context) -> Iterator[tuple[str, str]]:
    inner = []
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            found = command.get_command(ctx, name)
            if found is not None:
                inner.append((found, click.Context(found, info_name=name, parent=ctx)))
    yield _name(ctx), _page(command, ctx, inner)
    for found, place in inner:
        yield from _pages(found, place)


def _name(ctx: click.Context) -> str:
    return ctx.command_path.replace(" ", "-")


def _page(
    command: click.Command, ctx: click.Context, inner: list[tuple[click.Command, click.Context]]
) -> str:
    name = _name(ctx)
    lines = [
        f'.TH "{name.upper()}" "1" "" "{PROGRAM} {memaudit.__version__}" "{PROGRAM}"',
        *(".SH NAME", f"{_text(name)} \\- {_text(command.get_short_help_str(200).rstrip('.'))}"),
        *(".SH SYNOPSIS", f".B {_text(ctx.command_path)}"),
        _text(" ".join(command.collect_usage_pieces(ctx))),
        *(".SH DESCRIPTION", *_paragraphs(command.help or "")),
    ]
    records = [record for each in command.get_params(ctx) if (record := each.get_help_record(ctx))]
    if records:
        lines.append(".SH OPTIONS")
    for names, said in records:
        lines += [".TP", f".B {_text(names)}", _text(said or "")]
    if inner:
        lines.append(".SH COMMANDS")
        for found, place in inner:
            said = _text(found.get_short_help_str(200))
            lines += [".TP", f".BR {_text(_name(place))} (1)", said]
    elif ctx.parent is not None:
        lines += [".SH SEE ALSO", f".BR {_text(_name(ctx.parent))} (1)"]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    """Lines of roff; what follows click's mark \\b keeps its line ends."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        yield ".PP"
        lines = paragraph.splitlines()
        if lines[0].strip() == "\b":
            yield ".nf"
            yield from map(_text, lines[1:])
            yield ".fi"
        else:
            yield _text(" ".join(line.strip() for line in lines))


def _text(text: str) -> str:
    """Text that roff shows as it is."""
    shown = " ".join(text.split("\n")).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{shown}" if shown.startswith((".", "'")) else shown
