"""How long commands speak: quiet, verbose, forecasts, and the line at the end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.forged_reports import seal_again
from helpers.tiny_networks import SMALLEST

from memaudit.cli import console, forecast
from memaudit.cli.long_work import LONG, LONGEST, closing_line, finish
from memaudit.cli.main import COMMANDS, COMPUTING, cli
from memaudit.models.build import build_network
from memaudit.models.checkpoints import save_checkpoint

Run = Callable[..., Result]


def commands() -> dict[str, click.Command]:
    found = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        found |= dict(command.commands) if isinstance(command, click.Group) else {name: command}
    return found


def test_every_long_command_takes_both_options():
    assert set(COMPUTING) < set(LONG)
    for name in LONG:
        options = {option for param in commands()[name].params for option in param.opts}
        assert {"--quiet", "--verbose"} <= options, name


def test_quiet_prints_one_line_and_the_status_stays(
    run: Run, make_npz: Callable[..., Path], tmp_path: Path
):
    images = make_npz(70)
    given = ("scan", images, "--data", images, "--fail-above", 0.5)
    result = run(*given, "--quiet", "--out", tmp_path / "report")
    assert result.exit_code == 1
    assert result.stderr == ""
    (line,) = result.stdout.splitlines()
    assert line.startswith("memaudit scan: FAIL: more than 50.0 %")
    assert "70 copies of 70" in line and len(line) <= LONGEST
    # The next call speaks again.
    loud = run("verify", tmp_path / "report")
    assert loud.stdout.startswith("ok ") and "memaudit verify: as written" in loud.stderr


def test_quiet_says_that_there_are_warnings(
    run: Run, make_npz: Callable[..., Path], tmp_path: Path
):
    model = tmp_path / "augmented.safetensors"
    network = build_network(SMALLEST)
    save_checkpoint(model, network, SMALLEST, provenance={"training_config": {"augment": 0.1}})
    given = ("scan", model, "--data", make_npz(10), "--samples", 4, "--steps", 2)
    options = ("--without", "optimality")
    assert "Warning: The checkpoint was trained on images that" in run(*given, *options).stderr
    assert " · 1 warning · " in run(*given, *options, "--quiet").stdout


def test_quiet_leaves_json_alone(run: Run, make_npz: Callable[..., Path]):
    images = make_npz(10)
    result = run("scan", images, "--data", images, "--quiet", "--json")
    assert json.loads(result.stdout)["num_leaking_images"] == 10
    assert result.stderr.startswith("memaudit scan: 10 of 10")


def test_quiet_says_errors(run: Run, make_npz: Callable[..., Path], tmp_path: Path):
    result = run("scan", tmp_path / "none.npz", "--data", make_npz(10), "--quiet")
    assert result.exit_code == 2 and "none.npz" in result.stderr and not result.stdout
    assert not console.out.quiet and not console.err.quiet
    both = run("verify", tmp_path, "--quiet", "--verbose")
    assert both.exit_code == 2 and "leave one out" in both.stderr


def test_verbose_says_where_the_time_went(
    run: Run, checkpoint: Path, make_npz: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("memaudit.cli.long_work.SHORTEST", 0.0)
    result = run("scan", checkpoint, "--data", make_npz(20), "--samples", 8, "--verbose")
    lines = result.stderr.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("Where the time went"))
    said = "\n".join(lines[first:])
    assert "denoising test" in said and "everything else" in said and "memory at its peak" in said
    assert lines[-1].startswith("memaudit scan: 0 of 8")


def test_a_command_of_a_group_is_named_whole(run: Run, make_npz: Callable[..., Path]):
    result = run("dataset", "duplicates", make_npz(10), "--quiet")
    assert result.stdout.startswith("memaudit dataset duplicates: 0 of 10 images repeat another")


@pytest.mark.parametrize("length", [10, 139, 200, 500])
def test_the_line_at_the_end_fits_a_commit_status(length: int):
    line = closing_line("memaudit scan", ["x" * length, "y" * 30, "z\nz."])
    assert len(line) <= LONGEST and "\n" not in line
    assert ("…" in line) == (length > LONGEST - 15)
    assert ("z z" in line) == (length < 120)


def test_the_end_of_a_headline_is_not_cut_off():
    headline = f"Not shown that the image is given back, {'x' * 100}; it is copied by an image"
    line = closing_line("memaudit check", [headline, "1 s"])
    assert len(line) <= LONGEST and line.endswith("it is copied by an image")


def test_without_a_command_there_is_no_line(capsys: pytest.CaptureFixture[str]):
    finish("done")
    assert capsys.readouterr() == ("", "")


def test_a_scan_says_before_it_starts_what_it_costs(
    run: Run,
    checkpoint: Path,
    make_npz: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(forecast, "MANY_GROUPS", 0)
    given = ("scan", checkpoint, "--data", make_npz(20), "--samples", 70, "--steps", 2)
    result = run(*given, "--without", "optimality", "--out", tmp_path / "report")
    assert result.exit_code == 0, result.stderr
    said = result.stderr.splitlines()[0]
    assert said.startswith("70 images will take about ")
    assert "13 kB of disk at most" in said and "of memory" in said
    undecided = run(*given[:5], 10, "--steps", 2, "--fail-above", 0.01, "--min-samples", 10)
    assert "about 377 images would decide" in undecided.stderr.splitlines()[-1]
    gated = run(*given[:5], 9000, "--steps", 2, "--fail-above", 0.4, "--without", "optimality")
    assert "If none is a copy, it is likely to stop after 64 images" in gated.stderr


def test_a_search_is_timed_where_it_is_long(
    run: Run, make_npz: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    images = make_npz(40)
    assert "The search" not in run("dataset", "duplicates", images).stderr
    monkeypatch.setattr(forecast, "LONG_SEARCH", 0)
    assert "The search will take about 0." in run("dataset", "duplicates", images).stderr
    assert "s and about 61 kB of memory" in run("scan", images, "--data", images).stderr


def test_a_set_says_what_it_takes_before_it_is_written(
    run: Run, make_npz: Callable[..., Path], tmp_path: Path
):
    result = run("dataset", "build", "--data", make_npz(30), "--out", tmp_path / "set.npz")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("30 images will take about ")
    assert "6 kB of disk at most" in result.stderr


def test_a_verification_with_the_images_says_how_long_it_takes(
    run: Run, make_npz: Callable[..., Path], tmp_path: Path
):
    images = make_npz(30)
    run("scan", images, "--data", images, "--out", tmp_path / "report")
    result = run("verify", tmp_path / "report", "--data", images, "--source", images)
    assert result.exit_code == 0, result.stderr
    assert "If this machine is as fast as that of the report, this will take" in result.stderr

    def state_no_time(report: dict[str, Any]) -> None:
        for step in report["timings"]["steps"]:
            step["seconds"] = "inf"

    seal_again(tmp_path / "report", state_no_time)
    forged = run("verify", tmp_path / "report", "--data", images, "--source", images)
    assert forged.exit_code in (0, 1) and "will take" not in forged.stderr, forged.stderr


def test_lines_of_a_log_have_the_time_of_day(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("memaudit.progress.QUIET", -1.0)

    @click.command()
    def work() -> None:
        with console.progress_bars() as progress:
            progress("Sampling", 0, 2)
            progress("Sampling", 2, 2)

    stderr = CliRunner().invoke(work).stderr
    assert np.all([line[2] == line[5] == ":" for line in stderr.splitlines()])
    assert "Sampling: 2/2" in stderr
