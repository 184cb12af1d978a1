"""The report folder: whole or not there, and its numbers follow from its tables."""

import csv
import hashlib
import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from memaudit.audit.memorization.matches import match_images
from memaudit.audit.memorization.rule import Rule, memorized
from memaudit.audit.neighbors.pixel_index import NeighborIndex
from memaudit.audit.neighbors.units import pixel_space
from memaudit.audit.report import folder as report_module
from memaudit.audit.report.folder import check_output_folder, write_report
from memaudit.audit.report.schema import make_report, plain
from memaudit.audit.report.tables import MatchTable, matches_csv, read_leaks, read_matches
from memaudit.audit.result import ScanResult
from memaudit.audit.statistics.conformal import conformal_p
from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.audit.verification.verify import verify_report
from memaudit.cli.options import SeedList
from memaudit.errors import ConfigError
from memaudit.wording import parse_ranges, ranges

Make = Callable[..., ScanResult]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_report_has_what_other_programs_rely_on(make_result: Make):
    result = make_result()
    report = json.loads(json.dumps(plain(make_report(result)), allow_nan=False))
    assert report["schema"] == "memaudit.report/2"
    assert report["verdict"] is None
    for rule in ("paper", "distinct"):
        assert report["ratios"][rule].keys() == {
            "count",
            "total",
            "ratio",
            "low",
            "high",
            "confidence",
        }
    assert report["ratios"]["distinct"]["count"] == 20
    assert report["num_leaking_images"] == 20
    assert report["diagnostics"]["richness"]["num_leaking"] == 20
    assert report["diagnostics"]["holdout"] is None
    assert report["num_degenerate"] == 0
    assert report["threshold"] == 1 / 3 and report["threshold_fraction"] == "1/3"
    assert report["duplicate_rms"] == 8
    assert report["source"]["sha256"] == result.source.sha256
    assert report["data"]["fingerprint"] == result.data.fingerprint
    assert report["data"]["num_images"] == 60


def test_ratios_and_intervals_follow_from_the_tables(make_result: Make, tmp_path: Path):
    write_report(make_result(), tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    rows = rows_of(tmp_path / "matches.csv")

    def column(name: str) -> np.ndarray:
        return np.array([int(row[name]) for row in rows])

    first = column("squared_distance1")
    for rule, second in (
        ("paper", "squared_distance2"),
        ("distinct", "squared_distance2_distinct"),
        ("distinct_at_0", "squared_distance2_distinct_at_0"),
    ):
        hits = memorized(first, column(second), Fraction(report["threshold_fraction"]))
        if rule != "distinct_at_0":
            np.testing.assert_array_equal(hits, column(f"memorized_{rule}") == 1)
        again = clopper_pearson(int(hits.sum()), len(hits))
        assert report["ratios"][rule]["count"] == again.count
        assert report["ratios"][rule]["low"] == pytest.approx(again.low)
        assert report["ratios"][rule]["high"] == pytest.approx(again.high)

    leaks = rows_of(tmp_path / "leaks.csv")
    hits = column("memorized_distinct") == 1
    assert sum(int(leak["hits"]) for leak in leaks) == hits.sum()
    assert {int(leak["index"]) for leak in leaks} == set(column("nn1")[hits])
    assert [leak["names"] for leak in leaks if leak["index"] == "3"] == ["generated/003.png"]


def test_the_report_holds_the_hashes_of_its_files(make_result: Make, tmp_path: Path):
    write_report(make_result(), str(tmp_path))  # a str will do, as for whatever is opened
    stated = json.loads((tmp_path / "report.json").read_text())["files"]
    files = {file["name"]: file["sha256"] for file in stated}
    assert len(files) == len(stated)
    assert files.keys() == {"matches.csv", "leaks.csv", "report.html"}
    for name, digest in files.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, "report.json"])


def test_a_failure_midway_leaves_no_report(
    make_result: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_report(make_result(copies=3), tmp_path)
    write = report_module.atomic_write

    def failing(path: Path) -> AbstractContextManager[IO[bytes]]:
        if path.name == "leaks.csv":
            raise OSError("No space left on device")
        return write(path)

    monkeypatch.setattr(report_module, "atomic_write", failing)
    with pytest.raises(OSError, match="No space"):
        write_report(make_result(), tmp_path)
    assert not (tmp_path / "report.json").exists()


def test_names_that_are_no_text_are_written_as_escapes(make_result: Make, tmp_path: Path):
    write_report(make_result(name='train/\udcff,"{:03d}\n.png'), tmp_path)
    names = [row["name"] for row in rows_of(tmp_path / "leaks.csv")]
    assert 'train/\\udcff,"000\n.png' in names


def test_a_folder_is_checked_before_anything_is_done(make_result: Make, tmp_path: Path):
    new = tmp_path / "deep" / "report"
    check_output_folder(new)
    assert new.is_dir() and not list(new.iterdir())
    write_report(make_result(), new)
    with pytest.raises(ConfigError, match="already holds a report.*overwrite"):
        check_output_folder(new)
    check_output_folder(new, overwrite=True)

    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        check_output_folder(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be written"):
        check_output_folder(tmp_path / "file" / "report")


@pytest.mark.parametrize("numbers", [[5], [0, 1, 2, 3], [3, 7, 20, 21, 22], [9, 8, 7], [4, 4]])
def test_ranges_read_back_as_the_seeds_they_were(numbers: list[int]):
    assert list(SeedList().convert(ranges(numbers), None, None)) == numbers
    assert parse_ranges(ranges(numbers)) == numbers


@pytest.mark.parametrize("text", ["0-100000000", "0-1" + "0" * 30, "0-60000000,0-60000000"])
def test_ranges_that_would_fill_the_memory_are_refused(text: str):
    with pytest.raises(ValueError, match="more than 10,000,000 numbers"):
        parse_ranges(text)


def test_a_sampled_report_names_seeds_and_infinities_in_strict_json(
    make_result: Make, tmp_path: Path
):
    write_report(make_result(copies=3, others=5, sampled=True), tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert report["source"]["model"]["config"]["sigma_max"] == "inf"
    assert report["sampling"]["seeds"] == "100-107"
    assert report["sampling"]["sampler"]["num_steps"] == 18
    assert report["sampling"]["sampler"]["S_max"] == "inf"
    # The noise levels are those sampled at, also where nobody chose them.
    assert report["sampling"]["sampler"]["sigma_min"] == 0.002
    assert report["sampling"]["sampler"]["sigma_max"] == 80
    assert [row["seed"] for row in rows_of(tmp_path / "matches.csv")] == [
        *map(str, range(100, 108))
    ]
    assert {row["seeds"] for row in rows_of(tmp_path / "leaks.csv")} == {"100", "101", "102"}


def test_there_is_one_row_a_generated_image(make_result: Make):
    result = make_result(copies=2, others=5)
    lines = matches_csv(MatchTable(result.keys, None, result.matches)).splitlines()
    assert len(lines) == 1 + 7
    assert lines[0].startswith("name,nn1,nn2,nn2_distinct,") and "p_value" not in lines[0]


@pytest.mark.parametrize("duplicate_rms", [0.0, 7.3, 8.0])
def test_the_table_of_matches_reads_back_as_it_was(make_result: Make, duplicate_rms: float):
    result = make_result(copies=2, others=5, name='train/,"{:03d}\n.png')
    rule = Rule(duplicate_rms=duplicate_rms)
    matches = match_images(NeighborIndex(result.data.images), result.generated, rule)
    classes = np.arange(7) % 3
    conformal = conformal_p(matches.distance_ratio, np.linspace(0, 1, 7))
    table = MatchTable(result.keys, classes, matches, conformal)
    again = read_matches(matches_csv(table), rule, result.space, num_holdout=7)
    assert again.keys == table.keys and again.matches.neighbors.radii == matches.neighbors.radii
    np.testing.assert_array_equal(again.class_index, classes)
    assert again.conformal is not None and again.conformal.num_references == 7
    np.testing.assert_array_equal(again.conformal.p_value, conformal.p_value)
    for name in ("index", "squared_distance", "index_distinct", "squared_distance_distinct"):
        read, written = again.matches.neighbors, matches.neighbors
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))


@pytest.mark.parametrize("start", ["=cmd|' /C calc'!A0;=1", "'", "\t@", "\r\n-1", '\x1b[2J,"+'])
def test_a_name_that_a_spreadsheet_would_compute_reads_back_as_it_was(
    make_result: Make, tmp_path: Path, start: str
):
    result = make_result(copies=3, others=2, name=f"{start}{{}}")
    result = replace(result, keys=tuple(f"{start}{key}" for key in result.keys))
    write_report(result, tmp_path)
    table = read_matches(
        (tmp_path / "matches.csv").read_bytes().decode(), Rule(), result.space, num_holdout=0
    )
    assert table.keys == result.keys
    known = read_leaks((tmp_path / "leaks.csv").read_bytes().decode())
    assert known.names == {i: f"{start}{i}" for i in range(3)}
    for file in ("matches.csv", "leaks.csv"):
        for row in rows_of(tmp_path / file):
            assert all(cell[:1] not in tuple("=@\t\r+") for cell in row.values())
    assert verify_report(tmp_path).passed


def test_a_table_of_another_form_is_refused():
    with pytest.raises(ValueError, match="column 'nn1' is missing"):
        read_matches("a,b\n1,2\n", Rule(), pixel_space((3, 8, 8)))


def test_the_examples_of_the_document_run(
    make_result: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_report(make_result(), tmp_path / "report")
    monkeypatch.chdir(tmp_path)
    document = Path(__file__).parents[3] / "docs" / "report.md"
    examples = re.findall(r"^```python\n(.*?)^```", document.read_text("utf-8"), re.M | re.S)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "report.md", "exec"), {})
