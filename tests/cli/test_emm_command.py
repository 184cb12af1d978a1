"""`memaudit emm`: what it costs, what it found, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

TINY = [
    *("--preset", "laptop", "--set", "model_channels=8", "--set", "channel_mult=1"),
    *("--set", "attn_resolutions=none", "--set", "batch_size=8", "--set", "epochs=2"),
    *("--set", "num_snapshots=1", "--min-size", "4", "--max-size", "16", "--tolerance", "2"),
]


def test_a_dry_run_says_what_it_costs_and_trains_nothing(
    run: Callable[..., Result], make_npz: Callable[..., Path], tmp_path: Path
):
    out = tmp_path / "out"
    result = run("emm", "--data", make_npz(20), *TINY, "--samples", 4, "--out", out, "--dry-run")
    assert result.exit_code == 0
    assert "trainings, of 4 to 16 images, 3 at each size" in " ".join(result.stdout.split())
    assert "FLOP/s in training" in result.stdout
    assert not out.exists()


def test_a_search_writes_curve_and_page(
    run: Callable[..., Result], make_npz: Callable[..., Path], tmp_path: Path
):
    out = tmp_path / "out"
    result = run("emm", "--data", make_npz(20), *TINY, "--samples", 4, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "no estimate" in result.stdout
    assert "images, training 3 of 3: 0 % copied" in result.stderr
    content = json.loads((out / "emm.json").read_text())
    assert content["setup"]["num_samples"] == 4
    assert content["setup"]["training"]["model_channels"] == 8
    assert (out / "emm.html").is_file()

    estimated = run("emm", "--from-results", out)
    assert estimated.exit_code == 0
    assert "no estimate" in estimated.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --data, or --from-results"),
        (["--data", "DATA"], "give --out, or --dry-run"),
        (["--data", "DATA", "--from-results", "DATA"], "give one"),
        (["--data", "DATA", "--dry-run"], "holds only 20 images"),
        (["--data", "DATA", "--dry-run", "--set", "width=3"], "write field=value"),
        (
            ["--data", "DATA", "--dry-run", "--max-size", "20", "--min-size", "30"],
            "--min-size is 30 and",
        ),
        (["--data", "DATA", "--dry-run", "--epsilon", "1"], "1 is not between 0 and 1"),
        (["--from-results", "DATA"], "is not a readable memaudit report"),
    ],
)
def test_what_cannot_be_done_is_refused(
    run: Callable[..., Result],
    make_npz: Callable[..., Path],
    arguments: list[str],
    message: str,
):
    data = str(make_npz(20))
    given = [data if argument == "DATA" else argument for argument in arguments]
    if "--min-size" not in given:
        given += ["--min-size", "4"]
    if "1" in given:
        given += ["--max-size", "20"]
    result = run("emm", *given)
    assert result.exit_code == 2
    assert message in result.stderr


def test_equal_shares_need_multiples_of_the_classes(run: Callable[..., Result], tmp_path: Path):
    rng = np.random.default_rng(0)
    path = tmp_path / "labeled.npz"
    images = rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(20) % 4)
    result = run(
        *("emm", "--data", path, "--balanced", "--min-size", 6, "--max-size", 12, "--dry-run")
    )
    assert result.exit_code == 2
    assert "4 classes need multiples of 4" in result.stderr
