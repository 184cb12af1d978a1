"""The search with real but tiny trainings, killed and resumed; and EMM from existing scans."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memaudit.audit.config import ScanConfig
from memaudit.audit.report.folder import write_report
from memaudit.audit.report.schema import encode, read_report
from memaudit.audit.scan import scan
from memaudit.audit.scan_state import STATE, finish_state
from memaudit.audit.source import ModelFacts
from memaudit.data.images import ImageSet
from memaudit.errors import ConfigError, DataError
from memaudit.experiments.config import RunConfig
from memaudit.experiments.cost import Throughput
from memaudit.experiments.emm.config import EMMConfig, SizeRange
from memaudit.experiments.emm.page import emm_dict, write_emm
from memaudit.experiments.emm.search import (
    EMMResult,
    EMMSetup,
    estimate_emm_from_reports,
    find_emm,
    forecast_search,
)
from memaudit.experiments.training_presets import LAPTOP, PRESETS, change_config, describe_config
from memaudit.training.config import TrainingConfig

TINY = replace(
    LAPTOP, model_channels=8, channel_mult=(1,), attn_resolutions=(), batch_size=8, num_snapshots=2
)


def noise_images(num_images: int = 64, num_classes: int = 2) -> ImageSet:
    rng = np.random.default_rng(0)
    return ImageSet(
        rng.integers(0, 256, (num_images, 3, 4, 4), dtype=np.uint8),
        names=[f"{i}" for i in range(num_images)],
        labels=np.arange(num_images) % num_classes,
    )


def tiny_setup(**options: Any) -> EMMSetup:
    given = {
        "images": noise_images(),
        "training": replace(TINY, epochs=4),
        "sizes": SizeRange(4, 16, tolerance=2),
        "config": EMMConfig(replicates=2),
        "runs": RunConfig(num_samples=6),
        **options,
    }
    return EMMSetup(**given)


@pytest.fixture(scope="module")
def whole_search(tmp_path_factory: pytest.TempPathFactory) -> tuple[EMMResult, Path]:
    out = tmp_path_factory.mktemp("search")
    return find_emm(tiny_setup(), out=out), out


@pytest.fixture
def done(whole_search: tuple[EMMResult, Path], tmp_path: Path) -> tuple[EMMResult, Path]:
    """A finished search, and a copy of its folder."""
    found, out = whole_search
    return found, shutil.copytree(out, tmp_path / "search")


def test_every_snapshot_is_scanned_and_a_finished_search_is_read(done: tuple[EMMResult, Path]):
    found, out = done
    assert [p.num_images for p in found.points] == [4, 8]
    assert [(run.num_images, run.replicate) for run in found.runs] == [
        *((4, 1), (4, 2)),
        *((8, 1), (8, 2)),
    ]
    assert all(len(run.snapshots) == 2 for run in found.runs)
    # One half of the images chooses the snapshot, and the other half is its ratio.
    assert [ratio.total for ratio in found.points[0].highest] == [3, 3]
    assert [ratio.total for ratio in found.points[0].last] == [6, 6]

    left = next(out.rglob("report.json")).parent / STATE  # by a scan killed at its very end
    left.mkdir()
    finish_state(left.parent)
    tasks: list[str] = []
    again = find_emm(tiny_setup(), out=out, progress=lambda task, *_, **__: tasks.append(task))
    assert again == found
    assert tasks and not [task for task in tasks if task.startswith("Sampling")]
    assert not left.exists()


def test_with_another_number_of_samples_only_the_scans_are_repeated(done: tuple[EMMResult, Path]):
    first, out = done
    second = find_emm(tiny_setup(runs=RunConfig(num_samples=5, pictures="none")), out=out)
    pages = list(out.rglob("report.html"))
    assert len(pages) == 8 and not any("<img" in page.read_text() for page in pages)
    assert {point.last[1].total for point in second.points} == {5}
    assert second.runs[0].training_seconds == first.runs[0].training_seconds


def test_the_folder_of_another_setup_is_refused(done: tuple[EMMResult, Path]):
    with pytest.raises(ConfigError, match="lr = 0.002"):
        find_emm(tiny_setup(training=replace(TINY, epochs=4, lr=1e-3)), out=done[1])


def test_replicates_differ_in_images_and_seed_and_more_of_them_keep_the_others(
    done: tuple[EMMResult, Path],
):
    first, out = done
    setup = tiny_setup(config=EMMConfig(replicates=3, subset_seed=0))
    plans = setup.plan(4, out)
    assert [plan.training.seed for plan in plans] == [1024, 1025, 1026]
    assert [plan.out.name for plan in plans] == ["replicate-1", "replicate-2", "replicate-3"]
    assert len({plan.images.fingerprint for plan in plans}) == 3

    trained: list[str] = []
    three = find_emm(setup, out=out, progress=lambda task, *_, **__: trained.append(task))
    assert [run for run in three.runs if run.replicate < 3] == list(first.runs)
    assert {task for task in trained if task.startswith("Sampling")} == {
        "Sampling (4 images, training 3)",
        "Sampling (8 images, training 3)",
    }


IN_A_PROCESS = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from test_search import find_emm, random_moment_setup
torch.set_num_threads(1)
find_emm(random_moment_setup(), out=Path({out!r}))
"""


def random_moment_setup() -> EMMSetup:
    training = replace(TINY, epochs=60, num_snapshots=3)
    return tiny_setup(training=training, sizes=SizeRange(4, 32, tolerance=2))


@pytest.mark.slow  # a process that imports torch, and two searches
def test_a_search_killed_at_a_random_moment_and_resumed_gives_the_same_answer(tmp_path: Path):
    setup, killed = random_moment_setup(), tmp_path / "killed"
    code = IN_A_PROCESS.format(tests=str(Path(__file__).parent), out=str(killed))
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while not list(killed.glob("size-*/replicate-*/training/log.jsonl")):
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(random.uniform(0, 5))
        process.send_signal(signal.SIGKILL)

    resumed = find_emm(setup, out=killed)
    whole = find_emm(setup, out=tmp_path / "whole")
    assert resumed.points == whole.points
    assert resumed.estimate == whole.estimate


def test_training_sets_are_nested_and_balanced():
    setup = tiny_setup(config=EMMConfig(balanced=True), sizes=SizeRange(4, 32, 2))
    small, large = setup.draw_training_set(4), setup.draw_training_set(16)
    assert set(small.indices) < set(large.indices)
    assert np.bincount(small.labels).tolist() == [2, 2]
    other = replace(setup, config=EMMConfig(balanced=True, subset_seed=1))
    assert set(other.draw_training_set(4).indices) != set(small.indices)


def test_a_forecast_spans_the_cheapest_and_the_dearest_search():
    setup = tiny_setup(sizes=SizeRange(4, 32, tolerance=1.5))
    expected = forecast_search(setup)
    assert min(expected.cheapest) == 4 and max(expected.dearest) == 32
    assert 0 < expected.cheapest_cost.total < expected.dearest_cost.total
    one = forecast_search(tiny_setup(sizes=setup.sizes, config=EMMConfig(replicates=1)))
    assert expected.dearest_cost.total == 2 * one.dearest_cost.total
    assert isinstance(expected.throughput, Throughput) and expected.throughput.training > 0


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Scans of given images: 40 of 40 are copies with 8 training images, none with 16."""
    images = noise_images(64)
    for size, copied in ((8, True), (16, False)):
        data = images.take(np.arange(size))
        rows = np.arange(40) % 8 if copied else np.arange(24, 64)
        config = ScanConfig(seeds=(0,), without=("optimality",))
        write_report(scan(images.take(rows), data, config=config), tmp_path / f"{size}")
    return tmp_path


def test_emm_is_estimated_from_existing_scans(reports: Path):
    found = estimate_emm_from_reports([reports])
    assert [(p.num_images, p.pooled.count) for p in found.points] == [(8, 40), (16, 0)]
    assert 8 < found.estimate.emm < 16
    same = estimate_emm_from_reports([reports / "16" / "report.json", reports / "8"])
    assert same == found


def change_provenance(folder: Path, **provenance: int) -> None:
    """Let a report say how its model was trained."""
    report = read_report(folder)
    model = ModelFacts("native", None, {}, provenance, None)
    changed = replace(report, source=replace(report.source, model=model))
    (folder / "report.json").write_bytes(encode(changed))


def test_existing_scans_with_different_seeds_are_replicates(reports: Path):
    for size in ("8", "16"):
        shutil.copytree(reports / size, reports / f"{size} again")
        change_provenance(reports / size, seed=1)
        change_provenance(reports / f"{size} again", seed=2)
    found = estimate_emm_from_reports([reports])
    assert found.estimate.replicates == 2
    assert [[ratio.count for ratio in p.highest] for p in found.points] == [[40, 40], [0, 0]]

    change_provenance(reports / "8 again", seed=1)
    with pytest.raises(DataError, match=r"\(8 images: 1; 16 images: 1-2\)"):
        estimate_emm_from_reports([reports])


def test_existing_scans_of_one_training_are_its_snapshots(reports: Path):
    shutil.copytree(reports / "8", reports / "8 later")
    change_provenance(reports / "8", seed=1, images_seen=100)
    change_provenance(reports / "8 later", seed=1, images_seen=200)
    found = estimate_emm_from_reports([reports])
    assert found.estimate.replicates == 1
    assert [ratio.total for ratio in found.points[0].highest] == [20]  # half of the images
    (reports / "8" / "matches.csv").unlink()
    with pytest.raises(DataError, match=r"matches.csv cannot be read"):
        estimate_emm_from_reports([reports])


def test_folders_without_scans_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="holds no report.json"):
        estimate_emm_from_reports([tmp_path])
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(DataError, match="not a readable memaudit report"):
        estimate_emm_from_reports([tmp_path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0.5}, "judge by different thresholds: .*0.5 in"),
        ({"data": {"image_shape": (3, 8, 8)}}, r"different shapes: .*\(3, 8, 8\) in"),
        ({"data": {"num_images": 16}}, "different training sets of 16 images"),
    ],
)
def test_scans_of_different_setups_are_refused(reports: Path, change: dict[str, Any], message: str):
    path = reports / "8" / "report.json"
    report = read_report(path)
    for name, value in change.items():
        changed = replace(getattr(report, name), **value) if isinstance(value, dict) else value
        report = replace(report, **{name: changed})
    path.write_bytes(encode(report))
    with pytest.raises(DataError, match=message):
        estimate_emm_from_reports([reports])


def test_the_files_hold_the_curve_and_the_answer(reports: Path, tmp_path: Path):
    found = estimate_emm_from_reports([reports])
    page = write_emm(found, tmp_path / "out")
    text = page.read_text()
    assert f"EMM is {found.estimate.emm:,.0f}: so many training images" in text
    assert "http" not in text.replace('http-equiv="Content', "")
    assert "There is no interval for EMM" in text and "95 % interval" not in text
    content = json.loads((tmp_path / "out" / "emm.json").read_text())
    assert content["low"] is None and content["sampling_low"] < content["emm"]
    assert content["schema"] == "memaudit.emm/2" and content["emm"] == found.estimate.emm
    assert content == json.loads(json.dumps(emm_dict(found)))


def test_the_page_says_how_the_models_were_trained(done: tuple[EMMResult, Path]):
    setup, out = tiny_setup(config=EMMConfig(epsilon=0.25, replicates=2)), done[1]
    text = write_emm(find_emm(setup, out=out), out, setup=setup).read_text()
    assert "preset laptop, with model_channels=8 channel_mult=1 attn_resolutions=" in text
    assert "epochs=4" in text and "6 images are generated from each snapshot" in text
    assert "2 networks are trained at each size" in text and ">of each training</th>" in text
    assert ">images seen</a></th>" in text and ">4</td>" in text
    assert ">1 − ε = 75 %</text>" in text
    assert "or train longer" in text


def test_a_configuration_is_described_by_the_nearest_preset_and_its_changes():
    assert [describe_config(config) for config in PRESETS.values()] == [
        "preset paper",
        "preset laptop",
    ]
    config = replace(LAPTOP, lr=1e-3, channel_mult=(1, 2, 2), conditional=True)
    changes = "channel_mult=1,2,2 conditional=true lr=0.001"
    assert describe_config(config) == f"preset laptop, with {changes}"
    assert change_config(LAPTOP, changes.split()) == config


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("lr=1e-3", 1e-3),
        ("channel_mult=1,2,2", (1, 2, 2)),
        ("conditional=true", True),
        ("precond=ve", "ve"),
        ("duration_images=none", None),
        ("duration_images=4096", 4096),
    ],
)
def test_a_field_of_a_preset_is_changed_by_name(change: str, value: object):
    changed = change_config(PRESETS["paper"], [change])
    assert getattr(changed, change.partition("=")[0]) == value
    assert PRESETS["paper"] == TrainingConfig()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lrate=1", "write field=value with one of the fields arch, precond"),
        ("lr", "write field=value"),
        ("lr=fast", "'fast' is not a number"),
        ("num_blocks=1.5", "'1.5' is not a whole number"),
        ("conditional=yes", "true or false is needed"),
        ("lr=0", "more than 0 and finite is needed"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(change: str, message: str):
    with pytest.raises(ConfigError, match=message):
        change_config(PRESETS["paper"], [change])
