"""Images that cannot be what somebody meant are told of, whatever is done with them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

Run = Callable[..., Result]


@pytest.mark.parametrize("place", ["data", "source", "holdout"])
def test_images_that_lost_their_values_are_told_wherever_the_verdict_is(
    run: Run, make_npz: Callable[..., Path], tmp_path: Path, place: str
) -> None:
    given = {name: make_npz(40) for name in ("source", "data", "holdout")}
    rng = np.random.default_rng(1)
    for name in given:
        path = tmp_path / f"{name}.npz"
        np.savez(path, images=rng.integers(0, 2 if name == place else 256, (40, 3, 8, 8), np.uint8))
        given[name] = path
    files = {name: tmp_path / name for name in ("summary.md", "junit.xml")}
    out = tmp_path / "report"
    result = run(
        *("scan", given["source"], "--data", given["data"], "--holdout", given["holdout"]),
        *("--fail-above", 0.5, "--min-samples", 10, "--out", out),
        *("--summary", files["summary.md"], "--junit", files["junit.xml"]),
    )
    sign = "is 0 or 1, as if numbers in"
    assert f"Every value of the images in {given[place]} {sign}" in result.stderr
    for text in (*map(Path.read_text, files.values()), (out / "report.html").read_text()):
        assert sign in text
    assert sign in json.loads((out / "report.json").read_text())["source"]["warnings"][0]


@pytest.mark.parametrize(
    "command",
    [
        ["dataset", "inspect", "DATA"],
        ["dataset", "duplicates", "DATA"],
        ["dataset", "build", "--data", "DATA", "--out", "OUT.npz"],
        pytest.param(
            [
                *("train", "--data", "DATA", "--out", "OUT", "--model-channels", "8"),
                *("--channel-mult", "1", "--num-blocks", "1", "--batch-size", "4", "--epochs", "1"),
            ],
            marks=pytest.mark.slow,
        ),
        ["inspect", "MODEL", "--data", "DATA"],
    ],
)
def test_images_that_lost_their_values_are_told_by_every_command(
    run: Run, checkpoint: Path, tmp_path: Path, command: list[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 2, (8, 3, 8, 8), np.uint8)
    np.savez(tmp_path / "data.npz", images=images)
    places = {"DATA": tmp_path / "data.npz", "MODEL": checkpoint, "OUT": tmp_path / "out"}
    for name, path in places.items():
        command = [word.replace(name, str(path)) for word in command]
    result = run(*command)
    assert "Error" not in result.stderr
    assert "Warning: Every value of the images in" in result.stderr
