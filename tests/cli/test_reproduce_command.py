"""`memaudit reproduce`: the list, a recipe at laptop scale, the page, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from memaudit.experiments.cost import Throughput


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in ten classes, at the resolution of CIFAR-10."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("labeled") / "images.npz"
    images = rng.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(40) % 10)
    return path


@pytest.fixture
def known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the seconds of timing a network; tests/experiments/test_timing.py does it."""
    speed = Throughput(training=1e10, sampling=1e10)
    monkeypatch.setattr("memaudit.experiments.timing.measure_throughput", lambda *_, **__: speed)


@pytest.mark.usefixtures("known_speed")
def test_the_list_names_every_recipe_with_its_cost(run: Callable[..., Result]):
    result = run("reproduce", "--laptop", "--samples", 500)
    assert result.exit_code == 0
    for name in ("data-dimension", "within-class-diversity", "skip-connections", "unique-labels"):
        assert name in result.stdout
    assert "TFLOP" in result.stdout and "time on cpu" in result.stdout


@pytest.mark.usefixtures("known_speed")
def test_a_dry_run_counts_every_replicate(run: Callable[..., Result], tmp_path: Path):
    arguments = ("conditioning", "--laptop", "--value", "none,random", "--size", 40, "--dry-run")
    one = run("reproduce", *arguments)
    three = run("reproduce", *arguments, "--replicates", 3)
    rows = [result.stdout.partition("conditioning")[2].split() for result in (one, three)]
    assert [row[:2] for row in rows] == [["40", "2"], ["40", "6"]]
    assert float(rows[1][2]) == pytest.approx(3 * float(rows[0][2]), rel=0.02)


def test_a_recipe_at_laptop_scale_says_that_it_is_not_the_papers_setting(
    run: Callable[..., Result], labeled: Path, tmp_path: Path
):
    arguments = ["--laptop", "--value", "none,random", "--size", 10, "--epochs", 1]
    result = run(
        *("reproduce", "conditioning", *arguments, "--data", labeled, "--samples", 2),
        *("--out", tmp_path),
    )
    assert result.exit_code == 0, result.stderr
    assert "This is not the paper's setting" in result.stderr
    assert " on cpu for 2 trainings and the scans of their snapshots" in result.stderr
    assert "random compared with none: not told apart." in result.stdout
    assert "verdict" not in result.stdout

    page = run("reproduce", "--report", tmp_path)
    assert page.exit_code == 0
    assert "reproduce.html" in page.stderr
    assert "conditioning, at laptop scale" in (tmp_path / "reproduce.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["width"], "give --data and --out"),
        (["resolution", "--data", "DATA", "--out", "OUT"], "There is no recipe"),
        (["width", "--data", "DATA", "--out", "OUT", "--value", "64"], "128, 192, 256, 320"),
        (["width", "--data", "DATA", "--out", "OUT", "--size", "100"], "are asked for"),
        (["width", "--data", "DATA", "--out", "OUT", "--resolution", "8"], "trains at resolution"),
        (["within-class-diversity", "--data", "DATA", "--out", "OUT"], "asked for"),
        (["width", "--replicates", "0"], "--replicates is 0; at least 1"),
        (["width", "--report", "OUT"], "leave NAME out"),
        (["--report", "OUT"], "holds no results.jsonl"),
    ],
)
def test_what_cannot_be_done_is_refused(
    run: Callable[..., Result],
    labeled: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
):
    places = {"DATA": str(labeled), "OUT": str(tmp_path)}
    result = run("reproduce", *(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2
    assert message in result.stderr
