"""`memaudit scan`, as it is typed."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import Result
from helpers.permissions import permissions_hold

Run = Callable[..., Result]


def test_given_images_are_judged_and_the_table_says_so(
    run: Run, make_npz: Callable, tmp_path: Path
):
    train = make_npz(100)
    images = np.load(train)["images"]
    generated = tmp_path / "generated.npz"
    np.savez(generated, images=np.concatenate([images[:25], 255 - images[:75]]))

    result = run("scan", generated, "--data", train, "--out", tmp_path / "report")

    assert result.exit_code == 0, result.stderr
    assert "25 of 100 generated images copy a training image" in result.stdout
    assert "16.9 to 34.7 %" in result.stdout
    assert "25 of 100 training images leak" in result.stdout
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["ratios"]["paper"]["count"] == 25
    with (tmp_path / "report" / "leaks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["index"]) for row in rows) == list(range(25))
    assert (tmp_path / "report" / "report.html").stat().st_size > 1000


def test_json_goes_to_stdout_alone(run: Run, make_npz: Callable):
    result = run("scan", make_npz(10), "--data", make_npz(10), "--json")
    report = json.loads(result.stdout)
    assert report["schema"] == "memaudit.report/2"
    assert report["verdict"] is None
    assert report["ratios"]["distinct"]["ratio"] == 1.0


def test_a_checkpoint_is_sampled_by_seed(run: Run, checkpoint: Path, make_npz: Callable):
    arguments = ("scan", checkpoint, "--data", make_npz(20), "--seeds", "3,7-8", "--json")
    once, again = run(*arguments), run(*arguments, "--batch-size", 1)
    assert once.exit_code == 0, once.stderr
    first, second = json.loads(once.stdout), json.loads(again.stdout)
    assert first["ratios"]["paper"]["total"] == 3
    for report in (first, second):
        for varying in ("timings", "environment"):
            report.pop(varying)
        report["sampling"].pop("batch_size")
    assert first == second


def test_a_part_of_the_given_images_can_be_judged(run: Run, make_npz: Callable):
    images = make_npz(10)
    report = json.loads(run("scan", images, "--data", images, "--samples", 4, "--json").stdout)
    assert report["ratios"]["paper"]["total"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "0"], "0 samples were asked for; at least 1 is needed"),
        (["--samples", "-3"], "-3 samples were asked for"),
        (["--samples", "2", "--seeds", "0-1"], "give one"),
        (["--seeds", "0-99999999999"], "is more than"),
        (["--size", "0"], "--size is 0; at least 1"),
        (["--resolution", "0"], "--resolution is 0; at least 1"),
        (["--seeds", "9-3"], "ends before it starts"),
        (["--seeds", "many"], "is not a list of seeds"),
        (["--threshold", "2"], "--threshold is 2; between 0 and 1"),
        (["--threshold", "third"], "is not a share"),
        (["--class", "3"], "the model has no classes"),
        (["--steps", "0"], "--steps is 0"),
        (["--size", "50"], "50"),
    ],
)
def test_options_that_cannot_be_met_exit_with_2(
    run: Run, checkpoint: Path, make_npz: Callable, options: list[str], message: str
):
    result = run("scan", checkpoint, "--data", make_npz(20), *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_a_missing_checkpoint_is_named(run: Run, make_npz: Callable, tmp_path: Path):
    result = run("scan", tmp_path / "absent.safetensors", "--data", make_npz(4))
    assert result.exit_code == 2
    assert "absent.safetensors" in result.stderr


def test_an_unreadable_checkpoint_is_named(run: Run, make_npz: Callable, tmp_path: Path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00 not JSON at all")
    result = run("scan", broken, "--data", make_npz(4))
    assert result.exit_code == 2
    assert "broken.safetensors" in result.stderr


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 8, 8)])
def test_another_resolution_or_channel_count_is_refused_with_both_shapes(
    run: Run, checkpoint: Path, make_npz: Callable, shape: tuple[int, int, int]
):
    result = run("scan", checkpoint, "--data", make_npz(4, shape))
    assert result.exit_code == 2
    assert "[3, 8, 8]" in result.stderr and str(list(shape)) in result.stderr


def test_one_training_image_is_refused(run: Run, checkpoint: Path, make_npz: Callable):
    result = run("scan", checkpoint, "--data", make_npz(1))
    assert result.exit_code == 2
    assert "holds 1 image" in result.stderr


def test_an_output_folder_without_permission_is_refused(
    run: Run, checkpoint: Path, make_npz: Callable, tmp_path: Path
):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with permissions_hold():
        result = run("scan", checkpoint, "--data", make_npz(4), "--out", locked)
    assert result.exit_code == 2
    assert "Permission denied" in result.stderr


def test_an_output_that_is_a_file_is_refused_before_sampling(
    run: Run, checkpoint: Path, make_npz: Callable, tmp_path: Path
):
    occupied = tmp_path / "occupied"
    occupied.write_text("mine")
    result = run("scan", checkpoint, "--data", make_npz(4), "--out", occupied)
    assert result.exit_code == 2
    assert "occupied" in result.stderr
    assert "Sampling" not in result.stderr
    assert occupied.read_text() == "mine"


def test_a_report_is_not_overwritten_unasked(run: Run, make_npz: Callable, tmp_path: Path):
    images = make_npz(4)
    arguments = ("scan", images, "--data", images, "--out", tmp_path / "report")
    assert run(*arguments).exit_code == 0
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert run(*arguments, "--overwrite").exit_code == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_asked_for_where_there_is_none_is_refused(
    run: Run, checkpoint: Path, make_npz: Callable
):
    result = run("scan", checkpoint, "--data", make_npz(4), "--device", "cuda")
    assert result.exit_code == 2
    assert "no CUDA device" in result.stderr


def test_the_optimum_of_distinct_images_copies_all_it_makes(run: Run, make_npz: Callable):
    report = json.loads(
        run("scan", "optimum", "--data", make_npz(30), "--samples", 12, "--json").stdout
    )
    assert report["ratios"]["distinct"]["count"] == 12
    assert report["source"]["model"]["format"] == "closed-form optimum"
    assert report["source"]["sha256"] == report["data"]["fingerprint"]


def test_one_class_of_the_optimum_copies_images_of_that_class(run: Run, tmp_path: Path):
    data = tmp_path / "data.npz"
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
    np.savez(data, images=images, labels=np.arange(30) % 3)
    arguments = ("scan", "optimum", "--data", data, "--samples", 12, "--class", 2)
    assert run(*arguments, "--out", tmp_path / "report").exit_code == 0
    with (tmp_path / "report" / "leaks.csv").open(newline="") as file:
        assert {int(row["index"]) % 3 for row in csv.DictReader(file)} == {2}


def test_one_class_of_the_optimum_needs_labels(run: Run, make_npz: Callable):
    result = run("scan", "optimum", "--data", make_npz(30), "--samples", 2, "--class", 0)
    assert result.exit_code == 2
    assert "has no labels" in result.stderr


@pytest.mark.parametrize("option", ["--seeds", "--class", "--arch"])
def test_options_for_models_are_refused_for_given_images(run: Run, make_npz: Callable, option: str):
    images = make_npz(10)
    result = run("scan", images, "--data", images, option, 3)
    assert result.exit_code == 2
    assert f"{option} applies to models" in result.stderr


def test_a_sampler_for_given_images_is_refused(run: Run, make_npz: Callable):
    images = make_npz(10)
    result = run("scan", images, "--data", images, "--steps", 9)
    assert result.exit_code == 2
    assert "--steps applies to models" in result.stderr


def test_the_gate_ends_in_its_status_and_in_files_for_a_ci_page(
    run: Run, make_npz: Callable, tmp_path: Path
):
    train, fresh = make_npz(100), make_npz(400, seed=1)
    junit, summary = tmp_path / "ci" / "junit.xml", tmp_path / "ci" / "summary.md"
    files = ("--junit", junit, "--summary", summary)
    for source, limit, status, verdict in (
        (train, 0.5, 1, "FAIL"),
        (fresh, 0.01, 0, "PASS"),
        (fresh, 0.001, 3, "INCONCLUSIVE"),
    ):
        result = run("scan", source, "--data", train, "--fail-above", limit, *files)
        assert result.exit_code == status, result.stderr
        assert result.stdout.startswith(f"{verdict}: ")
        assert f"memaudit: {verdict}: " in summary.read_text()
        case = ElementTree.parse(junit).getroot().find("testcase")
        assert case is not None
        assert [child.tag for child in case] == {0: [], 1: ["failure"], 3: ["error"]}[status]
    assert "other images would probably decide" in result.stdout


def test_a_scan_that_cannot_run_says_so_in_the_junit_file(
    run: Run, make_npz: Callable, tmp_path: Path
):
    junit = tmp_path / "junit.xml"
    other = make_npz(4, (1, 8, 8))
    result = run("scan", other, "--data", make_npz(4), "--junit", junit)
    assert result.exit_code == 2
    error = ElementTree.parse(junit).getroot().find("testcase/error")
    assert error is not None and "alike with --mode gray" in error.attrib["message"]
    (tmp_path / "file").touch()
    wrong = run("scan", other, "--data", other, "--junit", tmp_path / "file" / "junit.xml")
    assert wrong.exit_code == 2 and "junit.xml cannot be written" in wrong.stderr


def test_the_status_is_the_verdict_even_where_nobody_reads_the_tables(make_npz: Callable):
    train, fresh = make_npz(100), make_npz(400, seed=1)
    program = "from memaudit.cli.main import main; main()"
    arguments = ["scan", str(fresh), "--data", str(train), "--fail-above", "0.01"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    finally:
        os.close(writer)
    assert ended.returncode == 0, ended.stderr


def test_a_full_disk_is_told_in_the_junit_file_too(
    run: Run, make_npz: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("memaudit.audit.report.folder.write_report", full)
    images, junit = make_npz(4), tmp_path / "junit.xml"
    options = ("--out", tmp_path / "report", "--junit", junit)
    assert run("scan", images, "--data", images, *options).exit_code == 2
    assert "No space left on device" in junit.read_text()


def test_options_of_the_index_that_contradict_each_other_are_named(run: Run, make_npz: Callable):
    images = make_npz(4)
    result = run("scan", images, "--data", images, "--encoder-size", "16")
    assert result.exit_code == 2
    assert "--encoder-size are for an encoder; name one with --features." in result.stderr
    result = run("scan", images, "--data", images, "--features", images, "--index-memory", "1")
    assert result.exit_code == 2
    assert "--index-memory limits the index of pixels; leave it out with --features" in (
        " ".join(result.stderr.split())
    )


def test_a_dry_run_says_what_a_scan_would_take_and_writes_nothing(
    run: Run, checkpoint: Path, make_npz: Callable, tmp_path: Path
):
    out = tmp_path / "report"
    command = ("scan", checkpoint, "--data", make_npz(20), "--fail-above", "0.1%", "--out", out)
    result = run(*command, "--dry-run")
    assert result.exit_code == 0, result.output
    for part in ("10,000", "3,787 images if none is a copy", "64 images if all are", "1.9 MB"):
        assert part in result.stdout
    assert "Nothing was generated" in result.stdout and not out.exists()
    few = run(*command, "--dry-run", "--samples", 500)
    assert "no model could pass" in few.stdout
    content = json.loads(run(*command, "--dry-run", "--json").stdout)
    assert content["likely_stop"] == 3787


@pytest.mark.parametrize("limit", [0.01, 0.9])
@pytest.mark.parametrize("unwritable", ["junit_xml", "markdown_summary"])
def test_the_status_is_the_verdicts_even_if_a_file_for_ci_cannot_be_written(
    run: Run,
    make_npz: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: float,
    unwritable: str,
):
    """The disk fills up while the images are judged: FAIL must still be 1, and PASS 0."""

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    train = make_npz(40)
    monkeypatch.setattr(f"memaudit.audit.report.ci.{unwritable}", full)
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    source = train if limit < 0.5 else make_npz(400, seed=9)
    options = ("--fail-above", limit, "--junit", junit, "--summary", summary)
    result = run("scan", source, "--data", train, *options)
    missing, there = (junit, summary) if unwritable == "junit_xml" else (summary, junit)
    assert result.exit_code == (1 if limit < 0.5 else 0), result.output
    assert "Warning: the scan is done, but a file was not written: " in result.stderr
    assert f"{missing}: No space left on device. What was whole" in result.stderr
    assert there.exists() and not missing.exists() and len(list(tmp_path.glob(".*.part"))) == 0


def test_a_device_is_no_file_for_ci(run: Run, make_npz: Callable[..., Path]):
    """To replace /dev/null by a rename is what root could do to a whole machine."""
    data = make_npz(4)
    result = run("scan", data, "--data", data, "--summary", "/dev/null")
    assert result.exit_code == 2
    assert "/dev/null cannot be written: it is a device, not a regular file." in result.stderr


@pytest.mark.parametrize(("option", "pictures"), [("--no-images", "none"), ("--blur", "blurred")])
def test_a_page_for_others_can_be_written_without_pictures(
    run: Run, make_npz: Callable, tmp_path: Path, option: str, pictures: str
):
    images = make_npz(20)
    result = run("scan", images, "--data", images, "--out", tmp_path / "a", option, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["pictures"] == pictures
    assert json.loads((tmp_path / "a" / "report.json").read_text())["pictures"] == pictures
    page = (tmp_path / "a" / "report.html").read_text()
    assert ("<img" in page) == (pictures == "blurred")
    assert run("verify", tmp_path / "a", "--data", images).exit_code == 0
    assert run("dataset", "duplicates", images, "--out", tmp_path / "b", option).exit_code == 0
    assert "on request" in (tmp_path / "b" / "duplicates.html").read_text()


def test_one_of_the_two_says_what_a_page_shows(run: Run, make_npz: Callable):
    images = make_npz(20)
    result = run("scan", images, "--data", images, "--blur", "--no-images")
    assert result.exit_code == 2 and "give one" in result.stderr
