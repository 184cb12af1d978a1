"""Copies that are stored turned, with the EXIF orientation that shows them upright, buy no PASS."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from click.testing import Result
from PIL import Image

Run = Callable[..., Result]


def test_a_gate_does_not_judge_images_that_are_stored_turned(run: Run, tmp_path: Path):
    train = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "train.npz", images=train)
    generated = tmp_path / "generated"
    generated.mkdir()
    for i in range(80):
        exif = Image.Exif()
        exif[0x112] = 3
        turned = np.ascontiguousarray(train[i % 20][::-1, ::-1])
        Image.fromarray(turned).save(generated / f"{i}.png", exif=exif)
    command = ("scan", generated, "--data", tmp_path / "train.npz", "--fail-above", "0.3")
    refused = run(*command)
    assert refused.exit_code == 2
    assert "80 of the images" in refused.stderr and "--exif apply" in refused.stderr
    assert run(*command, "--exif", "apply").exit_code == 1
    assert run(*command[:-2]).exit_code == 0  # without a limit, a warning


def test_photographs_in_the_place_of_generated_images_are_asked_about(run: Run, tmp_path: Path):
    exif = Image.Exif()
    exif[0x112] = 6
    for name in ("mine", "generated"):
        (tmp_path / name).mkdir()
        for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), "u1")):
            kept = exif if name == "mine" and i == 0 else None
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png", exif=kept)
    exchanged = run("scan", tmp_path / "mine", "--data", tmp_path / "generated")
    assert exchanged.exit_code == 0, exchanged.stderr
    assert "Are the two exchanged?" in exchanged.stderr
    right = run("scan", tmp_path / "generated", "--data", tmp_path / "mine")
    assert "exchanged" not in right.stderr
