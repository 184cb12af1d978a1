"""What a shell completes, and the pages that man shows."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import Result

from memaudit.cli.completion import SHELLS, VARIABLE
from memaudit.cli.main import COMMANDS, cli
from memaudit.cli.manual import manual_pages

Run = Callable[..., Result]


def completed(*words: str) -> list[str]:
    """What follows the words before the last, and begins with that one."""
    *given, incomplete = words
    complete = ShellComplete(cli, {}, "memaudit", VARIABLE)
    return [item.value for item in complete.get_completions(list(given), incomplete)]


def test_commands_options_and_values_are_completed():
    assert completed("re") == ["repeats", "reproduce", "report"]
    assert set(completed("")) >= COMMANDS.keys()
    assert "--fail-above" in completed("scan", "--fail")
    assert completed("completion", "z") == ["zsh"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_sound_and_asks_the_program(run: Run, shell: str):
    script = run("completion", shell).stdout
    assert VARIABLE in script and "memaudit" in script
    if (program := shutil.which(shell)) is not None:
        subprocess.run([program, "-n"], input=script, text=True, check=True)


def test_every_command_has_a_page_with_every_option(run: Run, tmp_path: Path):
    assert run("manual", tmp_path / "man1").exit_code == 0
    pages = {path.stem: path.read_text("utf-8") for path in (tmp_path / "man1").glob("*.1")}
    assert pages == dict(manual_pages(cli))
    assert pages.keys() >= {f"memaudit-{name}" for name in COMMANDS} | {"memaudit-dataset-build"}
    scan = cli.get_command(click.Context(cli), "scan")
    assert scan is not None
    options = [option for param in scan.params for option in param.opts if option[:2] == "--"]
    assert all(option.replace("-", "\\-") in pages["memaudit-scan"] for option in options)


@pytest.mark.slow
def test_man_shows_the_pages_without_a_warning(tmp_path: Path):
    if shutil.which("groff") is None:
        pytest.skip("there is no groff here")
    for name, page in manual_pages(cli):
        command = ["groff", "-man", "-Tutf8", "-Kutf8", "-ww", "-z"]
        finished = subprocess.run(command, input=page, capture_output=True, text=True)
        assert (finished.returncode, finished.stderr) == (0, ""), name


def test_a_folder_that_cannot_be_written_is_refused(run: Run, tmp_path: Path):
    (tmp_path / "file").write_text("")
    result = run("manual", tmp_path / "file" / "man1")
    assert result.exit_code == 2 and "cannot be written" in result.stderr
