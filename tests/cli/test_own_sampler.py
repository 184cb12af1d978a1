"""`--sampler own`, from the command to the report, its gate and its verification."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from helpers.tiny_networks import SMALLEST

from memaudit.audit.report.words import without_links
from memaudit.models.build import build_network
from memaudit.models.checkpoints import save_checkpoint

Run = Callable[..., Result]
QUICK = ("--without", "optimality", "--samples", 8)


def stored(folder: Path, class_name: str, **options: object) -> Path:
    torch.manual_seed(0)
    config = SMALLEST | {"class_name": class_name} | options
    save_checkpoint(folder / "model.safetensors", build_network(config), config)
    return folder / "model.safetensors"


def test_the_models_own_sampler_is_recorded_named_and_repeated_by_verify(
    run: Run, make_npz: Callable, tmp_path: Path
):
    model, data, out = stored(tmp_path, "DiscretePrecond"), make_npz(20), tmp_path / "report"
    own = ("--sampler", "own", "--solver", "ancestral", "--steps", 5)
    result = run("scan", model, "--data", data, *QUICK, *own, "--out", out)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "report.json").read_text())
    sampler = report["sampling"]["sampler"]
    assert (sampler["sampler"], sampler["solver"], sampler["num_steps"]) == ("own", "ancestral", 5)
    assert {"sampler own", "solver ancestral", "steps 5"} <= set(report["conclusion"]["choices"])
    page = (out / "report.html").read_text()
    assert "with its own ancestral (DDPM) sampler in 5 steps." in without_links(page)
    verified = run("verify", out, "--source", model, "--data", data, "--spot-check", 3)
    assert verified.exit_code == 0 and "3 of 8 rows" in verified.stdout, verified.output


@pytest.mark.slow
def test_a_flow_under_a_gate_is_compared_with_the_published_sampler(
    run: Run, make_npz: Callable, tmp_path: Path
):
    model, data, out = stored(tmp_path, "FlowPrecond"), make_npz(60), tmp_path / "report"
    gated = ("--samples", 128, "--without", "optimality", "--fail-above", 0.2)
    result = run("scan", model, "--data", data, *gated, "--sampler", "own", "--out", out)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "report.json").read_text())
    assert report["sampling"]["sampler"]["solver"] == "dopri5"
    assert report["sampling"]["sampler"]["num_steps"] is None
    assert report["sampler_control"]["num_images"] == 64
    assert run("verify", out, "--source", model, "--data", data).exit_code == 0
    assert run("scan", model, "--data", data, "--sampler", "own", "--dry-run").exit_code == 0


def test_a_model_without_a_sampler_of_its_own_says_so(
    run: Run, checkpoint: Path, make_npz: Callable
):
    result = run("scan", checkpoint, "--data", make_npz(20), "--sampler", "own")
    assert result.exit_code == 2 and "--sampler is own, but the model has neither" in result.stderr
