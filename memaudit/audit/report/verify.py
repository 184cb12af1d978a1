"""Check a report against itself, and against the checkpoint and the training images it names.

Everything that follows from matches.csv is computed again, and every byte of the folder's files is
covered by a hash. A hash shows damage and careless edits. It is no signature: who forges a report
can make the hashes anew, so keep the SHA-256 of report.json where the forger cannot write.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from memaudit.audit.memorization.findings import Gate, summarize_matches
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.neighbors.units import Space
from memaudit.audit.report.folder import (
    LEAKS,
    MATCHES,
    PAGE,
    REPORT,
    encoded,
    findings_dict,
    is_sealed,
    parse_ranges,
)
from memaudit.audit.report.tables import leaks_csv, matches_csv, read_leaks, read_matches
from memaudit.audit.scan_state import STATE
from memaudit.audit.source import holds_images
from memaudit.data.sources import open_images
from memaudit.errors import ConfigError
from memaudit.models.checkpoints import open_checkpoint
from memaudit.progress import Progress, silent


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool
    detail: str
    """What was found; empty where there is nothing to say."""


@dataclass(frozen=True)
class Verification:
    """What checking a report gave."""

    checks: tuple[Check, ...]
    sha256: str
    """Of report.json, to be compared with one that was noted down elsewhere."""
    verdict: str | None
    """As the report states it."""

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)


def verify_report(
    folder: str | Path,
    *,
    source: Path | None = None,
    data: Path | None = None,
    progress: Progress = silent,
) -> Verification:
    """Check a report folder.

    Args:
        folder: with report.json, matches.csv, leaks.csv and report.html.
        source: the checkpoint, or the generated images, that it should be about.
        data: the training images it should be about: the whole source, of which it names the part.
        progress: told how far the reading of images is.

    Raises:
        ConfigError: no report there.
        CheckpointError, DataError: source or data that cannot be opened.
    """
    path = Path(folder) / REPORT
    try:
        content = path.read_bytes()
    except OSError as error:
        if (Path(folder) / STATE).is_dir():
            raise ConfigError(
                f"{folder} holds a scan that was stopped before its report was written. Give the "
                "command of that scan again: it goes on where it was."
            ) from error
        raise ConfigError(
            f"{folder} holds no report.json ({error.strerror}). Name the folder that "
            "`memaudit scan --out` wrote."
        ) from error
    checks: list[Check] = []
    verdict = None
    try:
        report = json.loads(content)
        verdict = report["verdict"]
        checks.append(_check(REPORT, is_sealed(content), "was changed after it was written"))
        checks += _check_files(Path(folder), report)
        checks += _check_findings(Path(folder), report)
        if source is not None:
            stated = report["source"]["sha256"]
            same = _source_hash(source, progress) == stated
            checks.append(_check(f"source {source}", same, f"is not the one reported, {stated}"))
        if data is not None:
            stated = report["data"]["fingerprint"]
            same = _data_hash(data, report["data"], progress) == stated
            checks.append(_check(f"data {data}", same, f"are not those reported, {stated}"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        checks.append(Check(REPORT, False, f"cannot be read: {error!r}"))
    return Verification(tuple(checks), hashlib.sha256(content).hexdigest(), verdict)


def _check_files(folder: Path, report: dict[str, Any]) -> Iterator[Check]:
    """Every file against the hash that report.json has of it."""
    for name in (MATCHES, LEAKS, PAGE):
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            yield Check(name, False, f"cannot be read: {error.strerror}")
            continue
        yield _check(name, found == report["files"][name], "was changed after it was written")


def _check_findings(folder: Path, report: dict[str, Any]) -> Iterator[Check]:
    """Ratios, intervals, verdict and leaks against those that the saved matches give."""
    name = "ratios and verdict"
    try:
        matches_text = (folder / MATCHES).read_text(encoding="utf-8")
        leaks_text = (folder / LEAKS).read_text(encoding="utf-8")
        rule = Rule(
            Fraction(report["threshold_fraction"]), report["duplicate_rms"], report["confidence"]
        )
        table = read_matches(matches_text, rule)
        known = read_leaks(leaks_text)
        gate = None
        if report["fail_above"] is not None:
            gate = Gate(report["fail_above"], sequential=report["source"]["kind"] == "checkpoint")
        findings = summarize_matches(
            table.matches,
            known.names,
            num_images=report["data"]["num_images"],
            class_index=table.class_index,
            gate=gate,
        )
        recomputed = findings_dict(findings)
        tables = {
            MATCHES: (encoded(matches_csv(table)), matches_text),
            LEAKS: (
                encoded(
                    leaks_csv(
                        findings.leaks, table.keys, Space(**report["space"]), known.duplicates
                    )
                ),
                leaks_text,
            ),
        }
    except (ConfigError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        yield Check(name, False, f"cannot be computed again: {error}")
        return
    differing = [key for key, value in recomputed.items() if not _same(report.get(key), value)]
    yield _check(name, not differing, f"the matches give another {', '.join(differing)}")
    for table_name, (expected, text) in tables.items():
        yield _check(
            f"columns of {table_name}",
            expected == text.encode(),
            "are not those that its own distances give",
        )


def _same(stated: Any, recomputed: Any) -> bool:
    """Equality of JSON values; of floats to what another version of scipy may round otherwise."""
    if isinstance(recomputed, dict):
        return (
            isinstance(stated, dict)
            and stated.keys() == recomputed.keys()
            and all(_same(stated[key], value) for key, value in recomputed.items())
        )
    if isinstance(recomputed, list):
        return (
            isinstance(stated, list)
            and len(stated) == len(recomputed)
            and all(map(_same, stated, recomputed))
        )
    if isinstance(recomputed, float) and isinstance(stated, int | float):
        return math.isclose(stated, recomputed, rel_tol=1e-9, abs_tol=1e-12)
    return stated == recomputed


def _check(name: str, passed: bool, otherwise: str) -> Check:
    return Check(name, passed, "" if passed else otherwise)


def _source_hash(path: Path, progress: Progress) -> str:
    """What a report names as `source.sha256`: of a file's bytes, or of the images' pixels."""
    if holds_images(path):
        return open_images(path, progress=progress).fingerprint
    if path.is_file():  # without opening it, which for bare weights takes their architecture
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return open_checkpoint(path).sha256


def _data_hash(path: Path, stated: dict[str, Any], progress: Progress) -> str:
    """Fingerprint of the part of the images at `path` that the report says it is about."""
    _, H, W = stated["image_shape"]
    images = open_images(path, progress=progress)
    if images.image_shape[1:] != (H, W) and H == W:
        images = open_images(path, resolution=H, progress=progress)
    if stated["indices"] is not None:
        indices = np.array(parse_ranges(stated["indices"]))
        images = images.take(indices[indices < len(images)])
    return images.fingerprint
