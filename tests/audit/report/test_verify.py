"""A report is checked against itself, byte for byte."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from memaudit.audit.config import ScanConfig
from memaudit.audit.report.folder import LEAKS, MATCHES, PAGE, REPORT, sealed, write_report
from memaudit.audit.report.verify import verify_report
from memaudit.audit.scan import ScanResult, scan
from memaudit.audit.scan_state import STATE
from memaudit.data.selection import Selection
from memaudit.data.sources import open_images
from memaudit.data.subsets import select_images
from memaudit.errors import ConfigError
from memaudit.models.build import build_network
from memaudit.models.checkpoints import open_checkpoint, save_checkpoint

Make = Callable[..., ScanResult]


@pytest.fixture(scope="module")
def report(make_result: Make, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a report, to be written anew for each test."""
    folder = tmp_path_factory.mktemp("report")
    write_report(make_result(fail_above=0.5), folder)
    return {name: (folder / name).read_bytes() for name in (REPORT, MATCHES, LEAKS, PAGE)}


@pytest.fixture
def folder(report: dict[str, bytes], tmp_path: Path) -> Path:
    for name, content in report.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def failed(folder: Path, **options: Path) -> list[str]:
    return [check.name for check in verify_report(folder, **options).checks if not check.passed]


def test_a_report_as_written_passes(folder: Path):
    result = verify_report(folder)
    assert result.passed
    assert result.verdict in ("PASS", "FAIL", "INCONCLUSIVE")


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("copies", [0, 1, 20])
@pytest.mark.parametrize("fail_above", [None, 0.01])
def test_reports_of_all_kinds_pass(
    make_result: Make, tmp_path: Path, sampled: bool, copies: int, fail_above: float | None
):
    write_report(make_result(copies, sampled=sampled, fail_above=fail_above), tmp_path)
    assert failed(tmp_path) == []


@pytest.mark.parametrize("name", [REPORT, MATCHES, LEAKS, PAGE])
def test_a_byte_changed_anywhere_is_noticed(folder: Path, name: str):
    rng = np.random.default_rng(0)
    original = (folder / name).read_bytes()
    for position in rng.integers(len(original), size=25):
        changed = bytearray(original)
        changed[position] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(changed)
        assert failed(folder), f"byte {position} of {name}"
    for cut in (original[:-1], original + b" ", original[: len(original) // 2], b""):
        (folder / name).write_bytes(cut)
        assert failed(folder)


@pytest.mark.parametrize("name", [MATCHES, LEAKS, PAGE])
def test_a_missing_file_is_noticed(folder: Path, name: str):
    (folder / name).unlink()
    assert name in failed(folder)


def test_a_forged_verdict_does_not_follow_from_the_matches(folder: Path):
    """Even where the forger makes the checksums anew."""
    report = json.loads((folder / REPORT).read_bytes())
    del report["sha256"]
    report["verdict"] = report["gate"]["verdict"] = "PASS"
    report["ratios"]["distinct"]["count"] = 0
    (folder / REPORT).write_bytes(sealed(report))
    assert failed(folder) == ["ratios and verdict"]


def test_a_folder_without_a_report_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="holds no report.json"):
        verify_report(tmp_path)
    (tmp_path / STATE).mkdir()
    with pytest.raises(ConfigError, match="was stopped before its report"):
        verify_report(tmp_path)


def test_source_and_data_are_held_against_the_report(tmp_path: Path):
    torch.manual_seed(0)
    config = {
        "class_name": "EDMPrecond",
        "img_resolution": 8,
        "img_channels": 3,
        "label_dim": 0,
        "model_type": "SongUNet",
        "model_channels": 8,
        "channel_mult": [1],
        "num_blocks": 1,
        "attn_resolutions": [],
    }
    model, other = tmp_path / "model.safetensors", tmp_path / "other.safetensors"
    save_checkpoint(model, build_network(config), config)
    save_checkpoint(other, build_network(config), config)
    whole = tmp_path / "train.npz"
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
    np.savez(whole, images=images)
    np.savez(tmp_path / "changed.npz", images=images ^ 1)
    part = select_images(open_images(whole), Selection(size=20, subset="random"))
    options = ScanConfig(seeds=(3, 4), optimum_images=0)
    write_report(scan(open_checkpoint(model), part, config=options), tmp_path / "report")
    folder = tmp_path / "report"
    assert failed(folder, source=model, data=whole) == []
    assert failed(folder, source=other) == [f"source {other}"]
    changed = tmp_path / "changed.npz"
    assert failed(folder, data=changed) == [f"data {changed}"]
