"""The other commands, and what all of them share."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from memaudit.audit import source
from memaudit.cli import options
from memaudit.cli.main import COMMANDS, main
from memaudit.cli.train import train
from memaudit.data.built_sets import write_set
from memaudit.data.images import ImageSet
from memaudit.training.config import TrainingConfig

Run = Callable[..., Result]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_starts_with_its_line_and_has_an_example(run: Run, command: str):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert COMMANDS[command] in " ".join(result.stdout.split())
    assert f"memaudit {command}" in result.stdout.split("Usage:")[1].split("\n", 1)[1]


def test_an_unknown_command_exits_with_2(run: Run):
    result = run("scna")
    assert result.exit_code == 2
    assert "No such command" in result.stderr


def test_sampling_writes_one_png_a_seed(run: Run, checkpoint: Path, tmp_path: Path):
    result = run("sample", checkpoint, "--seeds", "5,17", "--out", tmp_path / "images")
    assert result.exit_code == 0, result.stderr
    images = sorted(path.name for path in (tmp_path / "images").glob("*.png"))
    assert images == ["000005.png", "000017.png"]


@pytest.mark.parametrize("suffix", [".npz", ".zip"])
def test_sampled_images_can_be_scanned(
    run: Run, checkpoint: Path, make_npz: Callable, tmp_path: Path, suffix: str
):
    out = tmp_path / f"generated{suffix}"
    assert run("sample", checkpoint, "--samples", 5, "--out", out).exit_code == 0
    given = json.loads(run("scan", out, "--data", make_npz(10), "--json").stdout)
    sampled = json.loads(
        run("scan", checkpoint, "--data", make_npz(10), "--samples", 5, "--json").stdout
    )
    assert given["ratios"] == sampled["ratios"]


def test_a_grid_holds_all_images(run: Run, checkpoint: Path, tmp_path: Path):
    out = tmp_path / "grid.png"
    assert run("sample", checkpoint, "--samples", 9, "--out", out).exit_code == 0
    with Image.open(out) as grid:
        assert grid.size == (24, 24)


def test_the_optimum_is_sampled_into_its_training_images(
    run: Run, make_npz: Callable, tmp_path: Path
):
    data, out = make_npz(20), tmp_path / "generated.npz"
    result = run("sample", "optimum", "--data", data, "--samples", 6, "--out", out)
    assert result.exit_code == 0, result.stderr
    train = {image.tobytes() for image in np.load(data)["images"]}
    assert all(image.tobytes() in train for image in np.load(out)["images"])


def test_data_belongs_to_the_optimum(
    run: Run, checkpoint: Path, make_npz: Callable, tmp_path: Path
):
    for arguments, message in (
        (("optimum",), "name them with --data"),
        ((checkpoint, "--data", make_npz(20)), "a checkpoint does not need it"),
    ):
        result = run("sample", *arguments, "--out", tmp_path / "generated")
        assert result.exit_code == 2
        assert message in result.stderr


def test_converting_into_a_folder_that_is_not_there_is_refused(
    run: Run, checkpoint: Path, tmp_path: Path
):
    result = run("convert", checkpoint, tmp_path / "no" / "out.safetensors")
    assert result.exit_code == 2
    assert "is not a folder" in result.stderr


def test_a_file_system_that_fails_is_a_message(
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "images")

    monkeypatch.setattr("memaudit.data.writers.write_images", full)
    result = run("sample", checkpoint, "--samples", 1, "--out", tmp_path / "images.zip")
    assert result.exit_code == 2
    assert "images: No space left on device" in result.stderr


def test_the_selftest_passes_and_shows_its_controls(run: Run, make_npz: Callable):
    result = run("selftest", "--data", make_npz(60), "--holdout", make_npz(40, seed=1))
    assert result.exit_code == 0, result.stderr
    for control in ("optimum", "held-out images", "planted copies", "All controls passed"):
        assert control in result.stdout


def test_the_selftest_fails_where_held_out_images_are_training_images(run: Run, make_npz: Callable):
    data = make_npz(60)
    result = run("selftest", "--data", data, "--holdout", data, "--samples", 40, "--json")
    assert result.exit_code == 1
    passed = {one["name"]: one["passed"] for one in json.loads(result.stdout)["controls"]}
    assert passed["optimum"] and not passed["held-out images"]


def test_the_selftest_of_a_model_shows_its_controls(run: Run, checkpoint: Path, make_npz: Callable):
    data, holdout = make_npz(60), make_npz(60, seed=1)
    options = ("--data", data, "--holdout", holdout, "--samples", 40)
    result = run("selftest", "--model", checkpoint, *options)
    assert result.exit_code == 0, result.stdout + result.stderr
    for words in ("roles exchanged", "no FAIL at 5 %", "12 planted images", "12 of 12"):
        assert words in result.stdout
    table = [
        line for line in result.stdout.splitlines() if line.rstrip().endswith(("passed", "yes"))
    ]
    assert len(table) == 9 and max(map(len, table)) <= 80
    refused = run("selftest", "--model", checkpoint, "--data", data)
    assert refused.exit_code == 2
    assert "--holdout" in refused.stderr and "--model" in refused.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "0", "--out", "new"], "0 samples"),
        (["--out", "images.gif"], "ends in .gif"),
        (["--out", "."], "is not empty"),
    ],
)
def test_sampling_refuses_what_it_cannot_do(
    run: Run,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    result = run("sample", checkpoint, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_training_defaults_are_those_of_the_library():
    defaults = TrainingConfig()
    arguments = ["--data", __file__, "--out", "run"]
    options = train.make_context("train", arguments).params
    compared = {name: value for name, value in options.items() if hasattr(defaults, name)}
    assert compared == {name: getattr(defaults, name) for name in compared}
    assert len(compared) > 15


def test_a_trained_model_can_be_inspected_and_scanned(run: Run, make_npz: Callable, tmp_path: Path):
    data = make_npz(8)
    small = "--precond edm --model-channels 8 --channel-mult 1 --num-blocks 1 --dropout 0".split()
    small += "--batch-size 8 --duration-images 64 --num-snapshots 2".split()
    trained = run("train", "--data", data, "--out", tmp_path / "run", *small)
    assert trained.exit_code == 0, trained.stderr
    model = tmp_path / "run" / "model.safetensors"
    assert str(model) in re.sub(r"\s", "", trained.stderr) or model.name in trained.stderr

    inspected = json.loads(run("inspect", model, "--json").stdout)
    assert inspected["network"]["config"]["model_channels"] == 8
    assert inspected["safe"] is True

    scanned = run("scan", model, "--data", data, "--samples", 3)
    assert scanned.exit_code == 0, scanned.stderr
    assert re.search(r"\d of 3 generated images", scanned.stdout)


def test_training_refuses_options_that_cannot_be(run: Run, make_npz: Callable, tmp_path: Path):
    result = run("train", "--data", make_npz(4), "--out", tmp_path / "run", "--epochs", 0)
    assert result.exit_code == 2
    assert "epochs is 0" in result.stderr


def test_inspecting_what_is_no_checkpoint_says_so(run: Run, tmp_path: Path):
    text = tmp_path / "notes.txt"
    text.write_text("not a checkpoint")
    result = run("inspect", text)
    assert result.exit_code == 2
    assert "notes.txt" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("scan", "optimum", "--data", "absent"),
        ("sample", "absent", "--out", "new"),
        ("sample", "optimum", "--data", "absent", "--out", "new"),
        ("sample", "optimum", "--data", "taken", "--out", "taken"),
        ("selftest", "--data", "absent"),
        ("inspect", "absent"),
        ("convert", "absent", "new.safetensors"),
        ("convert", "taken/mine.txt", "taken/mine.txt"),
    ],
)
def test_a_path_that_cannot_be_is_refused_before_torch_is_imported(
    tmp_path: Path, arguments: tuple[str, ...]
):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").touch()
    program = (
        "import sys\nfrom memaudit.cli.main import main\n"
        "try: main()\nfinally: print('torch' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "absent" in ended.stderr or "taken" in ended.stderr
    assert ended.stdout == "False\n"


def test_the_optimum_has_one_name():
    assert options.OPTIMUM == source.OPTIMUM


@pytest.mark.parametrize("form", ["folder", "images.zip", "images.npz"])
def test_inspecting_images_names_the_command_for_them(run: Run, tmp_path: Path, form: str):
    path = tmp_path / form
    images = ImageSet.from_array(np.zeros([1, 3, 8, 8], np.uint8))
    write_set(path, images, sources=[images], choices={})
    result = run("inspect", path)
    assert result.exit_code == 2
    assert form in result.stderr and "`memaudit dataset inspect`" in result.stderr


def test_an_unsafe_file_is_described_and_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Through the installed entry point, whose exit status is what a script sees."""
    hostile = tmp_path / "hostile.pkl"
    hostile.write_bytes(b"\x80\x04cos\nsystem\n\x8c\x05false\x85R.")
    monkeypatch.setattr("sys.argv", ["memaudit", "inspect", str(hostile)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    shown = capsys.readouterr().out
    assert "os.system" in shown and "NO" in shown


def test_a_checkpoint_is_converted_to_one_that_opens(
    run: Run, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    source = golden / "pkl" / "edm_ddpmpp_uncond_vp_torch113.pkl"
    assert run("convert", source, "out.safetensors").exit_code == 0
    assert run("inspect", "out.safetensors").exit_code == 0
    refused = run("convert", source, "out.safetensors")
    assert refused.exit_code == 2 and "--overwrite" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


def test_the_order_of_images_is_random_by_seed_alone(run: Run, make_npz: Callable):
    data = make_npz(50)

    def fingerprint(*options: str) -> str:
        return json.loads(run("scan", data, "--data", data, "--json", *options).stdout)["data"][
            "fingerprint"
        ]

    chosen = ("--size", "10", "--subset", "random", "--subset-seed")
    assert fingerprint(*chosen, "1") == fingerprint(*chosen, "1")
    assert fingerprint(*chosen, "1") != fingerprint(*chosen, "2")
    assert np.load(data)["images"].shape[0] == 50
