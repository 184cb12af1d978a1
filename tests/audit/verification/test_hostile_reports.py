"""Reports made to hang, to fill memory or to crash whoever looks at them."""

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from helpers.forged_reports import seal, seal_again
from helpers.images import smooth_images
from helpers.limited import run_python
from hypothesis import given, settings
from hypothesis import strategies as st

import memaudit
from memaudit.audit.report.comparison import compare_reports, comparison_dict
from memaudit.audit.report.comparison_page import write_comparison
from memaudit.audit.report.folder import LEAKS, MATCHES, PAGE, REPORT
from memaudit.audit.report.schema import decode, is_sealed
from memaudit.audit.verification.verify import Verification, verify_report
from memaudit.errors import ConfigError, DataError

FILES = (REPORT, MATCHES, LEAKS, PAGE)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train") / "train.npz"
    np.savez(path, images=smooth_images(12, 8, seed=0))
    return path


class Files(dict[str, bytes]):
    """The files of a report."""

    def __repr__(self) -> str:  # which hypothesis asks for at every example
        return "Files"


@pytest.fixture(scope="module")
def report(train: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a small report, to be written anew for each test."""
    folder = tmp_path_factory.mktemp("report")
    images = np.concatenate([smooth_images(12, 8, seed=0)[:3], smooth_images(9, 8, seed=1)])
    config = memaudit.ScanConfig(fail_above=0.5, without=("recall",))
    memaudit.write_report(memaudit.scan(images, train, config=config), folder)
    return Files({name: (folder / name).read_bytes() for name in FILES})


@pytest.fixture
def folder(report: dict[str, bytes], tmp_path: Path) -> Path:
    return written(report, tmp_path / "report")


def written(report: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in report.items():
        (folder / name).write_bytes(content)
    return folder


def set_to(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(report: dict[str, Any]) -> None:
        place: Any = report
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


VALUES: dict[str, Callable[[dict[str, Any]], None]] = {
    "a fraction with a huge power": set_to("threshold_fraction", value="1e999999999"),
    "a fraction of zero": set_to("threshold_fraction", value="1/0"),
    "a fraction of many digits": set_to("threshold_fraction", value="1/" + "3" * 4000),
    "a fraction in other digits": set_to("threshold_fraction", value="١/٣"),
    "positions without end": set_to("data", "indices", value="0-100000000000"),
    "positions outside": set_to("data", "indices", value="0-12"),
    "positions below 0": set_to("data", "indices", value="-5"),
    "huge images": set_to("data", "image_shape", value=[3, 60000, 60000]),
    "images of no size": set_to("data", "image_shape", value=[3, 0, 0]),
    "images below no size": set_to("data", "image_shape", value=[3, -8, -8]),
    "as many images as atoms": set_to("data", "num_images", value=10**80),
    "no images": set_to("data", "num_images", value=0),
    "fewer images than none": set_to("data", "num_images", value=-1),
    "an integer of 4,000 digits": set_to("sampling", value=10**4000),
    "a count of 4,000 digits": set_to("num_leaking_images", value=10**4000),
    "a confidence of 2": set_to("confidence", value=2.0),
    "a radius without end": set_to("duplicate_rms", value="inf"),
    "a radius of NaN": set_to("duplicate_rms", value="nan"),
    "a threshold that is not the fraction": set_to("threshold", value=0.9),
    "a list in the place of a text": set_to("data", "path", value=[]),
    "a deep provenance": set_to(
        "source", "model", value=json.loads('{"a":' * 200 + "1" + "}" * 200)
    ),
    "a class name of 10 MB": set_to("data", "class_names", value=["x" * 10_000_000]),
    "a verdict of another language": set_to("verdict", value="BESTANDEN"),
    "a date that is none": set_to("environment", "finished", value="yesterday"),
    "another radius table": set_to("sensitivity", 0, "duplicate_rms", value=1e308),
    "statistics below 0": set_to("search", "statistics", "num_searches", value=-(10**30)),
    "an encoder of 4,000 digits": set_to("search", "num_bytes", value=10**400),
    "a file outside the folder": set_to("files", 0, "name", value="../../etc/passwd"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_hostile_value_is_a_check_that_fails(folder: Path, train: Path, name: str):
    seal_again(folder, VALUES[name])
    found = verify_report(folder, data=train)
    assert not found.passed
    assert all(len(check.detail) < 1000 for check in found.checks)


@pytest.mark.parametrize("name", VALUES)
def test_a_comparison_shows_a_hostile_value_or_refuses_it(folder: Path, tmp_path: Path, name: str):
    seal_again(folder, VALUES[name])
    try:
        comparison = compare_reports([folder])
    except DataError as error:
        assert len(str(error)) < 1000
        return
    write_comparison(comparison, tmp_path / "page.html")
    assert comparison_dict(comparison)


def text_of(report: dict[str, bytes]) -> str:
    return report[REPORT].decode()


TEXTS: dict[str, Callable[[str], bytes]] = {
    "nothing": lambda text: b"",
    "an empty list": lambda text: b"[]",
    "lists in lists": lambda text: b"[" * 1_000_000,
    "objects in objects": lambda text: b'{"a":' * 500_000,
    "wide and deep": lambda text: b"[" * 300 + b",".join([b"1"] * 10**6) + b"]" * 300,
    "a million digits": lambda text: text.replace("null", "9" * 1_000_000, 1).encode(),
    "NaN": lambda text: text.replace("null", "NaN", 1).encode(),
    "Infinity": lambda text: text.replace("null", "-Infinity", 1).encode(),
    "1e999": lambda text: text.replace("null", "1e999", 1).encode(),
    "bytes that are not text": lambda text: b"\xff\xfe" + text.encode(),
    "another encoding": lambda text: text.encode("utf-16"),
    "a key twice": lambda text: text.replace(
        '"verdict":', '"verdict": "PASS", "verdict":'
    ).encode(),
    "spaces without end": lambda text: text.encode() + b" " * 40_000_000,
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_hostile_text_is_a_message(report: dict[str, bytes], folder: Path, name: str):
    (folder / REPORT).write_bytes(TEXTS[name](text_of(report)))
    try:
        found = verify_report(folder)
        assert not found.passed and len(found.checks[0].detail) < 1000
    except ConfigError as error:
        assert "make sense here" in str(error)
    with pytest.raises(DataError) as refused:
        compare_reports([folder])
    assert len(str(refused.value)) < 1000


def test_a_key_twice_is_noticed_although_its_checksum_fits(folder: Path):
    """Other readers would take the first."""
    report = json.loads((folder / REPORT).read_bytes())
    del report["sha256"]
    text = json.dumps(report, indent=2) + "\n"
    text = text.replace('  "verdict"', '  "verdict": "PASS",\n  "verdict"', 1)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    sealed = f'{text[:-3]},\n  "sha256": "{checksum}"\n}}\n'.encode()
    assert is_sealed(sealed)
    (folder / REPORT).write_bytes(sealed)
    (check,) = verify_report(folder).checks
    assert "'verdict' twice" in check.detail


SPECIAL = """
import os, shutil, sys
from pathlib import Path
from memaudit.audit.verification.verify import verify_report
from memaudit.errors import ConfigError

kinds = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
    "sparse": lambda path: (path.touch(), os.truncate(path, 1 << 42)),
}
for name in ("report.json", "matches.csv", "leaks.csv", "report.html"):
    for kind, make in kinds.items():
        folder = Path(sys.argv[2], f"{name}-{kind}")
        shutil.copytree(sys.argv[1], folder)
        (folder / name).unlink()
        make(folder / name)
        try:
            found = verify_report(folder)
            print(found.passed, *(c.detail for c in found.checks if c.name == name))
        except ConfigError as error:
            print("error", error)
"""


def test_only_regular_files_of_a_size_are_read(folder: Path, tmp_path: Path):
    done = run_python(SPECIAL, folder, tmp_path / "made", memory=8 << 30)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 20
    assert all(line.startswith("error") for line in lines[:5])
    assert all(line.startswith("False cannot be read: ") for line in lines[5:])


def test_a_table_with_a_column_twice_is_not_as_written(folder: Path):
    path = folder / MATCHES
    lines = path.read_text().splitlines()
    lines = [f"{line},{line.split(',')[1]}" for line in lines]
    path.write_text("\n".join(lines) + "\n")
    seal_again(folder)
    assert "columns of matches.csv" in [
        check.name for check in verify_report(folder).checks if not check.passed
    ]


def test_leaks_without_the_image_that_leaks_are_said_to_be_so(folder: Path):
    path = folder / LEAKS
    path.write_text(path.read_text().splitlines()[0] + "\n")
    seal_again(folder)
    details = [check.detail for check in verify_report(folder).checks]
    assert any("leaks.csv lacks the training image" in detail for detail in details)


# ------------------------------------------------------------------------------------------------
# Fuzz

ODD = (
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63, 10**18, -(10**30), 10**299, 10**400),
    *(0.5, -0.5, 1e308, 5e-324, 1e-9, 255.0),
    *("", "inf", "nan", "-inf", "1/3", "0-9", "0-99999999", "PASS", "FAIL", "images", "checkpoint"),
    *("pixels", "features", "data", "\x1b[2J", "\udcff", "a" * 300, "{{ 7 * 7 }}", "<b>", "%s"),
    *([], [0], ["x"], {}, {"a": 1}, [[[[]]]]),
)


def places_of(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where values are in JSON."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            found += places_of(item, (*path, key))
    return found


def at(report: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        report = report[step]
    return report


def check_any_report(report: dict[str, bytes], folder: Path, train: Path, seed: int) -> None:
    """Change, remove or exchange some values: checks, or a ConfigError, and nothing else."""
    random = Random(seed)
    content = json.loads(report[REPORT])
    for _ in range(random.randint(1, 3)):
        places = places_of(content)
        *path, last = random.choice(places)
        kind = random.choice(["odd", "odd", "odd", "removed", "copied"])
        if kind == "removed":
            del at(content, tuple(path))[last]
        else:
            value = random.choice(ODD) if kind == "odd" else at(content, random.choice(places))
            at(content, tuple(path))[last] = deepcopy(value)
    written(report, folder)
    (folder / REPORT).write_bytes(seal(content))
    try:
        found = verify_report(folder, data=random.choice([None, train]))
    except ConfigError:
        return
    assert isinstance(found, Verification) and found.checks


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "report"


SEEDS = st.integers(0, 2**63)


@settings(deadline=None, max_examples=15)
@given(seed=SEEDS)
def test_any_report_is_checked(report: dict[str, bytes], place: Path, train: Path, seed: int):
    check_any_report(report, place, train, seed)


@pytest.mark.slow
@settings(deadline=None, max_examples=500)
@given(seed=SEEDS)
def test_very_many_reports_are_checked(
    report: dict[str, bytes], place: Path, train: Path, seed: int
):
    check_any_report(report, place, train, seed)


@pytest.mark.slow
def test_any_bytes_are_a_report_or_a_value_error(report: dict[str, bytes]):
    """100,000 reports with bytes changed, removed and repeated."""
    rng = np.random.default_rng(0)
    original = np.frombuffer(report[REPORT], np.uint8)
    marks = np.frombuffer(b'{}[]",:-+.eE0123456789\\ntfu \xff\x00', np.uint8)
    for _ in range(100_000):
        start, length = int(rng.integers(len(original))), int(rng.integers(1, 200))
        part = original[: min(len(original), 4000)] if rng.random() < 0.9 else original
        changed = part.copy()
        at = rng.integers(len(changed), size=int(rng.integers(1, 4)))
        changed[at] = rng.choice(marks, len(at))
        content = changed.tobytes() + original[start : start + length].tobytes()
        is_sealed(content)
        try:
            decode(content)
        except (ValueError, TypeError, RecursionError):
            continue
