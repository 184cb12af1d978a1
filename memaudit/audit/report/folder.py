"""The report folder: report.json, matches.csv, leaks.csv, and the page to show, report.html.

`report.json` follows a versioned schema, docs/report.schema.json. It holds the SHA-256 of the other
files and of itself, and is written last: a folder that has it has all four, whole. What it says
about ratios, verdict and leaks can be computed again from matches.csv (`verify_report`).
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memaudit.audit.memorization.findings import Findings
from memaudit.audit.report.page import render_page
from memaudit.audit.report.tables import MatchTable, leaks_csv, matches_csv
from memaudit.audit.scan import ScanResult
from memaudit.audit.scan_state import discard_state, only_scan_in
from memaudit.audit.statistics.intervals import Proportion
from memaudit.errors import ConfigError, DataError
from memaudit.files import atomic_write

SCHEMA = "memaudit.report/1"
REPORT = "report.json"
PAGE = "report.html"
MATCHES = "matches.csv"
LEAKS = "leaks.csv"
CHECKSUM = "sha256"
"""Key of the SHA-256 of the rest of report.json."""


def check_output_folder(folder: str | Path, *, overwrite: bool = False) -> None:
    """Create the folder of a report, or refuse it before any work is done.

    Args:
        folder: where the report will be written.
        overwrite: allow a folder that holds a report; it stays until the new one is written.

    Raises:
        ConfigError: a file, a folder that cannot be written, or one that holds a report.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; a report needs a folder. Name another one.")
    if (folder / REPORT).exists() and not overwrite:
        raise ConfigError(
            f"{folder} already holds a report. Name another folder, or replace it with --overwrite."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written: {error.strerror}. Name a folder that can."
        ) from error


@contextmanager
def report_folder(folder: str | Path, *, overwrite: bool = False) -> Iterator[None]:
    """The folder of a report while a scan works on it: checked, and closed to a second scan.

    Raises:
        ConfigError: as `check_output_folder`, and where another scan is writing into it.
    """
    check_output_folder(folder, overwrite=overwrite)
    with only_scan_in(Path(folder)):
        yield


def write_report(result: ScanResult, folder: str | Path) -> Path:
    """Write the four files of a report, replacing those of an earlier one.

    Args:
        result: what a scan found.
        folder: created if need be.

    Returns:
        Path of report.html.
    """
    folder = Path(folder)
    report = report_dict(result)
    table = MatchTable(result.keys, result.class_index, result.matches)
    files = {
        MATCHES: encoded(matches_csv(table)),
        LEAKS: encoded(leaks_csv(result.leaks, result.keys, result.space, result.duplicates)),
    }
    report["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[PAGE] = render_page(result, report).encode()
    report["files"][PAGE] = hashlib.sha256(files[PAGE]).hexdigest()

    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT).unlink(missing_ok=True)
    for name, content in files.items():
        _write(folder / name, content)
    _write(folder / REPORT, sealed(report))
    discard_state(folder)
    return folder / PAGE


def reports_in(path: Path) -> list[Path]:
    """The report.json that `path` is, or those in it at any depth.

    Raises:
        DataError: none.
    """
    found = [path] if path.is_file() else list(path.rglob(REPORT)) if path.is_dir() else []
    if not found:
        raise DataError(
            f"{path} holds no {REPORT}. Give a report that `memaudit scan --out` wrote, or a "
            "folder with some."
        )
    return found


def report_dict(result: ScanResult) -> dict[str, Any]:
    """The content of report.json but for `files` and the checksum, as strict JSON can hold it.

    Numbers that JSON lacks are the strings "inf", "-inf" and "nan"; seeds and indices are lists of
    ranges, "0-9999" or "3,7,20-29", in their order.
    """
    config, data = result.config, result.data
    sampling = None
    if result.source["kind"] == "checkpoint":
        sampling = {
            "seeds": ranges(result.keys),
            "most_seeds": len(config.seeds),
            "min_samples": config.min_samples,
            "class_index": config.class_index,
            "sampler": config.sampler.as_dict(),
            "batch_size": config.batch_size,
            "device": config.device,
        }
    return plain(
        {
            "schema": SCHEMA,
            **findings_dict(result.findings),
            "threshold": float(config.threshold),
            "threshold_fraction": str(config.threshold),
            "duplicate_rms": config.duplicate_rms,
            "confidence": config.confidence,
            "fail_above": config.fail_above,
            "source": result.source,
            "data": {
                "path": data.source,
                "fingerprint": data.fingerprint,
                "num_images": len(data),
                "image_shape": data.image_shape,
                "num_classes": data.num_classes,
                "class_names": data.class_names,
                # Positions of the training images in the source they were selected from.
                "indices": None if data.indices is None else ranges(data.indices.tolist()),
            },
            "space": result.space,
            "search": result.search,
            "sampling": sampling,
            "holdout": result.holdout,
            "authentic": result.authentic,
            "return_test": result.return_test,
            "membership": result.membership,
            "optimality": result.optimality,
            "timings": result.timings,
            "environment": result.environment,
        }
    )


def findings_dict(findings: Findings) -> dict[str, Any]:
    """The part of report.json that follows from matches.csv."""
    decision = findings.decision
    return plain(
        {
            "verdict": None if decision is None else decision.verdict,
            "gate": decision,
            "ratios": findings.ratios,
            "interval": findings.interval,
            "num_degenerate": findings.num_degenerate,
            "num_leaking_images": len(findings.leaks),
            "leak_coverage": findings.richness,
            "sensitivity": findings.sensitivity,
            "classes": findings.classes,
        }
    )


def sealed(report: dict[str, Any]) -> bytes:
    """report.json with its own checksum."""
    return _json({**report, CHECKSUM: hashlib.sha256(_json(report)).hexdigest()})


def is_sealed(content: bytes) -> bool:
    """Whether `content` is what `sealed` wrote, byte for byte."""
    report = json.loads(content)
    checksum = report.pop(CHECKSUM, None)
    return checksum is not None and sealed(report) == content


def encoded(table: str) -> bytes:
    """A table as bytes. Names may hold bytes that are no text: shown as escapes, never an error."""
    return table.encode(errors="backslashreplace")


def ranges(numbers: Sequence[Any]) -> str:
    """Integers in their order as `0-9999` or `3,7,20-29`, the way `--seeds` takes them."""
    values = np.asarray(numbers, dtype=np.int64)
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] - 2) != 1)
    runs = np.split(values, starts[1:])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def parse_ranges(text: str) -> list[int]:
    """The integers that `ranges` wrote."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def plain(value: Any) -> Any:
    """`value` out of what JSON has: dict, list, str, int, finite float, bool, None.

    A proportion also gets its ratio.
    """
    if isinstance(value, Proportion):
        return {"ratio": value.ratio, **asdict(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def _json(report: dict[str, Any]) -> bytes:
    return (json.dumps(report, indent=2, allow_nan=False) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)
