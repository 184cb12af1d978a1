"""The command lines that documents and notebooks show, and the small files that they name."""

import json
import re
import shlex
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import click
import numpy as np
from PIL import Image

from helpers.example_files import make_example_files
from memaudit.cli.main import COMMANDS, cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
_CALL = re.compile(r"(?:^|[\s;/!])memaudit (?=[a-z])")
_END = re.compile(r"\s(?:#|\||\d?>|&&|;)|\)?`")


def text_of(path: Path) -> str:
    """The Markdown of a document, or of a notebook with its shell commands in fences."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join(
        source if cell["cell_type"] == "markdown" else f"```\n{source}\n```"
        for cell in cells
        if (source := "".join(cell["source"]))
    )


def commands_in(path: Path) -> Iterator[list[str]]:
    """Each whole command line of a document, split into words, without what stands for others."""
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```", text_of(path), re.M | re.S)
    for language, block in blocks:
        if language in ("python", "toml", "json", "text"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            parts = _CALL.split(line, maxsplit=1)
            if len(parts) < 2 or parts[0].lstrip().startswith("#") or "import" in parts[0]:
                continue
            said = _END.split(parts[1], maxsplit=1)[0].strip()
            if said and not re.search(r"[…$\[<{]|\.\.\.", said):
                yield shlex.split(said)


def named(words: list[str]) -> tuple[click.Command | None, list[str]]:
    """The command that the first words name, and the words that follow."""
    command = cli.get_command(click.Context(cli), words[0]) if words[0] in COMMANDS else None
    rest = words[1:]
    while isinstance(command, click.Group) and rest and rest[0] in command.commands:
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def parse(command: click.Command, words: list[str]) -> None:
    """Read a command's words as click does, but for whether the files that they name exist.

    Raises:
        click.UsageError: an option that the command does not have, or a value that it refuses.
    """
    context = click.Context(command, info_name=command.name)
    values, left, _ = command.make_parser(context).parse_args(list(words))
    if left and not isinstance(command, click.Group):
        raise click.UsageError(f"{left} is too much")
    for parameter in command.get_params(context):
        value = values.get(parameter.name or "")
        if value is None or not isinstance(value, str | list | tuple):
            if parameter.required and not isinstance(value, str | list | tuple):
                raise click.UsageError(f"{parameter.opts[0]} is missing")
        elif not isinstance(parameter.type, click.Path | click.File):
            parameter.type_cast_value(context, value)


def make_documented_files(folder: Path) -> None:
    """Small files under the names that the documents use."""
    make_example_files(
        folder,
        image_folders=("train", "test", "holdout", "generated", "mine", "unpublished", "images"),
    )
    rng = np.random.default_rng(1)
    for name in ("holdout", "test", "unpublished"):  # enough of them to rank an image among
        for i in range(12, 40):
            _picture(rng, 8).save(folder / name / f"{i:02}.png")
    np.savez(folder / "train.npz", images=rng.integers(0, 256, (12, 8, 8, 3), np.uint8))
    np.savez(folder / "given.npz", images=rng.integers(0, 256, (12, 32, 32, 3), np.uint8))
    for name in ("trained", "resized", "held-out"):
        _picture(rng, 32).save(folder / f"{name}.jpg")
    _picture(rng, 32).save(folder / "icon.png")
    _archive(folder / "cifar10.zip", [f"{kind}/{i:03}.png" for kind in "ab" for i in range(50)])
    _archive(folder / "cifar10-test.zip", [f"{kind}/{i}.png" for kind in "ab" for i in range(20)])
    _archive(
        folder / "set.zip",
        [f"{kind}/{i:02}.png" for kind in ("train", "test") for i in range(12)],
        8,
    )
    (folder / "policy.toml").write_text('[gate]\nlimit = "0.1%"\n')


def _picture(rng: np.random.Generator, size: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))


def _archive(path: Path, names: list[str], size: int = 32) -> None:
    rng = np.random.default_rng(len(names))
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            held = BytesIO()
            _picture(rng, size).save(held, "PNG")
            archive.writestr(name, held.getvalue())
