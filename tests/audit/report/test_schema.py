"""report.json against its published schema, docs/report.schema.json."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from memaudit.audit.report.folder import SCHEMA, write_report
from memaudit.audit.scan import ScanConfig, ScanResult, scan
from memaudit.data.images import ImageSet

Make = Callable[..., ScanResult]
PATH = Path(__file__).parents[3] / "docs" / "report.schema.json"


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(PATH.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def written(result: ScanResult, folder: Path) -> dict[str, Any]:
    write_report(result, folder)
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_the_schema_is_of_the_version_that_is_written(validator: Any):
    assert validator.schema["properties"]["schema"]["const"] == SCHEMA


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


def test_a_report_with_everything_follows_it(
    validator: Any, whole_result: ScanResult, tmp_path: Path
):
    report = written(whole_result, tmp_path)
    validator.validate(report)
    empty = {key for key, value in report.items() if value in (None, [], {})}
    assert empty == set()


def test_a_report_by_features_follows_it(
    validator: Any, feature_result: ScanResult, tmp_path: Path
):
    report = written(feature_result, tmp_path)
    validator.validate(report)
    assert report["search"]["encoder"]["metric"] == "cosine"


@pytest.mark.parametrize("threshold", [Fraction(1, 2), Fraction(3, 10)])
def test_any_threshold_and_radius_follow_it(
    validator: Any, make_result: Make, tmp_path: Path, threshold: Fraction
):
    config = ScanConfig(threshold=threshold, duplicate_rms=7.5, confidence=0.9)
    result = make_result()
    generated = ImageSet(result.generated, list(result.keys), source="generated")
    validator.validate(written(scan(generated, result.data, config=config), tmp_path))


def test_every_field_is_described(validator: Any):
    def undescribed(schema: Any, place: str) -> Iterator[str]:
        if isinstance(schema, list):
            for position, part in enumerate(schema):
                yield from undescribed(part, f"{place}/{position}")
        if not isinstance(schema, dict):
            return
        for name, part in schema.get("properties", {}).items():
            if "description" not in part:
                yield f"{place}/{name}"
            yield from undescribed(part, f"{place}/{name}")
        for key in ("items", "anyOf", "oneOf"):
            yield from undescribed(schema.get(key), f"{place}/{key}")

    parts = {"report": validator.schema, **validator.schema["$defs"]}
    assert [name for place, part in parts.items() for name in undescribed(part, place)] == []


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another version": lambda report: report.update(schema="memaudit.report/2"),
    "an unknown field": lambda report: report.update(extra=1),
    "a missing ratio": lambda report: report["ratios"].pop("distinct"),
    "a ratio above 1": lambda report: report["ratios"]["paper"].update(ratio=1.2),
    "a count that is no integer": lambda report: report["ratios"]["paper"].update(count=1.5),
    "a verdict without a gate": lambda report: report.update(gate=None),
    "a limit without a verdict": lambda report: report.update(verdict=None),
    "a model that did not sample": lambda report: report.update(sampling=None),
    "seeds that are no ranges": lambda report: report["sampling"].update(seeds="0..9"),
    "a hash that is none": lambda report: report["source"].update(sha256="abc"),
    "an encoder of pixels": lambda report: report["space"].update(name="features"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_report_is_rejected(
    validator: Any, whole_result: ScanResult, tmp_path: Path, name: str
):
    report = deepcopy(written(whole_result, tmp_path))
    BROKEN[name](report)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(report)
