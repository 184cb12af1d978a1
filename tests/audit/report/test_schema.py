"""report.json against its published schema, docs/report.schema.json, and read back."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from helpers.images import smooth_images

from memaudit.audit.config import ScanConfig
from memaudit.audit.confirmation import Probe
from memaudit.audit.confirmed_images import Confirmation
from memaudit.audit.diagnostics.feature_similarity import CutCounts, FeatureSimilarity
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.config import IndexConfig
from memaudit.audit.report.folder import write_report
from memaudit.audit.report.json_schema import field_docs, json_schema
from memaudit.audit.report.schema import (
    CHECKSUM,
    SCHEMA,
    Report,
    decode,
    encode,
    is_sealed,
    make_report,
    plain,
    read_report,
)
from memaudit.audit.result import ScanResult
from memaudit.audit.scan import scan
from memaudit.audit.statistics.intervals import Estimate, clopper_pearson
from memaudit.data.images import ImageSet
from memaudit.errors import DataError

Make = Callable[..., ScanResult]
PATH = Path(__file__).parents[3] / "docs" / "report.schema.json"


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(PATH.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def whole(whole_result: ScanResult, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The report.json with everything."""
    folder = tmp_path_factory.mktemp("whole")
    write_report(whole_result, folder)
    return (folder / "report.json").read_bytes()


def written(result: ScanResult, folder: Path) -> dict[str, Any]:
    write_report(result, folder)
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def sealed(report: dict[str, Any]) -> bytes:
    """The bytes of a report with a checksum made anew."""
    rest = {name: value for name, value in report.items() if name != CHECKSUM}
    content = (json.dumps(rest, indent=2) + "\n").encode()
    whole = {**rest, CHECKSUM: hashlib.sha256(content).hexdigest()}
    return (json.dumps(whole, indent=2) + "\n").encode()


# ------------------------------------------------------------------------------------------------
# The schema


def test_the_published_schema_is_that_of_the_dataclasses():
    """python -m memaudit.audit.report.json_schema > docs/report.schema.json"""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(PATH.read_text(encoding="utf-8"), parse_constant=refuse) == json_schema()


def test_the_schema_is_of_the_version_that_is_written(validator: Any):
    assert validator.schema["$defs"]["Report"]["properties"]["schema"]["enum"] == [SCHEMA]


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({}, None),
        ({"copies": 0}, None),
        ({"sampled": True}, None),
        ({"fail_above": 0.01}, "FAIL"),
        ({"fail_above": 0.01, "sampled": True}, "FAIL"),
        ({"fail_above": 0.05, "copies": 0, "sampled": True}, "INCONCLUSIVE"),
        ({"fail_above": 0.2, "copies": 0, "sampled": True}, "PASS"),
    ],
)
def test_reports_of_images_and_of_models_follow_it(
    validator: Any, make_result: Make, tmp_path: Path, options: dict[str, Any], verdict: str | None
):
    report = written(make_result(**options), tmp_path)
    validator.validate(report)
    assert report["verdict"] == verdict


def test_a_report_with_everything_follows_it(validator: Any, whole: bytes):
    report = json.loads(whole)
    validator.validate(report)
    assert [name for name, value in report.items() if value in (None, [], {})] == [
        "screening",
        "without",
        "fail_on",
    ]
    without = [name for name, value in report["diagnostics"].items() if not value]
    assert without == ["feature_similarity"]


def test_a_report_with_held_out_images_follows_it(
    validator: Any, make_result: Make, tmp_path: Path
):
    result = make_result()
    generated = ImageSet(result.generated, list(result.keys), source="generated")
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 16, 16), dtype=np.uint8)
    holdout = ImageSet(images, [str(i) for i in range(30)], source="holdout")
    report = written(scan(generated, result.data, holdout=holdout), tmp_path)
    validator.validate(report)
    assert report["diagnostics"]["holdout"]["num_images"] == 30
    assert report["diagnostics"]["copying"]["cells"]
    assert report["diagnostics"]["optimality"] is None


def test_a_report_by_features_follows_it(
    validator: Any, feature_result: ScanResult, tmp_path: Path
):
    report = written(feature_result, tmp_path)
    validator.validate(report)
    assert report["search"]["encoder"]["metric"] == "cosine"


def test_a_screened_report_follows_it(validator: Any, screened_result: ScanResult, tmp_path: Path):
    report = written(screened_result, tmp_path)
    validator.validate(report)
    assert report["screening"]["num_seeds"] == 20


@pytest.mark.parametrize("threshold", [Fraction(1, 2), Fraction(3, 10), Fraction(0.1)])
def test_any_threshold_and_radius_follow_it(
    validator: Any, make_result: Make, tmp_path: Path, threshold: Fraction
):
    config = ScanConfig(rule=Rule(threshold=threshold, duplicate_rms=7.5, confidence=0.9))
    result = make_result()
    generated = ImageSet(result.generated, list(result.keys), source="generated")
    validator.validate(written(scan(generated, result.data, config=config), tmp_path))
    assert read_report(tmp_path).threshold_fraction == threshold


def dataclasses_in(value: Any) -> Iterator[Any]:
    """A value and all values within it that are of a dataclass."""
    if is_dataclass(value):
        yield value
        for name in value.__dataclass_fields__:
            yield from dataclasses_in(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from dataclasses_in(item)


def test_every_docstring_is_a_description(
    validator: Any,
    whole: bytes,
    feature_result: ScanResult,
    screened_result: ScanResult,
    make_result: Make,
):
    definitions = validator.schema["$defs"]
    seen = set()
    undecided = make_result(copies=1, others=50, fail_above=0.02)
    images = smooth_images(20, 16, seed=0)
    by_tiles = ScanConfig(index=IndexConfig(match=("tiles",)), fail_above=0.5)
    tiled = scan(images, images, config=by_tiles)
    results = (feature_result, screened_result, undecided, tiled)
    probe = Probe(1, clopper_pearson(1, 1), *[0.0] * 5)
    confirmed = replace(
        decode(whole).sampling, confirmation=Confirmation("fp16", probe, "513", 0, 0)
    )
    share = clopper_pearson(1, 2)
    cuts = (CutCounts(0.75, "DISC2021", share, share),)
    similarity = FeatureSimilarity("sscd", Estimate(0.5, 0.4, 0.6), 9, 0.1, 0.1, share, 1, 0, cuts)
    reports = [decode(whole), *map(make_report, results)]
    for report in (*reports, replace(decode(whole), sampling=confirmed), similarity):
        for value in dataclasses_in(report):
            kind = type(value)
            definition = definitions[kind.__name__]
            seen.add(kind.__name__)
            assert definition["description"]
            more = {CHECKSUM} if kind is Report else set()
            assert set(definition["properties"]) == set(kind.__dataclass_fields__) | more
            described = {
                name for name, schema in definition["properties"].items() if "description" in schema
            }
            assert described >= set(field_docs(kind))
    assert seen == set(definitions) - {"Number"}


def test_every_field_is_required_and_no_other_is_allowed(validator: Any):
    for name, definition in validator.schema["$defs"].items():
        if name != "Number":
            assert set(definition["required"]) == set(definition["properties"])
            assert definition["additionalProperties"] is False


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("Report.num_degenerate", "distance 0 from both neighbors"),
        ("SamplerConfig.rho", "Exponent of EDM's noise levels"),
        ("Diagnostics.copying", "C_T"),
        ("Source.model", "Null where the images were given"),
    ],
)
def test_descriptions_come_from_docstrings_options_and_diagnostics(
    validator: Any, place: str, words: str
):
    name, field = place.split(".")
    assert words in validator.schema["$defs"][name]["properties"][field]["description"]


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another version": lambda report: report.update(schema="memaudit.report/1"),
    "an unknown field": lambda report: report.update(extra=1),
    "an unknown diagnostic": lambda report: report["diagnostics"].update(extra=1),
    "a missing ratio": lambda report: report["ratios"].pop("distinct"),
    "a missing diagnostic": lambda report: report["diagnostics"].pop("holdout"),
    "a ratio above 1": lambda report: report["ratios"]["paper"].update(ratio=1.2),
    "a count that is not an integer": lambda report: report["ratios"]["paper"].update(count=1.5),
    "a count below 0": lambda report: report["ratios"]["paper"].update(count=-1),
    "a verdict without a gate": lambda report: report.update(gate=None),
    "a limit without a verdict": lambda report: report.update(verdict=None),
    "a model that did not sample": lambda report: report.update(sampling=None),
    "a checkpoint without a model": lambda report: report["source"].update(model=None),
    "seeds that are not ranges": lambda report: report["sampling"].update(seeds="0..9"),
    "a text that is not a hash": lambda report: report["source"].update(sha256="abc"),
    "an encoder of pixels": lambda report: report["space"].update(name="features"),
    "a threshold that is not a fraction": lambda report: report.update(threshold_fraction="0.3"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_report_is_rejected(validator: Any, whole: bytes, name: str):
    report = json.loads(whole)
    BROKEN[name](report)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(report)


# ------------------------------------------------------------------------------------------------
# Writing and reading


def test_what_is_written_reads_back_as_it_was(
    whole_result: ScanResult, feature_result: ScanResult, make_result: Make
):
    for result in (whole_result, feature_result, make_result(), make_result(sampled=True)):
        report = make_report(result)
        content = encode(report)
        assert is_sealed(content)
        again = decode(content)
        # Only what a checkpoint says of itself, which may be anything, is read as JSON has it.
        if result.source.model is None or math.inf not in result.source.model.config.values():
            assert plain(again.source) == plain(report.source)
        assert replace(again, source=report.source) == report
        assert plain(again) == plain(report)


def test_numbers_that_json_lacks_survive(make_result: Make, whole: bytes):
    report = make_report(make_result(sampled=True))
    assert report.sampling is not None and report.sampling.sampler.S_max == math.inf
    gate = decode(whole).gate
    assert gate is not None
    odd = replace(
        report,
        timings=replace(report.timings, total=math.nan),
        gate=replace(gate, evidence_above=-math.inf, evidence_below=math.inf),
    )

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content = encode(odd)
    stated = json.loads(content, parse_constant=refuse)
    assert stated["timings"]["total"] == "nan"
    assert stated["sampling"]["sampler"]["S_max"] == "inf"
    again = decode(content)
    assert math.isnan(again.timings.total)
    assert again.sampling is not None and again.sampling.sampler.S_max == math.inf
    assert again.gate is not None
    assert (again.gate.evidence_above, again.gate.evidence_below) == (-math.inf, math.inf)
    assert plain(again) == plain(odd)


def test_a_report_is_found_by_its_folder_or_its_name(make_result: Make, tmp_path: Path):
    write_report(make_result(), tmp_path)
    assert read_report(tmp_path) == read_report(str(tmp_path / "report.json"))
    with pytest.raises(DataError, match="No such file.*Name a folder that"):
        read_report(tmp_path / "missing")
    with pytest.raises(DataError, match="report.json is not a readable"):
        read_report(Path(__file__).parent)


def test_a_changed_report_is_refused(whole: bytes, tmp_path: Path):
    (tmp_path / "report.json").write_bytes(whole.replace(b'"index": ', b'"index":  ', 1))
    with pytest.raises(DataError, match="was changed after it was written"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    "schema", ["memaudit.report/1", "memaudit.report/3", None, 2, ["memaudit.report/2"], "x" * 9999]
)
def test_a_report_of_another_version_says_what_to_do(whole: bytes, tmp_path: Path, schema: Any):
    (tmp_path / "report.json").write_bytes(sealed({**json.loads(whole), "schema": schema}))
    with pytest.raises(DataError) as caught:
        read_report(tmp_path)
    message = str(caught.value)
    assert "this version of memaudit reads 'memaudit.report/2'" in message
    assert "Scan again, or use the version that wrote it" in message
    assert len(message) < 500
    if schema == "memaudit.report/1":
        assert "its schema is 'memaudit.report/1'" in message


WRONG = (None, True, -1, 1.5, 10**400, "", "nan", "1e999999999", "9" * 100, [], {"": {}})


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a report is; of a list only the first items."""
    if prefix:
        yield prefix
    if isinstance(value, dict):
        for name, item in value.items():
            yield from paths(item, (*prefix, name))
    elif isinstance(value, list):
        for position, item in enumerate(value[:1]):
            yield from paths(item, (*prefix, position))


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_wrong_values_anywhere_are_refused_or_harmless(whole: bytes, every: int):
    """Either a ValueError, of which a DataError is made, or a report that says what the file says.

    Numbers that are known to be wrong by their meaning only are read.
    """
    report = json.loads(whole)
    report["diagnostics"]["optimality"]["at_sigma"] = []
    del report[CHECKSUM]
    places = list(paths(report))
    assert len(places) > 250
    places = places[::every]
    num_refused = 0
    for place in places:
        changed = deepcopy(report)
        part = changed
        for step in place[:-1]:
            part = part[step]
        for wrong in WRONG:
            part[place[-1]] = wrong
            try:
                found = decode(json.dumps(changed).encode())
            except (ValueError, TypeError):
                num_refused += 1
            else:
                assert plain(found) == changed
    assert num_refused > 0.7 * len(places) * len(WRONG)


@pytest.mark.parametrize("wrong", [{"extra": 1}, {"total": 0}, {"count": []}])
def test_a_report_with_wrong_values_is_not_readable(
    whole: bytes, tmp_path: Path, wrong: dict[str, Any]
):
    report = json.loads(whole)
    report["ratios"]["paper"].update(wrong)
    (tmp_path / "report.json").write_bytes(sealed(report))
    with pytest.raises(DataError, match="is not a readable memaudit report: "):
        read_report(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b"{}",
        b"null",
        b"\xff\xfe",
        b"\0" * 100,
        b"[" * 1_000_000,
        sealed({"schema": "memaudit.report/2"}),
        b'{"schema": "memaudit.report/2", "a": ' + b"[" * 500_000 + b"]" * 500_000 + b"}",
        b'{"schema": ' + b"9" * 100_000 + b"}",
        b'{"schema": NaN}',
    ],
)
def test_bytes_that_are_no_report_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(DataError, match="is not a readable memaudit report") as caught:
        read_report(tmp_path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("depth", [100, 300, 400, 600, 900, 5000])
def test_deep_nesting_where_anything_may_be_is_refused_or_read(
    whole: bytes, tmp_path: Path, depth: int
):
    text = "[" * depth + "]" * depth
    content = whole.replace(b'"provenance": {', f'"provenance": {{"deep": {text},'.encode(), 1)
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(DataError):
        read_report(tmp_path)


def test_messages_show_no_control_characters(whole: bytes, tmp_path: Path):
    report = json.loads(whole)
    report["verdict"] = "\x1b[2J\u202e" * 1000
    (tmp_path / "report.json").write_bytes(sealed(report))
    with pytest.raises(DataError) as caught:
        read_report(tmp_path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_a_report_holds_only_plain_values(whole_result: ScanResult):
    """NumPy's numbers would be written as text."""

    def check(value: Any) -> None:
        if isinstance(value, dict):
            for item in value.values():
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)
        else:
            assert type(value) in (int, float, str, bool, type(None))

    content = plain(make_report(whole_result))
    check(content)
    assert isinstance(make_report(whole_result), Report)
    for leak in content["diagnostics"]["noise_and_return"]["attractors"]:
        assert type(leak["index"]) is int
