"""`memaudit sample`: folders that can be resumed, and the optimum of some of the images."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from memaudit.data.sources import open_images
from memaudit.models.build import build_network
from memaudit.models.checkpoints import open_checkpoint, save_checkpoint

Run = Callable[..., Result]


def content_of(folder: Path) -> dict[str, bytes]:
    """Everything that is not hidden."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


@pytest.fixture(scope="module")
def conditional(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network with 3 classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("conditional") / "net.safetensors"
    config = open_checkpoint(checkpoint).config | {"label_dim": 3}
    save_checkpoint(path, build_network(config), config)
    return path


def test_a_killed_command_resumes_and_ends_the_same(
    run: Run, conditional: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ("--samples", 160, "--batch-size", 8, "--steps", 6)
    assert run("sample", conditional, *options, "--out", whole).exit_code == 0
    arguments = ["sample", conditional, *options, "--out", killed]
    process = subprocess.Popen(
        [sys.executable, "-c", "from memaudit.cli.main import main; main()", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    while len(list(killed.glob("*.png"))) < 20 and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in killed.glob("*.png")}
    assert 20 <= len(kept)
    (killed / f".000000.png.{'a' * 16}.part").write_bytes(b"cut")
    (killed / "000003.png").write_bytes((killed / "000003.png").read_bytes()[:-40])

    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert f"{len(kept) - 1} of 160 images exist already" in result.stderr
    assert content_of(killed) == content_of(whole)
    assert not list(killed.glob(".*.part"))
    assert (killed / "000002.png").stat().st_mtime_ns == kept["000002.png"]
    read = open_images(killed)
    assert len(read) == 160 and read.num_classes == 3


def test_a_folder_grows_by_further_seeds(run: Run, conditional: Path, tmp_path: Path) -> None:
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    for samples, out in ((3, grown), (5, grown), (5, whole)):
        assert run("sample", conditional, "--samples", samples, "--out", out).exit_code == 0
    assert content_of(grown) == content_of(whole)


def test_images_of_anything_else_are_refused_by_name(
    run: Run, checkpoint: Path, conditional: Path, tmp_path: Path
) -> None:
    out = tmp_path / "images"
    assert run("sample", checkpoint, "--samples", 3, "--out", out).exit_code == 0
    before = content_of(out)
    (out / ".DS_Store").touch()
    for source, options, message in (
        (conditional, ("--samples", 3), "another checkpoint."),
        (checkpoint, ("--samples", 3, "--steps", 4), "another sampler."),
        (
            checkpoint,
            ("--samples", 2),
            "holds 000002.png, which is not one of the images",
        ),
    ):
        result = run("sample", source, *options, "--out", out)
        assert result.exit_code == 2
        assert message in result.stderr
    assert content_of(out) == before
    assert run("sample", checkpoint, "--samples", 3, "--out", out).exit_code == 0
    (out / "manifest.json").unlink()
    result = run("sample", checkpoint, "--samples", 3, "--out", out)
    assert result.exit_code == 2 and "is not empty" in result.stderr


def test_a_folder_says_what_its_images_depend_on(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "images"
    assert run("sample", checkpoint, "--samples", 1, "--steps", 3, "--out", out).exit_code == 0
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert manifest["schema"] == "memaudit.samples/1"
    assert manifest["sampler"]["num_steps"] == "3"


def test_the_optimum_is_that_of_the_images_chosen(
    run: Run, make_npz: Callable[..., Path], tmp_path: Path
) -> None:
    data, out = make_npz(20), tmp_path / "generated.npz"
    result = run(*("sample", "optimum", "--data", data, "--size", 2, "--samples", 8, "--out", out))
    assert result.exit_code == 0, result.stderr
    first_two = {image.tobytes() for image in np.load(data)["images"][:2]}
    assert {image.tobytes() for image in np.load(out)["images"]} == first_two


@pytest.mark.parametrize("option", [("--size", 2), ("--balanced",), ("--label", 0)])
def test_a_checkpoint_takes_no_choice_of_images(
    run: Run, checkpoint: Path, tmp_path: Path, option: tuple[Any, ...]
) -> None:
    result = run("sample", checkpoint, *option, "--out", tmp_path / "images")
    assert result.exit_code == 2
    assert f"{option[0]} belongs to the SOURCE optimum" in result.stderr
    assert not (tmp_path / "images").exists()


def test_paths_print_as_they_are(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "[bold]images"
    result = run("sample", checkpoint, "--samples", 1, "--out", out)
    assert result.exit_code == 0
    assert f"1 image: {out}" in result.stderr


def test_a_seed_given_twice_is_refused(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    result = run("sample", checkpoint, "--seeds", "1,2,1", "--out", tmp_path / "images.zip")
    assert result.exit_code == 2
    assert "--seeds repeats a seed" in result.stderr


def test_many_images_are_forecast_before_they_are_made(
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("memaudit.cli.forecast.MANY_GROUPS", 1)
    few = run("sample", checkpoint, "--samples", 5, "--steps", 1, "--out", tmp_path / "few")
    assert "will take" not in few.stderr
    many = run("sample", checkpoint, "--samples", 65, "--steps", 1, "--out", tmp_path / "many.npz")
    assert "65 images will take about" in many.stderr and "12 kB of disk at most" in many.stderr
