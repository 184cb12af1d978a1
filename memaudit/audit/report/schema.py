"""What report.json holds. These dataclasses are the schema: reader, writer and JSON Schema follow
from them.

The page docs/report.md says what a program may rely on. To write docs/report.schema.json again:

    python -m memaudit.audit.report.schema > docs/report.schema.json
"""

import ast
import hashlib
import inspect
import json
import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec

from memaudit.audit.diagnostics.registry import DIAGNOSTICS, Diagnostics
from memaudit.audit.environment import Environment, Timings
from memaudit.audit.memorization.findings import Ratios, Sensitivity
from memaudit.audit.neighbors.results import SearchFacts
from memaudit.audit.neighbors.units import Space
from memaudit.audit.scanned import Scanned
from memaudit.audit.source import Source
from memaudit.audit.statistics.gate import Decision
from memaudit.errors import DataError, MemauditError
from memaudit.models.sampler_config import SamplerConfig
from memaudit.options import config_fields
from memaudit.wording import printable, ranges, short, shown

SCHEMA: Literal["memaudit.report/2"] = "memaudit.report/2"
CHECKSUM = "sha256"
"""Key of the SHA-256 of the rest of report.json."""

MAX_DIGITS = 40
"""Digits of a numerator or denominator that are read."""
NOT_FINITE = ("inf", "-inf", "nan")
"""Numbers that JSON lacks, as strings."""


@dataclass(frozen=True)
class Data:
    """The training images that were searched."""

    path: str
    fingerprint: str
    """SHA-256 of their pixels."""
    num_images: int
    image_shape: tuple[int, int, int]
    """Channels, height and width."""
    num_classes: int
    """Number of classes, 0 without labels."""
    class_names: tuple[str, ...]
    indices: str | None
    """Positions in the source that the images were selected from, as ranges `0-99,105`, or null
    where all were taken."""


@dataclass(frozen=True)
class Sampling:
    """How the images were generated."""

    seeds: str
    """Seeds of the images that were judged, in their order, as ranges."""
    most_seeds: int
    """Number of seeds that were asked for; a gate may stop earlier."""
    min_samples: int
    """Images that the gate looked at first."""
    class_index: int | None
    """The one class that was generated, or null: drawn from each seed."""
    sampler: SamplerConfig
    batch_size: int
    device: str


@dataclass(frozen=True)
class FileHash:
    """A file of the report folder."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Report:
    """The content of report.json but for its own checksum."""

    schema: Literal["memaudit.report/2"]
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"] | None
    """The gate's verdict, or null without a gate."""
    gate: Decision | None
    """The gate's decision and its evidence, or null without a gate."""
    ratios: Ratios
    """Shares of generated images that are copies, by each rule."""
    interval: Literal["Clopper-Pearson", "mixture sequence"]
    """How the intervals of the ratios were made."""
    num_degenerate: int
    """Images at distance 0 from both neighbors, which the published rule cannot call copies."""
    num_leaking_images: int
    """Training images that were copied at least once."""
    sensitivity: tuple[Sensitivity, ...]
    """The distinct ratio at every threshold and radius."""
    threshold: float
    """A generated image is a copy where the ratio of its two distances is below this."""
    threshold_fraction: Fraction
    """The threshold, exact."""
    duplicate_rms: float
    """Training images within this many RMS gray levels are duplicates of each other."""
    confidence: float
    """Confidence of the intervals and of the gate."""
    fail_above: float | None
    """The gate's limit, or null without a gate."""
    source: Source
    """What was audited."""
    data: Data
    """The training images."""
    space: Space
    """What distances are distances of."""
    search: SearchFacts
    """How the nearest training images were found."""
    sampling: Sampling | None
    """How images were generated, or null where they were given."""
    diagnostics: Diagnostics
    """What stands beside the ratio."""
    without: tuple[str, ...]
    """Diagnostics that were left out on request."""
    timings: Timings
    environment: Environment
    files: tuple[FileHash, ...] = ()
    """The other files of the folder."""


def make_report(result: Scanned) -> Report:
    """The report of a scan, without the hashes of files that are not written yet."""
    config, data, findings = result.config, result.data, result.findings
    sampling = None
    if result.source.kind == "checkpoint":
        sampling = Sampling(
            seeds=ranges(int(key) for key in result.keys),
            most_seeds=len(config.seeds),
            min_samples=config.min_samples,
            class_index=config.class_index,
            sampler=config.sampler.resolved(),
            batch_size=config.execution.batch_size,
            device=config.execution.device,
        )
    return Report(
        schema=SCHEMA,
        verdict=None if findings.decision is None else findings.decision.verdict,
        gate=findings.decision,
        ratios=findings.ratios,
        interval=findings.interval,
        num_degenerate=findings.num_degenerate,
        num_leaking_images=len(findings.leaks),
        sensitivity=findings.sensitivity,
        threshold=float(config.rule.threshold),
        threshold_fraction=config.rule.threshold,
        duplicate_rms=config.rule.duplicate_rms,
        confidence=config.rule.confidence,
        fail_above=config.fail_above,
        source=result.source,
        data=Data(
            path=data.source,
            fingerprint=data.fingerprint,
            num_images=len(data),
            image_shape=data.image_shape,
            num_classes=data.num_classes,
            class_names=data.class_names,
            indices=None if data.indices is None else ranges(data.indices.tolist()),
        ),
        space=result.space,
        search=result.search,
        sampling=sampling,
        diagnostics=result.diagnostics,
        without=config.without,
        timings=result.timings,
        environment=result.environment,
    )


# ------------------------------------------------------------------------------------------------
# Writing and reading


def plain(value: Any) -> Any:
    """A value as strict JSON can hold it: numbers that JSON lacks as strings, tuples as lists."""
    return _finite(msgspec.to_builtins(value, enc_hook=str))


def encode(report: Report) -> bytes:
    """The bytes of report.json, with its own checksum."""
    content = plain(report)
    return _json({**content, CHECKSUM: hashlib.sha256(_json(content)).hexdigest()})


def is_sealed(content: bytes) -> bool:
    """Whether the bytes of a report.json are those that were written.

    Raises:
        ValueError: they are not JSON.
    """
    report = json.loads(content)
    if not isinstance(report, dict):
        return False
    checksum = report.pop(CHECKSUM, None)
    sealed = {**report, CHECKSUM: hashlib.sha256(_json(report)).hexdigest()}
    return checksum is not None and _json(sealed) == content


def decode(content: bytes) -> Report:
    """The report in the bytes of a report.json.

    Raises:
        ValueError: they are not a report of this version; says what is wrong and where.
    """
    stated = _of_this_version(content)
    try:
        # Not strict, so that "inf" is read as a number.
        report = msgspec.convert(stated, Report, strict=False, dec_hook=_fraction)
    except (ArithmeticError, MemauditError) as error:  # such as a share of nothing
        raise ValueError(f"it holds a value that cannot be: {error}") from error
    stated.pop(CHECKSUM, None)
    if plain(report) != stated:
        raise ValueError("it holds fields or values that no report has")
    return report


def read_report(path: str | Path) -> Report:
    """Read a report.json.

    Args:
        path: the file, or the folder that holds it.

    Raises:
        DataError: it cannot be read, is of another version, or was changed after it was written.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> import memaudit
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8)
        >>> result = memaudit.scan(images[:5], images)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = memaudit.write_report(result, folder)
        ...     report = memaudit.read_report(folder)
        >>> report.num_leaking_images
        5
    """
    file = Path(path) / "report.json" if Path(path).is_dir() else Path(path)
    try:
        content = file.read_bytes()
        _of_this_version(content)
        report = decode(content) if is_sealed(content) else None
    except OSError as error:
        raise DataError(
            f"{file} is not a readable memaudit report: {error.strerror}. Name a folder that "
            "`memaudit scan` wrote."
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        reason = short(printable(str(error)), 300)
        raise DataError(f"{file} is not a readable memaudit report: {reason}.") from error
    if report is None:
        raise DataError(
            f"{file} was changed after it was written: its checksum does not match. "
            f"See `memaudit verify {file.parent}`, and leave it out."
        )
    return report


def _of_this_version(content: bytes) -> dict[str, Any]:
    stated = json.loads(content)
    schema = stated.get("schema") if isinstance(stated, dict) else None
    if schema != SCHEMA:
        raise ValueError(
            f"its schema is {shown(schema)}, and this version of memaudit reads {SCHEMA!r}. Scan "
            "again, or use the version that wrote it"
        )
    return dict(stated)


def _fraction(kind: type, value: object) -> Fraction:
    # Fraction itself would compute 10 to any power that a text names.
    if kind is not Fraction or not re.fullmatch(FRACTION["pattern"], str(value)):
        raise ValueError(f"{shown(value)} is not a fraction such as 1/3")
    return Fraction(str(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


# ------------------------------------------------------------------------------------------------
# JSON Schema

HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
RANGES = {"type": "string", "pattern": r"^\d+(-\d+)?(,\d+(-\d+)?)*$"}
FRACTION = {"type": "string", "pattern": rf"^\d{{1,{MAX_DIGITS}}}/\d{{1,{MAX_DIGITS}}}$"}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
COUNT = {"type": "integer", "minimum": 0}
NUMBER = {"$ref": "#/$defs/Number"}

FORMS: Mapping[str, Mapping[str, Any]] = {
    "sha256": HASH,
    "fingerprint": HASH,
    "seeds": RANGES,
    "indices": RANGES,
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
    definitions = msgspec.json.schema(Report, schema_hook=_custom_schema)["$defs"]
    for kind in _dataclasses_of(Report):
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
    definitions = _generalized(definitions)
    definitions["Number"] = {
        "description": "A number; those that JSON lacks are strings.",
        "anyOf": [{"type": "number"}, {"enum": list(NOT_FINITE)}],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "report.json of a memaudit scan",
        "$ref": "#/$defs/Report",
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
        return dict(FRACTION)
    raise NotImplementedError(kind)


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
    print(json.dumps(json_schema(), indent=2, ensure_ascii=False, allow_nan=False))
