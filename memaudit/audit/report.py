"""The report folder: report.json, matches.csv, leaks.csv, and the page to show, report.html.

`report.json` follows a versioned schema; its numbers can be recomputed from the two tables, whose
SHA-256 it holds. It is written last: a folder that has it has all four, whole.
"""

import csv
import hashlib
import io
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from memaudit.audit.grey_levels import rms_grey_levels
from memaudit.audit.report_page import render_page
from memaudit.audit.scan import ScanResult
from memaudit.errors import ConfigError
from memaudit.files import atomic_write

SCHEMA = "memaudit.report/1"
REPORT = "report.json"
PAGE = "report.html"
MATCHES = "matches.csv"
LEAKS = "leaks.csv"


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
    files = {
        # Names may hold bytes that are no text (surrogates): shown as escapes, never an error.
        name: text.encode(errors="backslashreplace")
        for name, text in ((MATCHES, matches_csv(result)), (LEAKS, leaks_csv(result)))
    }
    report["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[PAGE] = render_page(result, report).encode()
    report["files"][PAGE] = hashlib.sha256(files[PAGE]).hexdigest()

    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT).unlink(missing_ok=True)
    for name, content in files.items():
        _write(folder / name, content)
    _write(folder / REPORT, (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
    return folder / PAGE


def report_dict(result: ScanResult) -> dict[str, Any]:
    """The content of report.json but for `files`, as values that strict JSON can hold.

    Numbers that JSON lacks are the strings "inf", "-inf" and "nan"; seeds and indices are lists of
    ranges, "0-9999" or "3,7,20-29", in their order.
    """
    config, data = result.config, result.data
    sampling = None
    if result.source["kind"] == "checkpoint":
        sampling = {
            "seeds": ranges(config.seeds),
            "class_index": config.class_index,
            "sampler": asdict(config.sampler),
            "batch_size": config.batch_size,
            "device": config.device,
        }
    report = {
        "schema": SCHEMA,
        "verdict": None,  # without a gate there is none
        "ratios": {
            rule: {
                "count": ratio.count,
                "total": ratio.total,
                "ratio": ratio.ratio,
                "low": ratio.low,
                "high": ratio.high,
                "confidence": ratio.confidence,
            }
            for rule, ratio in result.ratios.items()
        },
        "num_degenerate": result.num_degenerate,
        "num_leaking_images": len(result.leaks),
        "threshold": float(config.threshold),
        "threshold_fraction": str(config.threshold),
        "duplicate_rms": config.duplicate_rms,
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
        "sampling": sampling,
        "optimality": None if result.optimality is None else asdict(result.optimality),
        "timings": result.timings,
        "environment": result.environment,
    }
    return _plain(report)


def matches_csv(result: ScanResult) -> str:
    """One row a generated image: its seed or name, its neighbours, the verdict of each rule."""
    matches = result.matches
    columns: dict[str, Sequence[Any]] = {_key_column(result): result.keys}
    if result.class_index is not None:
        columns["class_index"] = result.class_index.tolist()
    for field in fields(matches):
        values = getattr(matches, field.name)
        columns[field.name] = (values.astype(int) if values.dtype == bool else values).tolist()
    columns["distance_ratio"] = matches.distance_ratio.tolist()
    return _csv(columns, zip(*columns.values(), strict=True))


def leaks_csv(result: ScanResult) -> str:
    """One row a training image that leaked, most copied first; its copies closest first."""
    is_seed = _key_column(result) == "seed"
    header = ["index", "name", "hits", "squared_distance", "distance_rms"]
    return _csv(
        [*header, "seeds" if is_seed else "names"],
        (
            (
                leak.index,
                leak.name,
                leak.hits,
                leak.squared_distance,
                rms_grey_levels(leak.squared_distance, result.data.image_shape),
                (" " if is_seed else ";").join(str(result.keys[row]) for row in leak.rows),
            )
            for leak in result.leaks
        ),
    )


def ranges(numbers: Sequence[int]) -> str:
    """Integers in their order as `0-9999` or `3,7,20-29`, the way `--seeds` takes them."""
    values = np.asarray(numbers, dtype=np.int64)
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] - 2) != 1)
    runs = np.split(values, starts[1:])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _key_column(result: ScanResult) -> str:
    return "seed" if result.source["kind"] == "checkpoint" else "name"


def _csv(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    """`value` out of what JSON has: dict, list, str, int, finite float, bool, None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)
