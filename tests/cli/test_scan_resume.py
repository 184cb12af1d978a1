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

import numpy as np
import pytest
from click.testing import Result

from memaudit.audit.report import folder
from memaudit.audit.scan_state import FINISHED, STATE, ScanState
from memaudit.audit.verification.verify import verify_report
from memaudit.models.generate import GeneratedBatch

Run = Callable[..., Result]

BATCH = GeneratedBatch(np.arange(2), np.zeros((2, 3, 8, 8), dtype=np.uint8), None)


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
    del report["sampling"]["num_kept"], report["sampling"]["num_regenerated"]
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
    # The last process may have lived to store more batches than were counted.
    assert json.loads((killed / "report.json").read_bytes())["sampling"]["num_kept"] >= kept * 8


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


@pytest.fixture
def killed_at_the_end(
    run: Run,
    checkpoint: Path,
    make_npz: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[tuple[str, ...], Path]:
    """A command whose scan was killed once its report was written, and the folder of the report."""
    out = tmp_path / "report"
    command = arguments(checkpoint, make_npz(50), out, 24)
    with monkeypatch.context() as killed:
        killed.setattr(folder, "discard_state", lambda path: None)
        assert run(*command).exit_code == 0
    assert verify_report(out).passed and parts(out) == 3
    return command, out


def test_a_scan_killed_once_its_report_is_written_leaves_nothing_for_good(
    run: Run, killed_at_the_end: tuple[tuple[str, ...], Path]
):
    command, out = killed_at_the_end
    again = run(*command)
    assert again.exit_code == 2 and "already holds a report" in again.stderr
    assert not (out / STATE).exists() and verify_report(out).passed


def test_a_scan_killed_before_its_report_was_written_keeps_its_images(
    run: Run, killed_at_the_end: tuple[tuple[str, ...], Path]
):
    command, out = killed_at_the_end
    (out / "report.json").unlink()
    assert (out / STATE / FINISHED).is_file()
    assert run(*command).exit_code == 0
    assert json.loads((out / "report.json").read_bytes())["sampling"]["num_kept"] == 24
    assert not (out / STATE).exists()


def test_given_images_do_not_take_the_place_of_an_unfinished_scan(
    run: Run, make_npz: Callable[..., Path], tmp_path: Path
):
    data, out = make_npz(50), tmp_path / "report"
    ScanState(out, {"model": "another"}, (0, 1)).store(0, BATCH)
    command = ("scan", data, "--data", data, "--out", out)
    refused = run(*command)
    assert refused.exit_code == 2 and "an unfinished scan of a model" in refused.stderr
    assert parts(out) == 1
    assert run(*command, "--overwrite").exit_code == 0
    assert parts(out) == 0


def gate(command: tuple[str, ...], limit: float, *more: str) -> tuple[str, ...]:
    return (*command, "--fail-above", str(limit), *more)


def test_an_inconclusive_scan_continues_with_more_samples(
    run: Run, checkpoint: Path, make_npz: Callable[..., Path], tmp_path: Path
):
    data, whole, out = make_npz(50), tmp_path / "whole", tmp_path / "continued"
    few, many = arguments(checkpoint, data, out, 24), arguments(checkpoint, data, out, 120)
    first = run(*gate(few, 0.05))
    assert first.exit_code == 3
    assert "more samples" in first.stdout and "Give more samples" in first.stdout
    assert "The 24 images are kept beside it" in first.stderr
    assert verify_report(out).passed and parts(out) == 3

    refused = run(*gate(few, 0.05))
    assert refused.exit_code == 2 and "Give more --samples to continue" in refused.stderr
    for options, what in (
        (gate(many, 0.06), "limit"),
        (gate(many, 0.05, "--confidence", "0.9"), "confidence"),
        (gate(many, 0.05, "--threshold", "1/2"), "rule"),
        (gate(many, 0.05, "--flips"), "search"),
        (gate(many, 0.05, "--size", "40"), "training set"),
        (gate(many, 0.05, "--holdout", str(make_npz(30, seed=9))), "held-out set"),
        (many, "limit"),
    ):
        changed = run(*options)
        assert changed.exit_code == 2, changed.output
        assert f"unfinished scan with another {what}" in changed.stderr
    for seeds in ("1-120", "0-4,6-90"):
        other = [*many]
        at = other.index("--samples")
        other[at : at + 2] = ["--seeds", seeds]
        changed = run(*gate(tuple(other), 0.05))
        assert changed.exit_code == 2 and "must begin with its own, 0-23" in changed.stderr
    assert verify_report(out).passed and parts(out) == 3

    process = start(gate(many, 0.05))  # killed in the middle: the old report stays until the end
    while parts(out) < 5 and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert verify_report(out).verdict == "INCONCLUSIVE"

    last = run(*gate(many, 0.05))
    assert last.exit_code == 0, last.output
    assert "images were kept from an earlier run" in last.stdout
    assert run(*gate(arguments(checkpoint, data, whole, 120), 0.05)).exit_code == 0
    assert content_of(out) == content_of(whole)
    assert verify_report(out).passed and not (out / STATE).exists()
    again = run(*gate(arguments(checkpoint, data, out, 500), 0.05))
    assert again.exit_code == 2 and "already holds a report" in again.stderr


def test_overwrite_discards_the_images_of_an_inconclusive_scan(
    run: Run, checkpoint: Path, make_npz: Callable[..., Path], tmp_path: Path
):
    data, out = make_npz(50), tmp_path / "report"
    command = gate(arguments(checkpoint, data, out, 20), 0.05)
    assert run(*command).exit_code == 3
    assert run(*command, "--overwrite").exit_code == 3
    report = json.loads((out / "report.json").read_bytes())
    assert report["sampling"]["num_kept"] == 0
    assert run(*gate(arguments(checkpoint, data, out, 30), 0.05)).exit_code == 3
    report = json.loads((out / "report.json").read_bytes())
    assert report["sampling"]["num_kept"] == 20
    assert report["sampling"]["num_regenerated"] == 20
    said = "20 images were kept from an earlier run; all of them were generated again"
    assert said in (out / "report.html").read_text()


def _forge(out: Path, share: float) -> None:
    """Replace a share of the kept images by noise, as if the model had made that."""
    rng = np.random.default_rng(0)
    for path in (out / STATE).glob("part-*.npz"):
        with np.load(path) as part:
            arrays = dict(part)
        forged = rng.random(len(arrays["images"])) < share
        noise = rng.integers(0, 256, arrays["images"].shape, np.uint8)
        arrays["images"] = np.where(forged[:, None, None, None], noise, arrays["images"])
        np.savez(path, **arrays)


def test_images_that_the_model_did_not_make_are_not_judged_as_its_own(
    run: Run, checkpoint: Path, make_npz: Callable[..., Path], tmp_path: Path
):
    data, out = make_npz(50), tmp_path / "report"
    assert run(*gate(arguments(checkpoint, data, out, 40), 0.05)).exit_code == 3
    _forge(out, 1.0)
    more = gate(arguments(checkpoint, data, out, 60), 0.05)
    refused = run(*more)
    assert refused.exit_code == 2
    assert "was not made by this model" in refused.stderr and "--fresh" in refused.stderr
    again = run(*more)  # although the test of other images might let them through
    assert again.exit_code == 2 and "did not make" in again.stderr
    assert run(*more, "--fresh").exit_code == 3
    report = json.loads((out / "report.json").read_bytes())
    assert report["sampling"]["num_kept"] == 0


@pytest.mark.parametrize("wrong", ["float", "shape", "classes"])
def test_kept_images_of_another_form_are_generated_anew(
    run: Run, checkpoint: Path, make_npz: Callable[..., Path], tmp_path: Path, wrong: str
):
    data, out = make_npz(50), tmp_path / "report"
    assert run(*gate(arguments(checkpoint, data, out, 20), 0.05)).exit_code == 3
    for path in (out / STATE).glob("part-*.npz"):
        with np.load(path) as part:
            arrays = dict(part)
        if wrong == "float":
            arrays["images"] = arrays["images"].astype(np.float32)
        elif wrong == "shape":
            arrays["images"] = arrays["images"][:, :1]
        else:
            arrays["class_index"] = np.zeros(len(arrays["seeds"]), np.int64)
        np.savez(path, **arrays)
    assert run(*gate(arguments(checkpoint, data, out, 30), 0.05)).exit_code == 3
    report = json.loads((out / "report.json").read_bytes())
    assert report["sampling"]["num_kept"] == 0 and report["ratios"]["copies"]["total"] == 30
