"""Commands in several ranks end as in one process, whatever happens to the ranks."""

import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.launching import (
    findings,
    finish,
    is_running,
    kill_rank,
    rank_pids,
    run,
    small_checkpoint,
    start,
    wait_for_parts,
)

from memaudit.cli.main import cli
from memaudit.errors import ConfigError
from memaudit.ranks import joined
from memaudit.ranks.launch import choose_ranks
from memaudit.ranks.place import Place

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, training images and held-out images."""
    folder = tmp_path_factory.mktemp("inputs")
    small_checkpoint(folder / "model.safetensors")
    rng = np.random.default_rng(0)
    for name, count in (("train", 100), ("holdout", 60)):
        np.savez(folder / f"{name}.npz", images=rng.integers(0, 256, (count, 3, 8, 8), np.uint8))
    return folder


def scan_of(inputs: Path, out: Path, *more: object, samples: int = 1000) -> list[object]:
    scanned = ["scan", inputs / "model.safetensors", "--data", inputs / "train.npz"]
    kept = ["--samples", samples, "--without", "optimality", "--out", out]
    return [*scanned, *kept, *more]


@pytest.fixture(scope="session")
def by_one(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one process finds."""
    out = tmp_path_factory.mktemp("one") / "report"
    status, _, said = run(*scan_of(inputs, out, "--device", "cpu"))
    assert status == 0, said
    return findings(out)


def test_two_ranks_find_what_one_process_finds(inputs: Path, tmp_path: Path):
    command = [str(part) for part in scan_of(inputs, tmp_path / "one", samples=160)]
    alone = CliRunner().invoke(cli, [*command, "--device", "cpu"])
    assert alone.exit_code == 0, alone.output
    together = scan_of(inputs, tmp_path / "two", "--devices", "cpu:2", samples=160)
    status, out, said = run(*together)
    assert status == 0, said
    assert findings(tmp_path / "one") == findings(tmp_path / "two")
    assert out.splitlines()[0] == alone.stdout.splitlines()[0]
    assert out.count("copy a training image") == said.count("Report: ") == 1  # one rank speaks


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [3, 5])
def test_more_ranks_find_the_same(inputs: Path, tmp_path: Path, by_one: Any, num_ranks: int):
    status, _, said = run(*scan_of(inputs, tmp_path / "r", "--devices", f"cpu:{num_ranks}"))
    assert status == 0, said
    assert findings(tmp_path / "r") == by_one


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_are_started_again_after_one_died(
    inputs: Path, tmp_path: Path, by_one: Any, rank: int
):
    launch = start(*scan_of(inputs, tmp_path / "r", "--devices", "cpu:3"))
    wait_for_parts(tmp_path / "r", 4)
    kill_rank(launch.pid, rank)
    status, _, said = finish(launch)
    assert status == 0, said
    assert "A rank died" in said and num_kept(tmp_path / "r") > 0
    assert findings_but_kept(tmp_path / "r") == without_kept(by_one)


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_launch_that_is_stopped_resumes_with_other_ranks(
    inputs: Path, tmp_path: Path, by_one: Any, by: signal.Signals
):
    launch = start(*scan_of(inputs, tmp_path / "r", "--devices", "cpu:3"))
    wait_for_parts(tmp_path / "r", 4)
    ranks = rank_pids(launch.pid).values()
    launch.send_signal(by)
    status, _, said = finish(launch)
    assert status == 130, said
    assert not any(map(is_running, ranks))
    status, _, said = run(*scan_of(inputs, tmp_path / "r", "--devices", "cpu:2"))
    assert status == 0, said
    assert num_kept(tmp_path / "r") > 0
    assert findings_but_kept(tmp_path / "r") == without_kept(by_one)


@pytest.mark.slow
def test_ranks_end_with_a_launcher_that_was_killed(inputs: Path, tmp_path: Path, by_one: Any):
    launch = start(*scan_of(inputs, tmp_path / "r", "--devices", "cpu:2"))
    wait_for_parts(tmp_path / "r", 2)
    ranks = list(rank_pids(launch.pid).values())
    launch.kill()
    assert finish(launch)[0] == -signal.SIGKILL  # when the ranks have closed what they print to
    end = time.monotonic() + 30
    while any(map(is_running, ranks)):
        assert time.monotonic() < end
        time.sleep(0.1)
    status, _, said = run(*scan_of(inputs, tmp_path / "r", "--device", "cpu"))
    assert status == 0, said
    assert findings_but_kept(tmp_path / "r") == without_kept(by_one)


@pytest.mark.slow
def test_a_rank_that_stands_still_for_a_while_changes_nothing(
    inputs: Path, tmp_path: Path, by_one: Any
):
    launch = start(*scan_of(inputs, tmp_path / "r", "--devices", "cpu:3"))
    wait_for_parts(tmp_path / "r", 2)
    still = kill_rank(launch.pid, 2, signal.SIGSTOP)
    time.sleep(3)
    os.kill(still, signal.SIGCONT)
    status, _, said = finish(launch)
    assert status == 0, said
    assert findings(tmp_path / "r") == by_one


@pytest.mark.slow
@pytest.mark.parametrize("dies", [True, False])
def test_a_rank_that_hangs_or_dies_at_the_end_changes_no_status(
    inputs: Path, tmp_path: Path, dies: bool
):
    command = ["scan", "optimum", "--data", inputs / "train.npz", "--samples", 600, "--json"]
    command += ["--fail-above", "0.01", "--holdout", inputs / "holdout.npz"]
    command += ["--without", "optimality", "--out", tmp_path / "r", "--devices", "cpu:2"]
    launch = start(*command)
    end = time.monotonic() + 120
    while len(rank_pids(launch.pid)) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    still = kill_rank(launch.pid, 1, signal.SIGSTOP)
    while not (tmp_path / "r" / "report.json").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    if dies:
        time.sleep(5)  # until rank 0 has ended
        os.kill(still, signal.SIGKILL)
    status, out, said = finish(launch)
    assert status == 1 and json.loads(out)["verdict"] == "FAIL", said
    assert not is_running(still)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "limit", "samples", "expected"),
    [("optimum", "0.01", 1000, 1), ("model", "0.01", 2000, 0), ("model", "0.001", 200, 3)],
)
def test_a_gate_ends_with_the_same_status(
    inputs: Path, tmp_path: Path, source: str, limit: str, samples: int, expected: int
):
    model = "optimum" if source == "optimum" else inputs / "model.safetensors"
    reports = []
    for name, where in (("one", ["--device", "cpu"]), ("three", ["--devices", "cpu:3"])):
        command = ["scan", model, "--data", inputs / "train.npz", "--samples", samples]
        command += ["--fail-above", limit, "--holdout", inputs / "holdout.npz"]
        command += ["--without", "optimality", "--out", tmp_path / name]
        status, _, said = run(*command, *where)
        assert status == expected, said
        reports.append(findings(tmp_path / name))
    assert reports[0] == reports[1]
    assert reports[0][0]["gate"]["verdict"] == {0: "PASS", 1: "FAIL", 3: "INCONCLUSIVE"}[expected]


@pytest.mark.slow
def test_two_launches_do_not_write_into_one_folder(inputs: Path, tmp_path: Path):
    first = start(*scan_of(inputs, tmp_path / "r", "--devices", "cpu:2", samples=100_000))
    wait_for_parts(tmp_path / "r", 1)
    status, _, said = run(*scan_of(inputs, tmp_path / "r", "--devices", "cpu:2"))
    assert status == 2 and said.count("Another scan is writing") == 1
    first.send_signal(signal.SIGTERM)
    assert finish(first)[0] == 130


@pytest.mark.slow
def test_two_machines_share_a_scan(inputs: Path, tmp_path: Path, by_one: Any):
    """Two launchers on this machine; both end with the status of rank 0."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    rendezvous = ["--nnodes", 2, "--master-addr", "localhost", "--master-port", port]
    launches = [
        start(
            *["torchrun", *rendezvous, "--node-rank", node, "--nproc-per-node", 2],
            *scan_of(inputs, tmp_path / "r", "--device", "cpu"),
        )
        for node in (0, 1)
    ]
    ended = [finish(launch) for launch in launches]
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert ended[1][1] == ""
    assert findings(tmp_path / "r") == by_one


@pytest.mark.slow
@pytest.mark.parametrize("which", ["model.safetensors", "train.npz"])
def test_a_machine_with_another_file_is_refused(inputs: Path, tmp_path: Path, which: str):
    """The same relative path names a stale file on the second of two machines."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    rendezvous = ["--nnodes", 2, "--master-addr", "localhost", "--master-port", port]
    launches = []
    for node in (0, 1):
        here = tmp_path / f"machine-{node}"
        shutil.copytree(inputs, here)
        if node and which == "train.npz":
            np.savez(here / which, images=np.load(here / which)["images"][::-1])
        elif node:
            torch.manual_seed(1)
            small_checkpoint(here / which)
        command = ["torchrun", *rendezvous, "--node-rank", node, "--nproc-per-node", 1, "scan"]
        command += ["model.safetensors", "--data", "train.npz", "--samples", 300, "--device", "cpu"]
        command += ["--without", "optimality", "--shard-index", "--out", tmp_path / "report"]
        launches.append(start(*command, cwd=here))
    ended = [finish(launch) for launch in launches]
    assert [status for status, _, _ in ended] == [2, 2], ended
    what = "model" if which == "model.safetensors" else "training images"
    assert f"opened {'an' if what == 'model' else ''}other {what} than rank 0" in ended[0][2]
    assert not (tmp_path / "report" / "report.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["folder", "samples.npz"])
def test_ranks_sample_the_same_images(inputs: Path, tmp_path: Path, form: str):
    made = []
    for name, where in (("one", ["--device", "cpu"]), ("three", ["--devices", "cpu:3"])):
        out = tmp_path / name / form
        out.parent.mkdir()
        model = inputs / "model.safetensors"
        status, _, said = run("sample", model, "--samples", 150, "--out", out, *where)
        assert status == 0, said
        files = sorted(out.iterdir()) if out.is_dir() else [out]
        made.append({file.name: file.read_bytes() for file in files if file.suffix != ".json"})
    if form == "folder":
        assert made[0] == made[1] and len(made[0]) >= 150
    else:
        arrays = [dict(np.load(tmp_path / name / form)) for name in ("one", "three")]
        assert all(np.array_equal(arrays[0][key], arrays[1][key]) for key in arrays[0])


@pytest.mark.slow
def test_ranks_test_themselves_alike(inputs: Path):
    command = ["selftest", "--model", inputs / "model.safetensors", "--data", inputs / "train.npz"]
    command += ["--holdout", inputs / "holdout.npz", "--samples", 100, "--json"]
    one = run(*command, "--device", "cpu")
    three = run(*command, "--devices", "cpu:3")
    assert one[:2] == three[:2], three[2]
    assert one[0] == 0 and "planted" in one[1]


@pytest.mark.slow
def test_diagnostics_that_sample_find_the_same(inputs: Path, tmp_path: Path):
    """Noise and return, the comparison with the optimum, and the control of a changed sampler."""
    reports = []
    for name, where in (("one", ["--device", "cpu"]), ("two", ["--devices", "cpu:2"])):
        command = ["scan", inputs / "model.safetensors", "--data", inputs / "train.npz"]
        command += ["--samples", 100, "--also", "noise-and-return", "--optimum-images", 16]
        command += ["--optimum-trajectories", 8, "--fail-above", "0.2", "--steps", 9]
        status, _, said = run(*command, "--out", tmp_path / name, *where)
        assert status in (0, 3), said
        reports.append(findings(tmp_path / name))
    assert reports[0] == reports[1]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["model.safetensors", "holdout.npz"])
def test_parts_of_the_training_images_find_the_same(inputs: Path, tmp_path: Path, source: str):
    reports = []
    for name, where in (("one", ["--device", "cpu"]), ("three", ["--devices", "cpu:3"])):
        command = ["scan", inputs / source, "--data", inputs / "train.npz", "--shard-index"]
        command += ["--samples", 60, "--without", "optimality", "--out", tmp_path / name, *where]
        status, _, said = run(*command)
        assert status == 0, said
        report, *tables = findings(tmp_path / name)
        del report["search"]["num_bytes"], report["search"]["statistics"]  # of each part
        reports.append([report, *tables])
    assert reports[0] == reports[1]


TINY = [
    *("--preset", "laptop", "--set", "model_channels=8", "--set", "channel_mult=1"),
    *("--set", "attn_resolutions=none", "--set", "batch_size=8", "--set", "epochs=2"),
    *("--set", "num_snapshots=1", "--min-size", 4, "--max-size", 16, "--tolerance", 2),
]


@pytest.mark.slow
def test_trainings_of_a_search_find_the_same_on_ranks(inputs: Path, tmp_path: Path):
    found = []
    for name, where in (("one", ["--device", "cpu"]), ("three", ["--devices", "cpu:3"])):
        out = tmp_path / name
        command = ["emm", "--data", inputs / "train.npz", *TINY, "--samples", 4, "--out", out]
        status, printed, said = run(*command, *where)
        assert status == 0, said
        assert said.count("training 3 of 3: ") >= 1
        results = json.loads((out / "emm.json").read_text())
        weights = {
            file.relative_to(out): file.read_bytes() for file in out.rglob("model.safetensors")
        }
        found.append((results["points"], weights, printed.partition("|D|")[2]))
    assert found[0][0] == found[1][0] and found[0][2] == found[1][2]
    assert found[0][1] == found[1][1] and len(found[0][1]) >= 6


@pytest.mark.slow
def test_trainings_of_a_recipe_find_the_same_on_ranks(inputs: Path, tmp_path: Path):
    labeled = tmp_path / "labeled.npz"
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), np.uint8)
    np.savez(labeled, images=images, labels=np.arange(40) % 10)
    found = []
    for name, where in (("one", ["--device", "cpu"]), ("two", ["--devices", "cpu:2"])):
        command = ["reproduce", "conditioning", "--laptop", "--value", "none,random", "--size", 10]
        command += ["--epochs", 1, "--data", labeled, "--samples", 2, "--out", tmp_path / name]
        status, _, said = run(*command, *where)
        assert status == 0, said
        lines = (tmp_path / name / "results.jsonl").read_text().splitlines()
        times = dict.fromkeys(("finished", "training_seconds", "scan_seconds"))
        found.append([{**json.loads(line), **times} for line in lines])
    assert found[0] == found[1] and len(found[0]) == 2


@pytest.mark.slow
def test_torchrun_itself_starts_what_has_no_verdict(inputs: Path, tmp_path: Path):
    launcher = ["--standalone", "--nproc-per-node", 2, "-m", "memaudit"]
    model = inputs / "model.safetensors"

    def torchrun(*command: object) -> tuple[int, str, str]:
        return run(*launcher, *command, "--device", "cpu", module="torch.distributed.run")

    status, _, said = torchrun("sample", model, "--samples", 10, "--out", tmp_path / "s")
    assert status == 0, said
    gated = scan_of(inputs, tmp_path / "r", "--fail-above", "0.1")
    status, _, said = torchrun(*gated)
    assert status == 1
    assert said.count("Start the same command with `memaudit torchrun`") == 1
    status, _, said = torchrun("inspect", model)
    assert status == 1 and said.count("inspect gains nothing from several processes") == 1


@pytest.mark.slow
def test_an_error_of_a_launch_is_said_once(inputs: Path, tmp_path: Path):
    status, out, said = run(*scan_of(inputs, tmp_path / "r", "--class", "3", "--devices", "cpu:3"))
    assert (status, out) == (2, "")
    assert said.count("Error: ") == 1 and "the model has no classes" in said
    images = ["scan", inputs / "train.npz", "--data", inputs / "holdout.npz"]
    status, _, said = run(*images, "--devices", "cpu:2")
    assert status == 2 and "SOURCE holds images, so that nothing is sampled" in said


@pytest.mark.parametrize("devices", ["cpu", "cpu:0", "gpu:1", "0,0", "-1", "1;2"])
def test_devices_that_mean_nothing_are_refused(devices: str):
    with pytest.raises(ConfigError, match="write all, the numbers of GPUs such as 0,1, or cpu:4"):
        choose_ranks(devices)


def test_a_rank_starts_no_others(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(joined, "_place", Place(0, 2, 0, 0))
    command = map(str, scan_of(inputs, tmp_path / "r", "--devices", "cpu:2"))
    refused = CliRunner().invoke(cli, list(command))
    assert refused.exit_code == 2
    assert "2 of them run this command already. Leave it out" in " ".join(refused.stderr.split())


def test_processes_on_the_cpu_are_counted():
    assert choose_ranks("cpu:4") == ("cpu", 4, {})


def num_kept(folder: Path) -> int:
    report: dict[str, Any] = findings(folder)[0]
    number: int = report["sampling"]["num_kept"]
    return number


def findings_but_kept(folder: Path) -> Any:
    return without_kept(findings(folder))


def without_kept(found: Any) -> Any:
    """Findings without how many images an earlier run had kept, which depends on when it ended."""
    report, *tables = found
    sampling = {**report["sampling"], "num_kept": None}
    return [{**report, "sampling": sampling}, *tables]
