"""`memaudit check`: from files to an answer."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.images import smooth_images
from PIL import Image

from memaudit.escapes import csv_rows

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


def test_the_copied_images_come_first_and_the_others_on_a_line_each(
    run: Run, folder: Path, tmp_path: Path
):
    asked = ("--image", folder / "train", "--holdout", folder / "held")
    result = run("check", folder / "generated", *asked, "--out", tmp_path / "check")
    assert result.exit_code == 0, result.stderr
    copied = [result.stdout.index(f"train/{i:02d}.png\nBy the rule") for i in (3, 4, 5)]
    others = result.stdout.index("Not shown for 16 others either")
    assert max(copied) < others
    assert result.stdout.count("held-out images are too few") == 5
    assert result.stdout[others:].count(".png: closest 0") == 16
    rows = list(csv_rows((tmp_path / "check/check.csv").read_text(encoding="utf-8")))
    assert rows[0][:3] == ["name", "finding", "copies"]
    assert {Path(row[0]).name for row in rows[1:4]} == {"03.png", "04.png", "05.png"}
    assert {row[1] for row in rows[4:]} == {"not-shown"}
    page = (tmp_path / "check/check.html").read_text(encoding="utf-8")
    assert max(page.index(f"/{i:02d}.png</h2>") for i in (3, 4, 5)) < page.index("/00.png</h2>")
    content = json.loads((tmp_path / "check/check.json").read_text())
    assert [Path(image["name"]).name for image in content["images"]][:2] == ["00.png", "01.png"]


def test_what_was_not_read_or_is_stored_turned_is_said_of_the_images_asked_about(
    run: Run, folder: Path, tmp_path: Path
):
    exif = Image.Exif()
    exif[0x112] = 6
    for image in ("a", "b"):
        Image.open(folder / "known.png").save(tmp_path / f"{image}.png", exif=exif)
    (tmp_path / "notes.txt").write_text("May")
    given = ("--image", tmp_path, "--image", folder / "new.png", "--holdout", folder / "held")
    result = run("check", folder / "generated", *given, "--out", tmp_path / "check")
    assert result.exit_code == 0, result.stderr
    assert "2 images have an EXIF orientation" in result.stderr
    assert "1 file was not read as images" in result.stderr
    page = (tmp_path / "check/check.html").read_text(encoding="utf-8")
    assert "2 images have an EXIF orientation" in page


def test_a_page_says_how_the_images_were_prepared(run: Run, folder: Path, tmp_path: Path):
    given = ("--image", folder / "new.png", "--holdout", folder / "held", "--resolution", 4)
    result = run("check", folder / "generated", *given, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    said = "resized to 4 x 4, lanczos filter"
    assert json.loads((tmp_path / "check.json").read_text())["preparation"] == said
    assert said in (tmp_path / "check.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [("card",), ("verify",), ("report", "--annex", "edpb")])
def test_the_folder_of_a_check_is_not_that_of_a_scan(
    run: Run, folder: Path, tmp_path: Path, command: tuple[str, ...]
):
    (tmp_path / "check.json").write_text("{}")
    result = run(*command, tmp_path)
    assert result.exit_code == 2
    assert "Its page, check.html, is the document to hand in" in result.stderr
