"""`memaudit train` as a process: killed, resumed, audited."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from helpers.tiny_training import noise_images

from memaudit.cli.main import cli
from memaudit.models.checkpoints import open_checkpoint

SMALL = (
    "--device cpu --precond edm --model-channels 8 --channel-mult 1 --num-blocks 1 --batch-size 4 "
    "--lr 1e-3 --lr-rampup-epochs 0 --ema-mode plain"
).split()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "images.npz"
    np.savez(path, images=noise_images().images)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["train", *map(str, arguments)])


@pytest.mark.slow  # a process that imports torch, and two trainings
def test_a_training_killed_at_any_moment_is_resumed_to_the_same_bits(data: Path, tmp_path: Path):
    """SIGKILL leaves no time to tidy up: what is on disk must be enough."""
    options = ["--data", data, *SMALL, "--duration-images", 600, "--snapshot-images", 100]
    out, log = tmp_path / "killed", tmp_path / "killed" / "log.jsonl"
    num_steps = random.randint(30, 120)  # of 150; the log has a line for each
    command = [sys.executable, "-m", "memaudit", "train", *options, "--out", out]
    with subprocess.Popen(
        list(map(str, command)),
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        while not (log.is_file() and log.read_bytes().count(b"\n") >= num_steps):
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL

    assert run(*options, "--out", out, "--resume").exit_code == 0
    assert run(*options, "--out", tmp_path / "whole").exit_code == 0
    a, b = (
        open_checkpoint(folder / "model.safetensors").network.state_dict()
        for folder in (out, tmp_path / "whole")
    )
    assert all(torch.equal(a[name], b[name]) for name in a), f"killed after {num_steps} steps"


def test_there_must_be_a_run_to_resume(data: Path, tmp_path: Path):
    result = run("--data", data, "--out", tmp_path / "nothing", *SMALL, "--resume")
    assert result.exit_code == 2
    assert "does not hold a training run to resume" in result.stderr
    assert not (tmp_path / "nothing").exists()


def test_a_folder_that_is_refused_is_not_worth_a_forecast(data: Path, tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    result = run("--data", data, "--out", tmp_path, *SMALL)
    assert result.exit_code == 2
    assert "Forecast" not in result.stderr


def test_audits_are_shown_and_logged(data: Path, tmp_path: Path):
    options = "--duration-images 16 --num-snapshots 2 --audit-every 1 --audit-samples 3".split()
    result = run("--data", data, "--out", tmp_path / "run", *SMALL, *options)
    assert result.exit_code == 0, result.stderr
    assert "Epoch 1.33: 0 of 3 samples are copies, at most 7" in result.stderr
    assert "Trained after 16 images (2.67 epochs)" in " ".join(result.stderr.split())
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    audits = [entry for entry in map(json.loads, lines) if entry["kind"] == "audit"]
    assert [audit["images_seen"] for audit in audits] == [8, 16]
    assert all(audit["total"] == 3 for audit in audits)
