"""The JSON Schemas of report.json and check.json, made from their dataclasses. To write them again:

python -m memaudit.audit.report.json_schema > docs/report.schema.json
python -m memaudit.audit.report.json_schema check > docs/check.schema.json
"""

import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import is_dataclass
from fractions import Fraction
from typing import Any, get_type_hints

import msgspec

from memaudit.audit.diagnostics.registry import DIAGNOSTICS, Diagnostics
from memaudit.audit.image_check.result import CheckReport
from memaudit.audit.report.schema import CHECKSUM, FRACTION, NOT_FINITE, Report
from memaudit.options import config_fields

HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
RANGES = {"type": "string", "pattern": r"^\d+(-\d+)?(,\d+(-\d+)?)*$"}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
COUNT = {"type": "integer", "minimum": 0}
NUMBER = {"$ref": "#/$defs/Number"}

FORMS: Mapping[str, Mapping[str, Any]] = {
    "sha256": HASH,
    "fingerprint": HASH,
    "seeds": RANGES,
    "indices": RANGES,
    "repeated": RANGES,
    "confidence": SHARE,
    "limit": SHARE,
    "fail_above": SHARE,
    "Proportion.ratio": SHARE,
    "Proportion.low": SHARE,
    "Proportion.high": SHARE,
    "Report.threshold": SHARE,
}
"""What is narrower than its type: a field of one dataclass, or all fields of a name."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of report.json; descriptions are the docstrings of classes and fields."""
    definitions = _definitions(Report)
    report = definitions["Report"]
    report["properties"][CHECKSUM] = {**HASH, "description": "SHA-256 of the rest of the file."}
    report["required"].append(CHECKSUM)
    report["allOf"] = [
        _null_unless({"fail_above": {"type": "number"}}, {"verdict": {}, "gate": {}}),
        _null_unless(
            {"source": {"properties": {"kind": {"const": "checkpoint"}}}},
            {"sampling": {}, "source": {"model": {}}},
        ),
        _null_unless(
            {"space": {"properties": {"name": {"const": "features"}}}}, {"search": {"encoder": {}}}
        ),
    ]
    return _schema("report.json of a memaudit scan", Report, definitions)


def check_schema() -> dict[str, Any]:
    """The JSON Schema of check.json, likewise."""
    definitions = _definitions(CheckReport)
    definitions["CheckReport"]["allOf"] = [
        _null_unless({"holdout": {"type": "object"}}, {"controls": {}}),
        _null_unless(
            {"source": {"properties": {"kind": {"const": "checkpoint"}}}},
            {"source": {"sampler": {}, "seeds": {}}},
        ),
    ]
    return _schema("check.json of memaudit check", CheckReport, definitions)


def _definitions(root: type) -> dict[str, Any]:
    """The schemas of a dataclass and of all that its fields hold, by name."""
    definitions: dict[str, Any] = msgspec.json.schema(root, schema_hook=_custom_schema)["$defs"]
    for kind in _dataclasses_of(root):
        definition, docs = definitions[kind.__name__], field_docs(kind)
        properties = definition["properties"]
        for name, stated in properties.items():
            form = FORMS.get(f"{kind.__name__}.{name}", FORMS.get(name))
            properties[name] = stated if form is None else _narrowed(stated, form)
            properties[name].pop("default", None)  # a report holds every field
            if name in docs:
                properties[name]["description"] = docs[name]
        definition["description"] = _one_line(definition["description"])
        definition["required"] = list(properties)
        definition["additionalProperties"] = False
    return definitions


def _schema(title: str, root: type, definitions: dict[str, Any]) -> dict[str, Any]:
    definitions = _generalized(definitions)
    definitions["Number"] = {
        "description": "A number; those that JSON lacks are strings.",
        "anyOf": [{"type": "number"}, {"enum": list(NOT_FINITE)}],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "$ref": f"#/$defs/{root.__name__}",
        "$defs": definitions,
    }


def field_docs(kind: type) -> dict[str, str]:
    """What each field of a dataclass means: the string under it, or the help of its option."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {
        name: field.option.help
        for name, field in config_fields(kind).items()
        if field.option is not None
    }
    for name, diagnostic in DIAGNOSTICS.items() if kind is Diagnostics else ():
        docs[name] = diagnostic.about
    for field, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            docs[field.target.id] = text.value.value
    return {name: _one_line(text) for name, text in docs.items()}


def _one_line(text: str) -> str:
    """A docstring as a description in JSON, where None is null."""
    line = re.sub(r"(^|\. )None\b", r"\1Null", " ".join(text.split()))
    return re.sub(r"\bNone\b", "null", line)


def _custom_schema(kind: type) -> dict[str, Any]:
    if kind is Fraction:
        return {"type": "string", "pattern": FRACTION}
    raise NotImplementedError(kind)  # which is how msgspec wants to hear of an unknown type


def _dataclasses_of(kind: type) -> list[type]:
    """A dataclass and all dataclasses among its fields' types, each once."""
    found: dict[type, None] = {}
    pending: list[Any] = [kind]
    while pending:
        hint = pending.pop()
        if isinstance(hint, type) and is_dataclass(hint):
            if hint in found:
                continue
            found[hint] = None
            pending += get_type_hints(hint).values()
        pending += getattr(hint, "__args__", ())
    return list(found)


def _narrowed(schema: dict[str, Any], form: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a field, which may be null, with a narrower form of its value."""
    if "anyOf" in schema:
        parts = [form if part["type"] == form["type"] else part for part in schema["anyOf"]]
        return {**schema, "anyOf": parts}
    return {**schema, **form}


def _null_unless(condition: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """These fields of a report are null if and only if the condition does not hold."""

    def each(fields: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "properties": {
                name: each(inner, value) if inner else value for name, inner in fields.items()
            }
        }

    null = {"type": "null"}
    return {
        "if": {"properties": condition},
        "then": each(fields, {"not": null}),
        "else": each(fields, null),
    }


def _generalized(schema: Any) -> Any:
    """The schema with what holds for all reports: counts, and numbers that need not be finite."""
    if isinstance(schema, list):
        return [_generalized(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    for plain_type, form in ((SHARE["type"], NUMBER), (COUNT["type"], COUNT)):
        if schema.get("type") == plain_type and schema.keys() <= {"type", "description"}:
            rest = {name: text for name, text in schema.items() if name == "description"}
            return {**form, **rest}
    return {key: _generalized(value) for key, value in schema.items()}


if __name__ == "__main__":
    asked = check_schema() if sys.argv[1:] == ["check"] else json_schema()
    print(json.dumps(asked, indent=2, ensure_ascii=False, allow_nan=False))
