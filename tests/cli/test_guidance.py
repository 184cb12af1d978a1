"""`--guidance` and `--class NAME`, from the command to the report and its verification."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from helpers.tiny_networks import SMALLEST
from PIL import Image

from memaudit.audit.report.words import without_links
from memaudit.models.build import build_network
from memaudit.models.checkpoints import save_checkpoint

Run = Callable[..., Result]
QUICK = ("--samples", 8, "--steps", 6, "--without", "optimality")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten images of cats and twenty of dogs, so to speak."""
    rng = np.random.default_rng(0)
    for i, image in enumerate(rng.integers(0, 256, (30, 4, 4, 3), np.uint8)):
        folder = tmp_path / "data" / ("cat" if i < 10 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    return tmp_path / "data"


def scanned(run: Run, data: Path, out: Path, *options: object) -> dict:
    result = run("scan", "optimum", "--data", data, *QUICK, *options, "--out", out)
    assert result.exit_code == 0, result.output
    return json.loads((out / "report.json").read_text())


def test_guidance_is_recorded_named_shown_and_repeated_by_verify(
    run: Run, data: Path, tmp_path: Path
):
    report = scanned(run, data, tmp_path / "report", "--guidance", 1.5)
    assert report["sampling"]["sampler"]["guidance"] == 1.5
    assert "guidance 1.5" in report["conclusion"]["choices"]
    page = (tmp_path / "report" / "report.html").read_text()
    assert "EDM’s Heun sampler in 6 steps, guided by w = 1.5." in without_links(page)
    given = ("--source", "optimum", "--data", data, "--spot-check", 3)
    verified = run("verify", tmp_path / "report", *given)
    assert verified.exit_code == 0 and "3 of 8 rows" in verified.stdout


def test_a_class_is_named_and_its_name_recorded(run: Run, data: Path, tmp_path: Path):
    report = scanned(run, data, tmp_path / "report", "--class", "dog")
    assert report["sampling"]["class_index"] == 1
    assert "one class only: 1 (dog)" in report["conclusion"]["choices"]
    assert run("verify", tmp_path / "report", "--data", data).exit_code == 0
    arguments = ("sample", "optimum", "--data", data, "--steps", 4, "--samples", 2)
    by_name, by_number = tmp_path / "name.npz", tmp_path / "number.npz"
    assert run(*arguments, "--class", "dog", "--out", by_name).exit_code == 0
    assert run(*arguments, "--class", 1, "--out", by_number).exit_code == 0
    with np.load(by_name) as one, np.load(by_number) as other:
        np.testing.assert_array_equal(one["images"], other["images"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--class", "bird"), "has no class 'bird'; its classes are cat, dog"),
        (("--guidance", "-1"), "--guidance is -1.0; at least 0"),
    ],
)
def test_what_the_data_do_not_have_is_refused(run: Run, data: Path, options: tuple, message: str):
    result = run("scan", "optimum", "--data", data, *QUICK, *options)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split())


def test_a_name_is_not_a_number_of_a_model_with_other_classes(run: Run, data: Path, tmp_path: Path):
    config = SMALLEST | {"img_resolution": 4, "label_dim": 3}
    model = tmp_path / "model.safetensors"
    save_checkpoint(model, build_network(config), config)
    arguments = ("scan", model, "--data", data, *QUICK)
    result = run(*arguments, "--class", "dog")
    said = " ".join(result.stderr.split())
    assert result.exit_code == 2 and "number 1 of the 2 classes" in said and "has 3 classes" in said
    assert run(*arguments, "--class", 1).exit_code == 0


def test_a_name_needs_class_names_and_guidance_a_null_label(
    run: Run, checkpoint: Path, make_npz: Callable
):
    arguments = ("scan", checkpoint, "--data", make_npz(20), *QUICK)
    assert "no training images with class names" in run(*arguments, "--class", "dog").stderr
    refused = run(*arguments, "--guidance", 2)
    assert refused.exit_code == 2 and "--guidance is 2, but the model" in refused.stderr
