"""A command that is killed at any moment and given again ends as if it had run once."""

import json
import random
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from helpers.killing import kill_after, run_on_a_full_disk
from helpers.tiny_networks import SMALLEST

from memaudit.models.build import build_network
from memaudit.models.checkpoints import save_checkpoint

Run = Callable[..., Result]

LEFT_OVER = re.compile(r".*\.part|scan-state|part-.*")
VARYING = re.compile(
    r'"(finished|seconds|started|timings|environment|device|sha256|files|num_kept|[a-z_]*seconds'
    r'|[a-z_]*path|source|throughput)":'
)


@dataclass(frozen=True)
class Command:
    """A command, and what it leaves."""

    arguments: tuple[object, ...]
    out: str
    """Name of the file or folder that it writes."""
    content: Callable[[Path], Any]
    """What must be equal, of the file or folder."""
    is_done: Callable[[Path], bool] = Path.exists
    """Whether the file or folder is whole, so that the same command may refuse to replace it."""
    resumed: tuple[object, ...] = ()
    """Options that resume what was begun."""
    begun: str = ""
    """A pattern of files inside the folder that show that there is something to resume."""

    def to_resume(self, out: Path) -> tuple[object, ...]:
        return self.resumed if self.begun and list(out.glob(self.begun)) else ()


def tree(path: Path) -> Any:
    """All files by name, with their bytes; of those that are hidden nothing."""
    if path.is_file():
        return path.read_bytes()
    files = (file for file in path.rglob("*") if file.is_file() and file.name[0] != ".")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def lines_of(name: str) -> Callable[[Path], Any]:
    """The JSON in a file without times, paths and the like."""

    def read(path: Path) -> Any:
        text = (path / name).read_text()
        return [without_varying(json.loads(line)) for line in text.splitlines()]

    return read


def whole_json(name: str) -> Callable[[Path], Any]:
    return lambda path: without_varying(json.loads((path / name).read_text()))


def without_varying(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: without_varying(inner)
            for key, inner in value.items()
            if not VARYING.fullmatch(f'"{key}":')
        }
    return [without_varying(inner) for inner in value] if isinstance(value, list) else value


def scan_of(path: Path) -> Any:
    return whole_json("report.json")(path), (path / "matches.csv").read_bytes()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of one channel for 8x8 images."""
    config = SMALLEST | {"model_channels": 8}
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "net.safetensors"
    save_checkpoint(path, build_network(config), config)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "images.npz"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, 3, 8, 8), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(600) % 10)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At the resolution of CIFAR-10."""
    path = tmp_path_factory.mktemp("large") / "images.npz"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(40) % 10)
    return path


TRAINING = (
    *("--epochs", 6, "--batch-size", 8, "--model-channels", 8, "--channel-mult", 1),
    *("--num-blocks", 1, "--attn-resolutions", 8),
)
EMM = (
    *("--preset", "laptop", "--set", "model_channels=8", "--set", "channel_mult=1"),
    *("--set", "attn_resolutions=none", "--set", "batch_size=8", "--set", "epochs=2"),
    *("--set", "num_snapshots=1", "--min-size", 4, "--max-size", 8, "--tolerance", 4),
    *("--samples", 4, "--replicates", 1),
)


def command(kind: str, network: Path, data: Path, large: Path, report: Path) -> Command:
    name, _, form = kind.partition(" ")
    suffix = "" if form == "folder" else f".{form}"
    if name == "build":
        arguments: tuple[object, ...] = ("dataset", "build", "--data", data, "--size", 500)

        def is_done(path: Path) -> bool:
            manifest = path / "manifest.json"
            if suffix or not manifest.is_file():
                return path.is_file()
            return "unfinished" not in json.loads(manifest.read_text())

        return Command(arguments, f"set{suffix}", tree, is_done)
    if name == "sample":
        arguments = ("sample", network, "--samples", 48, "--batch-size", 4, "--steps", 4)
        return Command(arguments, f"images{suffix}", tree, Path.is_file)
    if name == "scan":
        arguments = ("scan", network, "--data", data, "--samples", 48, "--batch-size", 8)
        options = ("--steps", 4, "--without", "optimality")
        return Command(
            (*arguments, *options), "report", scan_of, lambda path: (path / "report.json").exists()
        )
    if name == "report":
        return Command(("report", report, report), "comparison.html", tree)
    if name == "train":

        def model(path: Path) -> bytes:
            return (path / "model.safetensors").read_bytes()

        arguments = ("train", "--data", data, "--size", 16, *TRAINING)
        return Command(arguments, "run", model, lambda path: False, ("--resume",), "snapshot-*")
    if name == "emm":
        arguments = ("emm", "--data", data, *EMM)
        return Command(arguments, "emm", whole_json("emm.json"), lambda path: False)
    assert name == "reproduce"
    options = ("--laptop", "--value", "none", "--size", 10, "--epochs", 1, "--samples", 2)
    return Command(
        ("reproduce", "conditioning", *options, "--data", large),
        "results",
        lines_of("results.jsonl"),
        lambda path: False,
    )


FAST = ("build folder", "build zip", "sample npz")
SLOW = ("build npz", "sample folder", "sample zip", "scan", "report", "train", "emm", "reproduce")


@pytest.mark.parametrize(
    ("kind", "times"),
    [
        *((kind, 3) for kind in FAST),
        *(pytest.param(kind, 20, marks=pytest.mark.slow) for kind in (*FAST, *SLOW)),
    ],
)
def test_a_command_killed_at_any_moment_and_given_again_ends_the_same(
    run: Run, network: Path, data: Path, large: Path, tmp_path: Path, kind: str, times: int
) -> None:
    report = tmp_path / "given"
    if kind == "report":
        assert run("scan", data, "--data", data, "--out", report).exit_code == 0
    one = command(kind, network, data, large, report)
    for _ in range(2):  # the first one may import what it needs
        whole = tmp_path / f"whole{_}" / one.out
        whole.parent.mkdir()
        started = time.perf_counter()
        result = run(*one.arguments, "--out", whole)
        seconds = time.perf_counter() - started
        assert result.exit_code == 0, result.output
    expected = one.content(whole)

    moments = random.Random(kind)
    num_killed = 0
    for i in range(times):
        out = tmp_path / f"killed{i}" / one.out
        out.parent.mkdir()
        for _ in range(moments.randint(1, 2)):
            more = one.to_resume(out)
            moment = moments.uniform(0, 1.1 * seconds)
            if kill_after(moment, *one.arguments, *more, "--out", out):
                num_killed += 1
            else:  # the machine was busier when the command was timed
                seconds *= 0.9
        if not one.is_done(out):
            more = one.to_resume(out)
            result = run(*one.arguments, *more, "--out", out)
            assert result.exit_code == 0, result.output
        assert one.content(out) == expected
        left = [path for path in out.parent.rglob("*") if LEFT_OVER.fullmatch(path.name)]
        assert not left
    assert num_killed >= times / 2


@pytest.mark.parametrize(
    "kind",
    [
        "build folder",
        "build zip",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("build npz", *SLOW[1:])),
    ],
)
def test_a_full_disk_is_told_and_what_was_whole_stays(
    run: Run,
    network: Path,
    data: Path,
    large: Path,
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files may grow to fewer bytes than the command needs, then to more, and then to any size.

    Those of a training that is tried for the forecast lie in the folder of temporary files.
    """
    report = tmp_path / "given"
    if kind == "report":
        assert run("scan", data, "--data", data, "--out", report).exit_code == 0
    one = command(kind, network, data, large, report)
    for folder in ("whole", "full"):
        (tmp_path / folder).mkdir()
    whole, out = tmp_path / "whole" / one.out, tmp_path / "full" / one.out
    monkeypatch.setattr(tempfile, "tempdir", str(out.parent))
    assert run(*one.arguments, "--out", whole).exit_code == 0
    for largest in (100, 1000, 5000):
        more = one.to_resume(out)
        status, said = run_on_a_full_disk(largest, *one.arguments, *more, "--out", out)
        if status == 0:
            break
        assert status == 2 and "Traceback" not in said, said
        assert f"{out.parent}/" in said.replace("\n", "") and "File too large" in said, said
        assert not list(out.parent.rglob("*.part"))
    if not one.is_done(out):
        more = one.to_resume(out)
        assert run(*one.arguments, *more, "--out", out).exit_code == 0
    assert one.content(out) == one.content(whole)


@pytest.mark.slow
def test_a_verification_that_is_killed_changes_nothing(
    run: Run, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    assert run("scan", data, "--data", data, "--out", out).exit_code == 0
    before = tree(out)
    arguments = ("verify", out, "--data", data, "--source", data)
    started = time.perf_counter()
    assert run(*arguments).exit_code == 0
    seconds = time.perf_counter() - started
    moments = random.Random(0)
    for _ in range(20):
        kill_after(moments.uniform(0, seconds), *arguments)
        assert tree(out) == before
    assert run(*arguments).exit_code == 0
