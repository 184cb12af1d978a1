"""Splits and labels are chosen by the same options everywhere, and the choice is told."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Run = Callable


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    """A set of 30 training images and 20 others in two classes, and a file with other labels."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 30), ("test", 20)):
        for i in range(number):
            path = tmp_path / "set" / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    rows = [f"train/{'ab'[i % 2]}/{i}.png,kind{i % 3}\n" for i in range(30)]
    (tmp_path / "labels.csv").write_text("".join(rows))
    return tmp_path / "set"


def test_a_split_is_named_beside_the_verdict_and_verified(
    run: Run, divided: Path, tmp_path: Path
) -> None:
    data = ["--data", divided, "--labels", tmp_path / "labels.csv"]
    holdout = ["--holdout", divided, "--holdout-split", "test"]
    done = run("scan", divided / "test", *data, *holdout, "--out", tmp_path / "report")
    assert "only the 30 images of train were taken" in done.output
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["data"]["split"] == "train" and report["data"]["other_splits"] == ["test"]
    assert report["data"]["labels_from"] == str(tmp_path / "labels.csv")
    choices = report["conclusion"]["choices"]
    assert "training images of the split train, not of test" in choices
    assert any(choice.startswith("labels from: ") for choice in choices)
    verified = run(
        "verify", tmp_path / "report", "--source", divided / "test", "--data", divided,
        "--labels", tmp_path / "labels.csv", *holdout,
    )  # fmt: skip
    assert verified.exit_code == 0, verified.output
    refused = run("verify", tmp_path / "report", "--data", divided)
    assert refused.exit_code == 2 and "labels come from the file" in refused.output
    assert "--labels" in refused.output


def test_a_set_is_built_of_a_split_with_labels_from_a_file(
    run: Run, divided: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.zip"
    done = run(
        "dataset", "build", "--data", divided, "--split", "train",
        "--labels", tmp_path / "labels.csv", "--out", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    about = json.loads(run("dataset", "inspect", out, "--json").stdout)
    assert about["class_names"] == ["kind0", "kind1", "kind2"] and about["num_images"] == 30
    choices = about["manifest"]["choices"]
    assert choices["split"] == "train" and choices["labels_from"] == str(tmp_path / "labels.csv")
    text = run("dataset", "inspect", divided, "--split", "test", "--labels", "none").stdout
    assert "test, without train" in text and "labels from" in text and "no labels" in text


def test_a_split_that_is_not_there_is_refused_with_the_option(run: Run, divided: Path) -> None:
    done = run("scan", divided / "test", "--data", divided, "--split", "dev")
    assert done.exit_code == 2
    assert "has no split dev; it is divided into test and train. Choose one with --split" in (
        " ".join(done.output.split())
    )


def test_captions_of_leaks_are_in_the_table_and_verified(
    run: Run, divided: Path, tmp_path: Path
) -> None:
    for i in range(30):
        text = f"=image\n{i}\0\u202e"
        (divided / "train" / "ab"[i % 2] / f"{i}.txt").write_text(text, encoding="utf-8")
    report = tmp_path / "report"
    scan = ["scan", divided / "train", "--data", divided, "--out", report]
    run(*scan)
    table = (report / "leaks.csv").read_text()
    assert "=image 4" in (report / "report.html").read_text()
    assert "duplicates,caption\n" in table and "'=image 4\\x00\\u202e" in table
    verify = ["verify", report, "--data", divided]
    assert run(*verify).exit_code == 0
    (divided / "train" / "a" / "4.txt").write_text("another")
    changed = run(*verify)
    assert changed.exit_code == 1 and "captions in leaks.csv" in changed.output
    run(*scan, "--no-images", "--overwrite")
    assert "caption" not in (report / "leaks.csv").read_text()


def test_sets_are_compared_by_name(run: Run, divided: Path) -> None:
    done = run("dataset", "compare", divided / "train", divided, "--split", "train")
    assert done.exit_code == 2 and "is not divided into splits" in done.output
    done = run("dataset", "compare", divided / "train", divided)
    assert done.exit_code == 0 and "They are the same images in the same order" in done.stdout
    done = run("dataset", "compare", divided / "train", divided / "test")
    assert "only in A" in done.stdout and "a/0.png, a/10.png, a/12.png and 27 more" in done.stdout
    found = json.loads(run("dataset", "compare", divided / "test", divided, "--json").stdout)
    assert found["first"]["num_alone"] == 20 and found["second"]["alone"][0] == "train/a/0.png"
    assert found["summary"] == "They have no image in common."


@pytest.mark.slow
def test_groups_are_told_apart_by_the_same_option_everywhere(
    run: Run, divided: Path, tmp_path: Path
) -> None:
    names = [f"{split}/{'ab'[i % 2]}/{i}.png" for split in ("train", "test") for i in range(30)]
    groups = tmp_path / "patients.csv"
    rows = [f"{name},{name[:2]}{int(name.split('/')[2][:-4]) // 3}\n" for name in names]
    groups.write_text("name,patient\n" + "".join(rows))
    given = ["--data", divided, "--holdout", divided, "--holdout-split", "test"]
    given += ["--group", groups]
    report = tmp_path / "report"
    limits = ["--fail-above", "50%", "--fail-above-groups", "99%"]
    done = run("scan", divided / "test" / "a", *given, *limits, "--out", report)
    assert "Images of 0 of 10 patients are copied" in done.stdout, done.output
    assert "second neighbors of another patient" in done.stdout
    data = json.loads((report / "report.json").read_text())["data"]
    assert (data["num_groups"], data["group_kind"]) == (10, "patient")

    assert run("verify", report).exit_code == 0
    done = run("verify", report, *given[:4], "--holdout-split", "test")
    assert done.exit_code == 2 and "give it with --group" in done.stderr
    assert run("verify", report, *given).exit_code == 0
    done = run("scan", divided / "test" / "a", *given, "--dry-run")
    assert done.exit_code == 0, done.output

    found = json.loads(run("dataset", "inspect", divided, "--group", groups, "--json").stdout)
    assert len(set(found["groups"])) == 10
    copy = divided / "train" / "a" / "0.png"
    copy.with_name("28.png").write_bytes(copy.read_bytes())  # of patients 0 and 9
    done = run("dataset", "duplicates", divided, "--group", groups, "--json")
    found = json.loads(done.stdout)
    assert found["num_shared"] == 1 and found["groups"][0]["belongs_to"] == ["tr0", "tr9"]
    built = tmp_path / "built.zip"
    done = run(
        "dataset", "build", "--data", divided, "--size", 10, "--group", groups, "--out", built
    )
    assert "only a part of the images is in the set" in done.stderr, done.output
    assert json.loads(run("dataset", "inspect", built, "--json").stdout)["groups"]

    groups.write_text(groups.read_text().replace(",te3", ",tr3"))
    done = run("scan", divided / "test" / "a", *given)
    assert done.exit_code == 2
    assert "of 1 patient that the training images are of, too: 'tr3'" in done.stderr
