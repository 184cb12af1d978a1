"""Every command line of the documents and notebooks is one that the program takes, and runs."""

import contextlib
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from helpers.documented_commands import (
    DOCUMENTS,
    NOTEBOOKS,
    commands_in,
    make_documented_files,
    named,
    parse,
)

from memaudit.cli.main import cli

SMALLER = {
    "scan": ["--samples", "12", "--batch-size", "8", "--overwrite"],
    "check": ["--samples", "8", "--controls", "19", "--noises", "1", "--overwrite"],
    "train": ["--duration-images", "64", "--num-snapshots", "1"],
    "verify": ["--spot-check", "2"],
}
"""What makes a command end soon; of an option that is given twice, the second counts."""
TOO_LARGE = {
    "ci.md": "workflows whose steps have a test of their own",
    "reproduce.md": "trainings of hours; tests/experiments run recipes of seconds",
    "performance.md": "measurements, with the machines that they were made on",
    "scale.md": "several GPUs and machines; tests/ranks run several processes",
    "install.md": "environments, which tests/test_packaging.py makes",
}
"""Documents whose commands are only parsed."""
EXECUTED = [path for path in DOCUMENTS if path.name not in TOO_LARGE and any(commands_in(path))]
ABOUT_OTHER_FILES = re.compile(
    r"\b[A-Z][A-Z-]+\b|model\.pt|\./photos|\./hospital|dataset build|selftest"
)
"""Commands about files that stand for the reader's own, and large ones."""


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=lambda path: path.name)
def test_commands_are_taken(path: Path) -> None:
    for words in commands_in(path):
        command, rest = named(words)
        if words[0] == "torchrun":
            inner = next(i for i, word in enumerate(rest) if word in ("scan", "emm", "sample"))
            command, rest = named(rest[inner:])
        assert command is not None, words
        try:
            parse(command, rest)
        except click.UsageError as error:
            pytest.fail(f"memaudit {' '.join(words)}: {error.format_message()}")


def test_there_are_commands_to_take() -> None:
    assert sum(len(list(commands_in(path))) for path in DOCUMENTS) > 50


def smaller(words: list[str]) -> list[str]:
    """A command that does the same with less."""
    less = list(SMALLER.get(words[0], ()))
    if "--dry-run" in words or (words[0] == "verify" and "--spot-check" not in words):
        less = []
    elif words[:2] == ["check", "./generated"]:
        less = ["--overwrite"]
    return [*("50" if word == "5000" else word for word in words), *less]


@pytest.mark.slow
@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.name)
def test_commands_run(path: Path, tmp_path: Path) -> None:
    make_documented_files(tmp_path)
    with contextlib.chdir(tmp_path):
        for words in commands_in(path):
            if ABOUT_OTHER_FILES.search(" ".join(words)):
                continue
            result = CliRunner().invoke(cli, smaller(words))
            assert result.exit_code in (0, 1, 3), f"{words}\n{result.output}"
