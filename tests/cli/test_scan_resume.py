"""`memaudit scan`, killed at any moment or out of disk, ends in the report of a whole one."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from memaudit.audit.report.verify import verify_report
from memaudit.audit.scan_state import STATE

Run = Callable[..., Result]


def arguments(checkpoint: Path, data: Path, out: Path, samples: int) -> tuple[str, ...]:
    options = ("--samples", samples, "--batch-size", 8, "--steps", 6, "--without", "optimality")
    return tuple(map(str, ("scan", checkpoint, "--data", data, "--out", out, *options)))


def start(arguments: tuple[str, ...], *, prelude: str = "") -> subprocess.Popen[str]:
    """Start a process, which takes seconds to import torch; one that is not cut short needs none.

    Args:
        arguments: what follows `memaudit`.
        prelude: code that the process runs first.
    """
    program = f"{prelude}\nfrom memaudit.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=240)
    return process.returncode, stderr


def content_of(out: Path) -> dict[str, Any]:
    report = json.loads((out / "report.json").read_bytes())
    for varying in ("timings", "environment", "files", "sha256"):
        del report[varying]
    return {"report": report, "matches": (out / "matches.csv").read_text()}


def parts(out: Path) -> int:
    return len(list((out / STATE).glob("part-*.npz")))


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_killed_scan_resumes_and_ends_the_same(
    run: Run, checkpoint: Path, make_npz: Callable[..., Path], tmp_path: Path, kills: int
):
    data, samples = make_npz(50), 40 + 40 * kills
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(*arguments(checkpoint, data, whole, samples)).exit_code == 0
    moments = random.Random(kills)
    for _ in range(kills):
        process = start(arguments(checkpoint, data, killed, samples))
        reached = parts(killed) + moments.randint(1, 3)
        while parts(killed) < reached and process.poll() is None:
            time.sleep(0.001)
        time.sleep(moments.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        finish(process)
        kept = parts(killed)
        assert kept >= reached - 1 and not (killed / "report.json").exists()
    assert run(*arguments(checkpoint, data, killed, samples)).exit_code == 0
    assert content_of(killed) == content_of(whole)
    assert verify_report(killed).passed
    assert not (killed / STATE).exists()


def test_a_disk_that_fills_up_is_an_error_and_loses_nothing(
    run: Run, checkpoint: Path, make_npz: Callable[..., Path], tmp_path: Path
):
    out = tmp_path / "report"
    command = arguments(checkpoint, make_npz(50), out, 40)
    # No file may grow beyond 300 bytes once the third batch is due: as on a full disk.
    prelude = """
import resource
from memaudit.audit.scan_state import ScanState
store = ScanState.store
def full(self, position, batch):
    if position >= 16:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
    store(self, position, batch)
ScanState.store = full
"""
    status, stderr = finish(start(command, prelude=prelude))
    assert status == 2, stderr
    assert "Error: " in stderr and "Traceback" not in stderr
    assert parts(out) == 2 and not list(out.rglob("*.part"))
    assert run(*command).exit_code == 0
    assert verify_report(out).passed
