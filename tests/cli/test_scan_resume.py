"""`memaudit scan`, killed at any moment or out of disk, ends in the report of a whole one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from memaudit.audit.report.verify import verify_report
from memaudit.audit.scan_state import STATE

OPTIONS = ("--samples", "160", "--batch-size", "8", "--steps", "6", "--no-optimum")


def start(checkpoint: Path, data: Path, out: Path, *, prelude: str = "") -> subprocess.Popen:
    arguments = ["scan", str(checkpoint), "--data", str(data), "--out", str(out), *OPTIONS]
    program = f"{prelude}\nimport sys; from memaudit.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr


def content_of(out: Path) -> dict:
    report = json.loads((out / "report.json").read_bytes())
    for varying in ("timings", "environment", "files", "sha256"):
        del report[varying]
    return {"report": report, "matches": (out / "matches.csv").read_text()}


def parts(out: Path) -> int:
    return len(list((out / STATE).glob("part-*.npz")))


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_killed_scan_goes_on_and_ends_the_same(
    checkpoint: Path, make_npz: Callable, tmp_path: Path, kills: int
):
    data = make_npz(50)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert finish(start(checkpoint, data, whole))[0] == 0
    moments = random.Random(kills)
    for _ in range(kills):
        process = start(checkpoint, data, killed)
        reached = parts(killed) + moments.randint(1, 3)
        while parts(killed) < reached and process.poll() is None:
            time.sleep(0.001)
        time.sleep(moments.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        finish(process)
        kept = parts(killed)
        assert kept >= reached - 1 and not (killed / "report.json").exists()
    assert finish(start(checkpoint, data, killed))[0] == 0
    assert content_of(killed) == content_of(whole)
    assert verify_report(killed).passed
    assert not (killed / STATE).exists()


def test_a_disk_that_fills_up_is_an_error_and_loses_nothing(
    checkpoint: Path, make_npz: Callable, tmp_path: Path
):
    data, out = make_npz(50), tmp_path / "report"
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
    status, stderr = finish(start(checkpoint, data, out, prelude=prelude))
    assert status == 2, stderr
    assert "Error: " in stderr and "Traceback" not in stderr
    assert parts(out) == 2 and not list(out.rglob("*.part"))
    assert finish(start(checkpoint, data, out))[0] == 0
    assert verify_report(out).passed
