"""Change a report as a forger would: with hashes that fit."""

import csv
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKSUM = "sha256"


def seal(report: dict[str, Any]) -> bytes:
    """The bytes of a report.json with its checksum."""
    report.pop(CHECKSUM, None)
    content = (json.dumps(report, indent=2) + "\n").encode()
    sealed = {**report, CHECKSUM: hashlib.sha256(content).hexdigest()}
    return (json.dumps(sealed, indent=2) + "\n").encode()


def seal_again(
    folder: Path, change: Callable[[dict[str, Any]], object] = lambda report: None
) -> None:
    """Change report.json, and make all hashes anew."""
    report = json.loads((folder / "report.json").read_bytes())
    for file in report["files"]:
        file["sha256"] = hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest()
    change(report)
    (folder / "report.json").write_bytes(seal(report))


def change_rows(folder: Path, change: Callable[[list[dict[str, str]]], object]) -> None:
    """Change the rows of matches.csv, and make all hashes anew."""
    path = folder / "matches.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    header = list(rows[0])
    change(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
    seal_again(folder)
