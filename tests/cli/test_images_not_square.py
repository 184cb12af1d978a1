"""Images of 8x12 pixels from training to the report, through every command."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from memaudit.cli.main import cli

TRAIN = (
    "--precond edm --model-channels 8 --channel-mult 1,2 --num-blocks 1 --dropout 0 --batch-size 8 "
    "--lr 2e-3 --lr-rampup-epochs 0 --ema-mode plain --ema-decay 0.9"
).split()


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "train"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, image in enumerate(rng.integers(0, 256, (12, 8, 12, 3), np.uint8)):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    return folder


def pictures(page: Path) -> set[tuple[float, ...]]:
    """Height over width of every picture of a page."""
    sizes = re.findall(r'<img [^>]*width="(\d+)" height="(\d+)"', page.read_text())
    return {int(height) / int(width) for width, height in sizes}


def test_the_optimum_of_wide_images_is_found_to_copy(data: Path, tmp_path: Path):
    report = tmp_path / "report"
    few = ("--samples", 8, "--steps", 6, "--without", "optimality")
    run("scan", "optimum", "--data", data, *few, "--out", report)
    stored = json.loads((report / "report.json").read_text())
    assert stored["data"]["image_shape"] == [3, 8, 12]
    assert "8 of 8 generated images copy" in stored["conclusion"]["headline"]
    assert pictures(report / "report.html") == {8 / 12}
    run("verify", report, "--source", "optimum", "--data", data, "--spot-check", 2)


@pytest.mark.slow
def test_a_model_of_wide_images_is_trained_scanned_sampled_and_converted(
    data: Path, tmp_path: Path
):
    model, report = tmp_path / "run" / "model.safetensors", tmp_path / "report"
    run("train", "--data", data, "--out", model.parent, *TRAIN, "--epochs", 4, "--augment", 0.1)
    assert "3 x 8 x 12, no classes" in run("inspect", model)
    scanned = ("--data", data, "--samples", 16, "--steps", 4, "--also", "noise-and-return")
    run("scan", model, *scanned, "--out", report)
    run("verify", report, "--source", model, "--data", data, "--spot-check", 2)
    run("sample", model, "--samples", 3, "--steps", 4, "--out", tmp_path / "samples")
    with Image.open(tmp_path / "samples" / "000000.png") as sample:
        assert sample.size == (12, 8)
    run("convert", model, tmp_path / "converted.safetensors")
    run("selftest", "--data", data, "--samples", 16)
    squares = ("--resolution", "8", "--fit", "short", "--out", tmp_path / "other")
    refused = CliRunner().invoke(cli, list(map(str, ("scan", model, "--data", data, *squares))))
    assert refused.exit_code == 2 and "--resolution 8x12" in refused.output
