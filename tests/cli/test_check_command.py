"""`memaudit check`: from files to an answer."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.images import smooth_images
from PIL import Image

Run = Callable[..., object]
FEW = ("--samples", 40, "--steps", 6, "--controls", 39, "--sigmas", "0.5,2", "--noises", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders train, held and generated, and the files known.png and new.png."""
    root = tmp_path_factory.mktemp("check")
    train, held = smooth_images(20, 8, seed=0), smooth_images(60, 8, seed=1)
    for name, images in (("train", train), ("held", held), ("generated", train[3:6])):
        (root / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image.transpose(1, 2, 0)).save(root / name / f"{i:02d}.png")
    for name, image in (("known", train[3]), ("new", smooth_images(1, 8, seed=2)[0])):
        Image.fromarray(image.transpose(1, 2, 0)).save(root / f"{name}.png")
    return root


def test_images_are_checked_against_a_model(run: Run, folder: Path, tmp_path: Path):
    out = tmp_path / "check"
    sets = ("--data", folder / "train", "--holdout", folder / "held")
    asked = ("--image", folder / "known.png", "--image", folder / "new.png")
    result = run("check", "optimum", *asked, *sets, *FEW, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("The model gives back 1 of 2 images; the chance that")
    assert f"{folder / 'known.png'}\nThe model gives back this training image (03.png): " in (
        result.stdout
    )
    assert "in the training set       yes: 03.png" in result.stdout
    assert "in the training set       no" in result.stdout
    assert f"Page: {out / 'check.html'}" in result.stderr
    assert "memaudit check: 1 of 2 given back · 1 not shown" in result.stderr
    content = json.loads((out / "check.json").read_text())
    assert [image["finding"] for image in content["images"]] == ["given-back", "not-shown"]

    again = run("check", "optimum", *asked, *sets, *FEW, "--out", out)
    assert again.exit_code == 2
    assert "already holds a check" in again.stderr
    assert "--overwrite" in again.stderr


def test_generated_images_are_checked_and_printed_as_json(run: Run, folder: Path):
    images = ("--image", folder / "known.png", "--holdout", folder / "held")
    result = run("check", folder / "generated", *images, "--json", "--controls", 39)
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["images"][0]["finding"] == "given-back"
    assert content["images"][0]["copies"]["keys"] == ["00.png"]
    assert content["source"]["sampler"] is None


def test_too_few_controls_are_said_before_anything_is_sampled(run: Run, folder: Path):
    asked = ("--image", folder / "generated", "--image", folder / "known.png")
    result = run("check", folder / "generated", *asked, "--holdout", folder / "held")
    assert result.exit_code == 0, result.stderr
    assert "Warning: 60 held-out images are too few: at least 79 are needed" in result.stderr
    result = run("check", folder / "generated", *asked[:2], "--holdout", folder / "held")
    assert "Warning: " not in result.stderr


def test_held_out_images_are_grouped_without_training_images(run: Run, folder: Path):
    given = ("--image", folder / "known.png", "--holdout", folder / "held", "--json")
    result = run("check", folder / "generated", *given, "--group", r"^(\d)")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["controls"]["num_controls"] == 6


def test_a_folder_of_images_is_asked_about_whole(run: Run, folder: Path):
    images = ("--image", folder / "generated", "--data", folder / "train", "--size", 10)
    result = run("check", folder / "generated", *images, "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert [Path(image["name"]).name for image in content["images"]] == [
        "00.png",
        "01.png",
        "02.png",
    ]
    assert content["data"]["num_images"] == 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "Give --data, --holdout, or best both"),
        (("--data", "train", "--samples", 3), "--samples is for a model; SOURCE holds images"),
        (("--data", "train", "--noises", 3), "--noises is for a model; SOURCE holds images"),
        (("--holdout", "held", "--size", 3), "--size is for training images"),
        (("--data", "train", "--resolution", 4, "--holdout", "absent"), "absent"),
        (("--data", "train", "--no-images", "--blur"), "both say what the page shows"),
    ],
)
def test_what_does_not_apply_is_refused(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, options: tuple, said: str
):
    monkeypatch.chdir(folder)
    result = run("check", "generated", "--image", "known.png", *options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_images_of_another_shape_are_refused_with_what_makes_them_alike(
    run: Run, folder: Path, tmp_path: Path
):
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "large.png")
    given = ("--image", tmp_path / "large.png", "--data", folder / "train")
    result = run("check", folder / "generated", *given)
    assert result.exit_code == 2
    assert "Prepare all of them alike with --resolution 8" in result.stderr
    result = run("check", folder / "generated", *given, "--resolution", 8)
    assert result.exit_code == 0, result.stderr
