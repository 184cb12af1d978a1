"""`memaudit inspect CHECKPOINT --data TRAIN`: the denoising test alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from memaudit.models.checkpoints import save_checkpoint
from tests.helpers.tiny_networks import TINY, tiny

Run = Callable[..., Any]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A network that was never trained."""
    path = tmp_path / "model.safetensors"
    config = {"class_name": "EDMPrecond"} | TINY
    save_checkpoint(path, tiny("EDMPrecond"), config)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of pictures of 32 x 32: gradients, which leave much to learn."""
    folder = tmp_path / "train"
    folder.mkdir()
    ramp = np.linspace(0, 1, 32)
    rng = np.random.default_rng(0)
    for i in range(12):
        a, b = rng.uniform(0, 255, (2, 3))
        pixels = (ramp[:, None, None] * a + ramp[None, :, None] * b) / 2
        Image.fromarray(pixels.round().astype(np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def test_an_untrained_network_is_told_from_a_checkpoint_that_is_broken(
    run: Run, checkpoint: Path, images: Path
):
    assert run("inspect", checkpoint).exit_code == 0
    result = run("inspect", checkpoint, "--data", images, "--resolution", 8)
    assert result.exit_code == 2
    assert "no. The checkpoint does not denoise as configured" in result.stdout
    assert "never trained" in result.stdout and "of shrinking" in result.stdout
    assert "bilinear filter" in result.stdout and "shifted by half a pixel" in result.stdout


def test_the_test_is_part_of_the_json(run: Run, checkpoint: Path, images: Path):
    args = ("inspect", checkpoint, "--data", images, "--resolution", 8, "--size", 5, "--json")
    result = run(*args)
    found = json.loads(result.stdout)
    assert found["safe"] and found["denoising"]["denoises"] is False
    assert found["denoising"]["num_images"] == 5
    sigmas = [level["sigma"] for level in found["denoising"]["levels"]]
    assert sigmas[::8] == pytest.approx([80, 0.002])
    assert "denoising" not in json.loads(run("inspect", checkpoint, "--json").stdout)


def test_images_of_another_size_and_options_without_images_are_refused(
    run: Run, checkpoint: Path, images: Path
):
    other = run("inspect", checkpoint, "--data", images)
    assert other.exit_code == 2 and "[3, 32, 32] but the model makes [3, 8, 8]" in other.stderr
    lone = run("inspect", checkpoint, "--size", 3)
    assert lone.exit_code == 2 and "--data" in lone.stderr
