"""A report is checked against itself, byte for byte."""

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_networks import SMALLEST

from memaudit.audit.config import ScanConfig
from memaudit.audit.report.folder import LEAKS, MATCHES, PAGE, REPORT, write_report
from memaudit.audit.report.schema import CHECKSUM, is_sealed
from memaudit.audit.result import ScanResult
from memaudit.audit.scan import scan
from memaudit.audit.scan_state import STATE
from memaudit.audit.verification.check import Check
from memaudit.audit.verification.page import PAGE_WORDS
from memaudit.audit.verification.verify import verify_report
from memaudit.data.images import ImageSet
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


def faults(folder: Path, **options: Any) -> list[Check]:
    """The checks that failed, but for that of the page, which no forger here changes as well."""
    checks = verify_report(folder, **options).checks
    return [check for check in checks if not check.passed and check.name != PAGE_WORDS]


def failed(folder: Path, **options: Any) -> list[str]:
    return [check.name for check in faults(folder, **options)]


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


def forge(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change report.json and make its checksum anew."""
    report = json.loads((folder / REPORT).read_bytes())
    change(report)
    del report[CHECKSUM]
    content = (json.dumps(report, indent=2) + "\n").encode()
    report[CHECKSUM] = hashlib.sha256(content).hexdigest()
    content = (json.dumps(report, indent=2) + "\n").encode()
    assert is_sealed(content)
    (folder / REPORT).write_bytes(content)


def test_a_forged_verdict_does_not_follow_from_the_matches(folder: Path):
    """Even where the forger makes the checksums anew."""

    def forger(report: dict[str, Any]) -> None:
        report["verdict"] = report["gate"]["verdict"] = "PASS"
        report["ratios"]["distinct"].update(count=0, ratio=0.0)

    forge(folder, forger)
    assert failed(folder) == ["ratios and verdict"]


FORGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "gate": lambda report: report["gate"].update(evidence_above=1.0),
    "ratios": lambda report: report["ratios"]["paper"].update(low=0.0),
    "interval": lambda report: report.update(interval="mixture sequence"),
    "num_degenerate": lambda report: report.update(num_degenerate=3),
    "num_leaking_images": lambda report: report.update(num_leaking_images=1),
    "sensitivity": lambda report: report["sensitivity"].pop(),
    "richness": lambda report: report["diagnostics"]["richness"]["chao1"].update(value=1.0),
    "richness gone": lambda report: report["diagnostics"].update(richness=None),
}


def _raise_floor(report: dict[str, Any]) -> None:
    """Give every copy an excuse, but only where the gate looks."""
    floor = report["controls"]["leave_one_out"]["copies"]
    floor.update(count=floor["total"], ratio=1.0, high=1.0)


FORGED_CONTROLS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "floor": _raise_floor,
    "number": lambda report: report["controls"].update(num_holdout=7),
    "dense": lambda report: report["controls"].update(is_dense=True),
    "cells": lambda report: report["controls"]["leave_one_out"]["cells"].pop(),
    "near": lambda report: report["controls"]["leave_one_out"].update(num_near=5),
}


@pytest.mark.parametrize("name", FORGED_CONTROLS)
def test_controls_that_contradict_each_other_are_noticed(folder: Path, name: str):
    forge(folder, FORGED_CONTROLS[name])
    assert any(check in failed(folder) for check in ("controls", "ratios and verdict"))
    if name != "cells":  # there, nothing can be computed
        assert "controls" in failed(folder)


@pytest.mark.parametrize("name", FORGED)
def test_whatever_follows_from_the_matches_is_computed_again(folder: Path, name: str):
    forge(folder, FORGED[name])
    (check,) = faults(folder)
    assert check.name == "ratios and verdict"
    assert name.split()[0] in check.detail


def test_a_diagnostic_by_class_is_computed_again(whole_result: ScanResult, tmp_path: Path):
    write_report(whole_result, tmp_path)
    assert failed(tmp_path) == []
    forge(tmp_path, lambda report: report["diagnostics"]["classes"][1].update(p_adjusted=1.0))
    (check,) = faults(tmp_path)
    assert check.detail.endswith("classes")


def seal_again(
    folder: Path, change: Callable[[dict[str, Any]], object] = lambda report: None
) -> None:
    """Make new hashes, as a forger would."""
    report = json.loads((folder / REPORT).read_text())
    del report[CHECKSUM]
    change(report)
    for file in report["files"]:
        file["sha256"] = hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest()
    content = (json.dumps(report, indent=2) + "\n").encode()
    sealed = {**report, CHECKSUM: hashlib.sha256(content).hexdigest()}
    (folder / REPORT).write_text(json.dumps(sealed, indent=2) + "\n")


def test_p_values_must_be_in_the_order_of_the_ratios(whole_result: ScanResult, tmp_path: Path):
    write_report(whole_result, tmp_path)
    assert failed(tmp_path) == []
    seal_again(tmp_path)
    assert failed(tmp_path) == []
    assert whole_result.conformal is not None
    p = whole_result.conformal.p_value
    for forged in (p + np.arange(len(p)) / 101, p + 0.001, p - 1, p + 1):
        conformal = replace(whole_result.conformal, p_value=forged)
        write_report(replace(whole_result, conformal=conformal), tmp_path)
        assert "p-values" in failed(tmp_path)


def test_q_values_and_discoveries_are_computed_again(whole_result: ScanResult, tmp_path: Path):
    write_report(whole_result, tmp_path)
    table = list(csv.DictReader((tmp_path / MATCHES).read_text().splitlines()))
    for row in table:
        row["q_value"] = "0.5"
    with (tmp_path / MATCHES).open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    seal_again(tmp_path)
    assert failed(tmp_path) == ["columns of matches.csv"]
    write_report(whole_result, tmp_path)
    seal_again(tmp_path, lambda report: report["diagnostics"]["discoveries"].update(count=5))
    assert failed(tmp_path) == ["ratios and verdict"]


def test_the_page_of_every_diagnostic_is_as_written(whole_result: ScanResult, tmp_path: Path):
    write_report(whole_result, tmp_path)
    assert "<figcaption>" in (tmp_path / PAGE).read_text()
    assert PAGE_WORDS in {check.name for check in verify_report(tmp_path).checks if check.passed}


def test_a_diagnostic_that_was_left_out_is_not_missed(make_result: Make, tmp_path: Path):
    result = make_result()
    generated = ImageSet(result.generated, list(map(str, result.keys)), source="generated")
    config = ScanConfig(without=("richness", "authentic"))
    write_report(scan(generated, result.data, config=config), tmp_path)
    assert failed(tmp_path) == []
    forge(tmp_path, lambda report: report.update(without=["authentic"]))
    check, choices = faults(tmp_path)
    assert check.detail.endswith("richness")
    assert choices.name == "choices"


def test_a_ratio_that_is_not_its_count_is_refused(folder: Path):
    """It is not read but computed, so that a forged one would be gone before it is compared."""
    forge(folder, lambda report: report["ratios"]["distinct"].update(ratio=0.0))
    (check,) = verify_report(folder).checks
    assert not check.passed and "fields or values that no report has" in check.detail


def test_a_report_of_another_version_says_which(folder: Path):
    forge(folder, lambda report: report.update(schema="memaudit.report/1"))
    (check,) = verify_report(folder).checks
    assert not check.passed
    assert "its schema is 'memaudit.report/1'" in check.detail
    assert "reads 'memaudit.report/2'" in check.detail


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a share of nothing": lambda report: report["ratios"]["paper"].update(total=0),
    "a number without a float": lambda report: report["ratios"]["paper"].update(count=10**400),
    "a threshold above 1": lambda report: report.update(threshold_fraction="4/3"),
    "a radius below 0": lambda report: report.update(duplicate_rms=-1.0),
    "a confidence of nothing": lambda report: report.update(confidence="nan"),
    "a limit of 0": lambda report: report.update(fail_above=0.0),
    "too few training images": lambda report: report["data"].update(num_images=1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_report_fails_and_does_no_more(folder: Path, name: str):
    forge(folder, HOSTILE[name])
    assert failed(folder)


@pytest.mark.parametrize("name", [MATCHES, LEAKS])
@pytest.mark.parametrize(
    "cell", ["9" * 30, "-5", "1e9", "nan", "", '"', "\0", "x" * 200_000, "\udcff", "٣"]
)
def test_a_hostile_table_fails_and_does_no_more(folder: Path, name: str, cell: str):
    """One cell at a time, of the first row."""
    header, row, *rest = (folder / name).read_text().splitlines()
    for column in range(len(row.split(","))):
        cells = row.split(",")
        cells[column] = cell
        text = "\n".join([header, ",".join(cells), *rest]) + "\n"
        (folder / name).write_bytes(text.encode(errors="surrogatepass"))
        content = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        forge(
            folder,
            lambda report, content=content: [
                file.update(sha256=content) for file in report["files"] if file["name"] == name
            ],
        )
        result = verify_report(folder)
        # Which neighbor is the second, names and duplicates do not follow from the distances.
        if cell != "-5" and header.split(",")[column] not in ("name", "names", "duplicates"):
            assert not result.passed


def test_a_folder_without_a_report_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="holds no report.json"):
        verify_report(tmp_path)
    (tmp_path / STATE).mkdir()
    with pytest.raises(ConfigError, match="was stopped before its report"):
        verify_report(tmp_path)


def test_source_and_data_are_held_against_the_report(tmp_path: Path):
    torch.manual_seed(0)
    config = SMALLEST | {"model_channels": 8}
    model, other = tmp_path / "model.safetensors", tmp_path / "other.safetensors"
    save_checkpoint(model, build_network(config), config)
    save_checkpoint(other, build_network(config), config)
    whole = tmp_path / "train.npz"
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
    np.savez(whole, images=images)
    np.savez(tmp_path / "changed.npz", images=images ^ 1)
    part = select_images(open_images(whole), Selection(size=20, subset="random"))
    options = ScanConfig(seeds=(3, 4), without=("optimality",))
    write_report(scan(open_checkpoint(model), part, config=options), tmp_path / "report")
    folder = tmp_path / "report"
    assert failed(folder, source=model, data=whole) == []
    assert failed(folder, source=other) == [f"source {other}"]
    changed = tmp_path / "changed.npz"
    assert failed(folder, data=changed) == [f"data {changed}"]
