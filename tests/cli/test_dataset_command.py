"""`memaudit dataset`: build, inspect, duplicates."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from helpers.images import labels_of

from memaudit.cli.dataset import dataset
from memaudit.data.selection import Selection
from memaudit.data.sources import open_images
from memaudit.data.subsets import open_selected

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty 3x8x8 images of three classes; 12 and 21 equal 3, 5 is near 2."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 250, (30, 3, 8, 8), dtype=np.uint8)
    images[[12, 21]] = images[3]
    images[5] = images[2] + 5
    path = tmp_path_factory.mktemp("pets") / "pets.npz"
    np.savez(path, images=images, labels=np.arange(30) % 3)
    return path


@pytest.mark.parametrize("command", dataset.commands)
def test_every_help_has_an_example(run: Run, command: str) -> None:
    result = run("dataset", command, "--help")
    assert result.exit_code == 0
    assert f"memaudit dataset {command}" in result.stdout


def test_a_built_set_is_the_selection_with_its_labels(run: Run, pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "set.zip"
    result = run("dataset", "build", "--data", pets, "--size", 12, "--balanced", "--out", out)
    assert result.exit_code == 0, result.stderr
    built, chosen = open_images(out), open_selected(pets, Selection(size=12, balanced=True))
    assert built.fingerprint == chosen.fingerprint
    assert built.labels is not None and labels_of(built) == labels_of(chosen)
    assert built.fingerprint in result.stderr


def shown_choices(text: str) -> set[str]:
    """The lines below the version and the only source."""
    return {" ".join(line.split()) for line in text.split("made by")[1].splitlines()[2:]}


def test_inspect_tells_what_a_set_was_made_of(run: Run, pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "set.zip"
    arguments = ("--size", 10, "--subset", "random", "--repeat", 2, "--label", "0,1")
    scheme = ("--labels", "random", "--num-classes", 4, "--label-seed", 1)
    assert run("dataset", "build", "--data", pets, *arguments, *scheme, "--out", out).exit_code == 0
    about = json.loads(run("dataset", "inspect", out, "--json").stdout)
    assert about["num_images"] == 20 and about["image_shape"] == [3, 8, 8]
    assert sum(about["class_counts"]) == 20 and about["num_classes"] == 4
    manifest = about["manifest"]
    assert manifest["fingerprint"] == about["fingerprint"]
    assert manifest["choices"] == {
        "size": 10,
        "subset": "random",
        "subset_seed": 0,
        "balanced": False,
        "label": ["0", "1"],
        "resolution": None,
        "fit": "none",
        "filter": None,
        "mode": None,
        "background": None,
        "window": None,
        "exif": "ignore",
        "split": None,
        "labels_from": None,
        "groups_from": None,
        "share": None,
        "repeat": 2,
        "labels": "random",
        "num_classes": 4,
        "label_seed": 1,
        "rule": "published",
    }
    assert manifest["names"][0] == manifest["names"][1] and len(manifest["names"]) == 20
    text = run("dataset", "inspect", out).stdout
    assert about["fingerprint"] in text and "20 images, 3 x 8 x 8, 4 classes" in text
    assert shown_choices(text) == {
        *("size 10", "subset random", "subset seed 0", "label 0, 1", "repeat 2"),
        *("labels random", "num classes 4", "label seed 1", "recipe published"),
    }


def test_inspect_leaves_out_choices_that_were_not_made(
    run: Run, pets: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    arguments = ("--label", 2, "--labels", "none", "--size", 1)
    result = run("dataset", "build", "--data", pets, *arguments, "--out", out)
    assert "1 image, 3 x 8 x 8, no labels" in " ".join(result.stderr.split())
    text = run("dataset", "inspect", out).stdout
    assert "names                     pets.npz[2]\n" in text
    assert shown_choices(text) == {"size 1", "label 2", "labels none"}


def test_inspect_counts_classes_of_any_source(
    run: Run, pets: Path, make_npz: Callable[..., Path]
) -> None:
    text = run("dataset", "inspect", pets).stdout
    assert "class 2                 10\n" in text and "made by" not in text
    assert json.loads(run("dataset", "inspect", make_npz(4), "--json").stdout)["class_counts"] == []


def test_a_mixture_takes_its_share_at_one_resolution(
    run: Run, pets: Path, make_npz: Callable[..., Path], tmp_path: Path
) -> None:
    other, out = make_npz(20, (3, 16, 16)), tmp_path / "mixture"
    result = run(
        *("dataset", "build", "--data", pets, "--label", 1, "--mix", other, "--share", 0.25),
        *("--size", 12, "--resolution", 8, "--labels", "unique", "--out", out),
    )
    assert result.exit_code == 0, result.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert [source["path"] for source in manifest["sources"]] == [str(pets), str(other)]
    assert sum(name.startswith(str(other)) for name in manifest["names"]) == 3
    assert labels_of(open_images(out)) == list(range(12))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", 31), "31 images of"),
        (
            ("--balanced",),
            "equally among the classes; give --size too",
        ),
        (("--share", 0.5), "--mix and --share go together"),
        (("--mix", "PETS"), "--mix and --share go together"),
        (("--mix", "PETS", "--share", 0.5), "--mix needs --size"),
        (("--mix", "PETS", "--share", 0.5, "--size", 6, "--balanced"), "leave --balanced out"),
        (
            ("--mix", "PETS", "--share", 1.5, "--size", 6),
            "--share is 1.5; at least 0 and at most 1",
        ),
        (("--mix", "GRAY", "--share", 0.5, "--size", 6), "are [3, 8, 8], those of"),
        (("--mix", "GRAY", "--share", 1, "--size", 6, "--resolution", 4), "give --resolution"),
        (("--labels", "random"), "Random --labels and --num-classes go together"),
        (("--num-classes", 3), "Random --labels and --num-classes go together"),
        (("--labels", "true", "--label", 7), "no class '7'; its classes are 0 … 2"),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(
    run: Run,
    pets: Path,
    make_npz: Callable[..., Path],
    tmp_path: Path,
    arguments: tuple[Any, ...],
    message: str,
) -> None:
    paths = {"PETS": pets, "GRAY": make_npz(8, (1, 8, 8))}
    given = [paths.get(argument, argument) for argument in arguments]
    result = run("dataset", "build", "--data", pets, *given, "--out", tmp_path / "set.zip")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "set.zip").exists()


def test_true_labels_of_a_source_without_any_are_refused(
    run: Run, make_npz: Callable[..., Path], tmp_path: Path
) -> None:
    arguments = ("--labels", "true", "--out", tmp_path / "set.zip")
    result = run("dataset", "build", "--data", make_npz(4), *arguments)
    assert result.exit_code == 2 and "has no labels" in result.stderr


@pytest.mark.parametrize("name", ["set.png", "set.tar", "taken.zip"])
def test_an_output_is_refused_before_anything_is_read(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "taken.zip").touch()
    (tmp_path / "broken").touch()
    out = tmp_path / name
    for command in (
        ("build", "--data", tmp_path / "broken", "--out", out),
        ("duplicates", tmp_path / "broken", "--write", out),
    ):
        result = run("dataset", *command)
        assert result.exit_code == 2
        assert name in result.stderr and "broken" not in result.stderr


def test_duplicates_are_counted_listed_and_left_out(run: Run, pets: Path, tmp_path: Path) -> None:
    out, kept = tmp_path / "duplicates", tmp_path / "kept.zip"
    result = run("dataset", "duplicates", pets, "--out", out, "--write", kept)
    assert result.exit_code == 0, result.stderr
    lines = " ".join(result.stdout.split())
    assert "groups of duplicates 2" in lines and "images in them 5 (16.7 %)" in lines
    assert "equal to an earlier one 2 near an earlier one 1, within 8 gray levels" in lines
    with (out / "duplicates.csv").open() as file:
        rows = [(row["group"], int(row["index"]), row["exact"]) for row in csv.DictReader(file)]
    expected = [("1", 2, "0"), ("1", 5, "0"), ("2", 3, "0"), ("2", 12, "1"), ("2", 21, "1")]
    assert rows == expected
    assert (out / "duplicates.html").read_text().count("<img") == 5

    left = open_images(kept)
    remaining = open_images(pets).take(np.setdiff1d(np.arange(30), [5, 12, 21]))
    assert left.fingerprint == remaining.fingerprint
    assert left.labels is not None and labels_of(left) == labels_of(remaining)
    manifest = json.loads(run("dataset", "inspect", kept, "--json").stdout)["manifest"]
    text = run("dataset", "inspect", kept).stdout
    assert "  duplicate rms           8\n" in text
    assert "  left out                pets.npz[5] (duplicate of pets.npz[2])," in text
    assert manifest["choices"]["left_out"] == [
        {"name": f"pets.npz[{i}]", "duplicate_of": f"pets.npz[{first}]"}
        for i, first in ((5, 2), (12, 3), (21, 3))
    ]


def test_duplicates_as_json(run: Run, pets: Path) -> None:
    found = json.loads(run("dataset", "duplicates", pets, "--duplicate-rms", 0, "--json").stdout)
    assert (found["num_groups"], found["num_in_groups"], found["num_copies"]) == (1, 3, 2)
    assert found["groups"] == [
        {
            "indices": [3, 12, 21],
            "names": ["pets.npz[3]", "pets.npz[12]", "pets.npz[21]"],
            "squared_distance": [0, 0, 0],
            "exact": [False, True, True],
        }
    ]


def test_a_set_without_duplicates_says_so(
    run: Run, make_npz: Callable[..., Path], tmp_path: Path
) -> None:
    result = run("dataset", "duplicates", make_npz(5), "--out", tmp_path / "out", "--flips")
    assert result.exit_code == 0, result.stderr
    assert "groups of duplicates      0\n" in result.stdout
    assert "No duplicates among 5 images" in (tmp_path / "out" / "duplicates.html").read_text()


def test_the_most_exposed_images_are_listed_first(run: Run, pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "risk.csv"
    result = run("dataset", "risk", pets, "--out", out)
    assert result.exit_code == 0, result.stderr
    lines = " ".join(result.stdout.split())
    assert "images 30 without duplicates 27, within 8 gray levels taken as one" in lines
    assert "nearest other" in lines and "and 17 images more" in lines
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["index"], row["times_shown"], row["num_equal"]) for row in rows[:2]] == [
        ("3", "3", "3"),
        ("2", "2", "1"),
    ]
    far = [float(row["isolation_rms"]) for row in rows[2:]]
    assert len(far) == 25 and far == sorted(far, reverse=True)
    found = json.loads(run("dataset", "risk", pets, "--json").stdout)
    assert found["num_images"] == 30 and found["images"][0]["name"] == "pets.npz[3]"
    assert [row["index"] for row in found["images"]] == [int(row["index"]) for row in rows]
    again = run("dataset", "risk", pets, "--out", out)
    assert again.exit_code == 2 and "risk.csv exists" in again.stderr


def test_help_lists_what_each_command_does_in_full(run: Run) -> None:
    listed = run("dataset", "--help").stdout.split("Commands:")[1]
    assert "..." not in listed
    assert "mirrored, only in one." in " ".join(listed.split())
