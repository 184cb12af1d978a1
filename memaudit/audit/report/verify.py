"""Check a report against itself, and against the checkpoint and the training images it names.

Everything that follows from matches.csv is computed again, and every byte of the folder's files is
covered by a hash. A hash shows damage and careless edits. It is not a signature: a forger can make
new hashes, so keep the SHA-256 of report.json where nobody else can write.
"""

import csv
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memaudit.audit.diagnostics.diagnostic import Context
from memaudit.audit.diagnostics.registry import recompute
from memaudit.audit.memorization.controls import DENSE, Floor
from memaudit.audit.memorization.findings import Findings, Gate, summarize_matches
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.report.folder import LEAKS, MATCHES, PAGE, REPORT, encoded
from memaudit.audit.report.schema import Data, Report, decode, is_sealed, plain
from memaudit.audit.report.tables import leaks_csv, matches_csv, read_leaks, read_matches
from memaudit.audit.scan_state import STATE
from memaudit.audit.source import holds_images
from memaudit.audit.statistics.intervals import clopper_pearson
from memaudit.audit.verdict import Conclusion, conclude
from memaudit.data.sources import open_images
from memaudit.errors import ConfigError, MemauditError
from memaudit.models.checkpoints import open_checkpoint
from memaudit.progress import Progress, silent
from memaudit.wording import parse_ranges

UNUSABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    ArithmeticError,
    csv.Error,
    MemauditError,
)
"""Errors that reading and judging a forged table or report may raise."""


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    passed: bool
    detail: str
    """What is wrong; empty if the check passed."""


@dataclass(frozen=True)
class Verification:
    """The outcome of checking a report."""

    checks: tuple[Check, ...]
    sha256: str
    """SHA-256 of report.json, to compare with one that was recorded elsewhere."""
    verdict: str | None
    """The verdict that the report states."""

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
        folder: holds report.json, matches.csv, leaks.csv and report.html.
        source: the checkpoint or the generated images that the report should be about.
        data: the training images that the report should be about, as a whole; the report says
            which part of them was used.
        progress: told how far the reading of images is.

    Raises:
        ConfigError: there is no report.
        CheckpointError, DataError: the source or the data cannot be opened.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> import memaudit
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8)
        >>> result = memaudit.scan(images[:5], images)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = memaudit.write_report(result, folder)
        ...     memaudit.verify_report(folder).passed
        True
    """
    folder = Path(folder)
    content = _read(folder)
    checks: list[Check] = []
    verdict = None
    try:
        report = decode(content)
        verdict = report.verdict
        checks.append(_check(REPORT, is_sealed(content), "was changed after it was written"))
        checks += _check_files(folder, report)
        checks += _check_findings(folder, report)
        checks.append(_check_controls(report))
        if source is not None:
            stated = report.source.sha256
            same = _source_hash(source, progress) == stated
            checks.append(_check(f"source {source}", same, f"is not the one reported, {stated}"))
        if data is not None:
            same = _data_hash(data, report.data, progress) == report.data.fingerprint
            detail = f"are not those reported, {report.data.fingerprint}"
            checks.append(_check(f"data {data}", same, detail))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        checks.append(Check(REPORT, False, f"cannot be read: {error}"))
    return Verification(tuple(checks), hashlib.sha256(content).hexdigest(), verdict)


def _read(folder: Path) -> bytes:
    try:
        return (folder / REPORT).read_bytes()
    except OSError as error:
        if (folder / STATE).is_dir():
            raise ConfigError(
                f"{folder} holds a scan that was stopped before its report was written. Give the "
                "command of that scan again: it resumes where it was."
            ) from error
        raise ConfigError(
            f"{folder} holds no report.json ({error.strerror}). Name the folder that "
            "`memaudit scan` wrote."
        ) from error


def _check_files(folder: Path, report: Report) -> Iterator[Check]:
    """Compare every file with the hash that report.json holds."""
    stated = {file.name: file.sha256 for file in report.files}
    for name in (MATCHES, LEAKS, PAGE):
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            yield Check(name, False, f"cannot be read: {error.strerror}")
            continue
        yield _check(name, found == stated.get(name), "was changed after it was written")


def _check_findings(folder: Path, report: Report) -> Iterator[Check]:
    """Compare ratios, intervals, verdict and leaks with those computed from the saved matches."""
    name = "ratios and verdict"
    try:
        matches_text = (folder / MATCHES).read_text(encoding="utf-8")
        leaks_text = (folder / LEAKS).read_text(encoding="utf-8")
        rule = Rule(report.threshold_fraction, report.duplicate_rms, report.confidence)
        discoveries = report.diagnostics.discoveries
        num_holdout = 0 if discoveries is None else discoveries.num_holdout
        table = read_matches(matches_text, rule, report.space, num_holdout=num_holdout)
        known = read_leaks(leaks_text)
        gate = None
        if report.fail_above is not None:
            gate = Gate(
                report.fail_above,
                sequential=report.source.kind == "checkpoint",
                floor=report.controls.in_gate,
            )
        findings = summarize_matches(
            table.matches,
            known.names,
            gate=gate,
            floors=report.controls.floor,
            alone=report.controls.leave_one_out,
        )
        context = Context(
            matches=table.matches,
            findings=findings,
            class_index=table.class_index,
            num_train=report.data.num_images,
            fail_above=report.fail_above,
            conformal=table.conformal,
        )
        stated = _stated(report)
        conclusion = conclude(
            findings,
            controls=report.controls,
            diagnostics=report.diagnostics,
            denoising=report.denoising,
            source=report.source,
            num_train=report.data.num_images,
            rule=rule,
            flips=report.search.flips,
            exact=report.space.exact,
            fail_on=report.fail_on,
            seeds_chosen=report.sampling is not None and "," in report.sampling.seeds,
            choices=report.conclusion.choices,
        )
        recomputed = _recomputed(findings, conclusion, context, without=report.without)
        leaks = leaks_csv(findings.leaks, table.keys, report.space, known.duplicates)
        tables = {
            MATCHES: (encoded(matches_csv(table)), matches_text),
            LEAKS: (encoded(leaks), leaks_text),
        }
    except UNUSABLE as error:
        yield Check(name, False, f"cannot be computed again: {error}")
        return
    differing = [key for key, value in recomputed.items() if not _same(stated.get(key), value)]
    yield _check(name, not differing, f"the matches give another {', '.join(differing)}")
    if table.conformal is not None and discoveries is not None:
        yield _check(
            "p-values",
            table.conformal.is_consistent_with(table.matches.distance_ratio),
            "cannot be those of the distance ratios",
        )
    for table_name, (expected, text) in tables.items():
        yield _check(
            f"columns of {table_name}",
            expected == text.encode(),
            "are not those that its own distances give",
        )


def _check_controls(report: Report) -> Check:
    """Compare what the report says of its controls with itself: their images are not in it."""
    controls, total = report.controls, report.data.num_images
    wrong = [
        f"the {floor.control} floor"
        for floor in (controls.leave_one_out, controls.holdout)
        if floor is not None and not _is_possible(floor, report)
    ]
    alone, holdout = controls.leave_one_out, controls.holdout
    if alone is not None and alone.copies.total > total:
        wrong.append("more images left out than there are")
    remaining = 0 if holdout is None else holdout.copies.total
    if remaining + controls.num_set_apart != controls.num_holdout:
        wrong.append("the number of held-out images")
    # Only 1 % set apart makes data dense; near pairs of the training set have to be common as well.
    is_dense = (
        alone is not None
        and controls.num_holdout > 0
        and controls.num_set_apart / controls.num_holdout > DENSE
        and alone.num_near / alone.copies.total > DENSE
    )
    if controls.is_dense != is_dense:
        wrong.append("whether the data is dense")
    return _check("controls", not wrong, f"contradict each other: {', '.join(wrong)}")


def _is_possible(floor: Floor, report: Report) -> bool:
    """Whether the counts of a control can be those of one set of images."""
    total, copies = floor.copies.total, floor.copies.count
    counts = {(cell.threshold, cell.duplicate_rms): cell.count for cell in floor.cells}
    by_ratio = counts.get((report.threshold_fraction, report.duplicate_rms), -1)
    near = counts.get((None, report.duplicate_rms), 0)  # no such cells where features are compared
    ordered = all(
        counts[smaller] <= counts[larger]
        for smaller in counts
        for larger in counts
        if (smaller[0] is None) == (larger[0] is None)
        if (smaller[0] or 0) <= (larger[0] or 0) and smaller[1] <= larger[1]
    )
    return (
        total > 0
        and len(counts) == len(floor.cells)
        and all(0 <= count <= total for count in counts.values())
        and ordered
        and near == floor.num_near
        and max(by_ratio, near) <= copies <= by_ratio + near
        and _same(plain(floor.copies), plain(clopper_pearson(copies, total, report.confidence)))
    )


def _stated(report: Report) -> dict[str, Any]:
    """The values in the report, by name."""
    content: dict[str, Any] = plain(report)
    stated: dict[str, Any] = content | content["diagnostics"]
    return stated


def _recomputed(
    findings: Findings, conclusion: Conclusion, context: Context, *, without: Sequence[str]
) -> dict[str, Any]:
    """The values computed from the matches, by the names of `_stated`."""
    found: dict[str, Any] = {
        "verdict": conclusion.verdict,
        "conclusion": conclusion,
        "gate": findings.decision,
        "ratios": findings.ratios,
        "interval": findings.interval,
        "num_degenerate": findings.num_degenerate,
        "num_leaking_images": len(findings.leaks),
        "sensitivity": findings.sensitivity,
    }
    found |= {name: result for name, result in recompute(context).items() if name not in without}
    return {name: plain(value) for name, value in found.items()}


def _same(stated: Any, recomputed: Any) -> bool:
    """Whether JSON values are equal; floats may differ as versions of scipy round differently."""
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
    return bool(stated == recomputed)


def _check(name: str, passed: bool, otherwise: str) -> Check:
    return Check(name, passed, "" if passed else otherwise)


def _source_hash(path: Path, progress: Progress) -> str | None:
    """The hash that a report holds as `source.sha256`: of a file's bytes, or of pixels."""
    if holds_images(path):
        return open_images(path, progress=progress).fingerprint
    if path.is_file():  # not opened, since bare weights could not be without their architecture
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return open_checkpoint(path).sha256


def _data_hash(path: Path, stated: Data, progress: Progress) -> str:
    """Fingerprint of the part of the images at `path` that the report names."""
    _, H, W = stated.image_shape
    images = open_images(path, progress=progress)
    if images.image_shape[1:] != (H, W) and H == W:
        images = open_images(path, resolution=H, progress=progress)
    if stated.indices is not None:
        indices = np.array(parse_ranges(stated.indices))
        images = images.take(indices[indices < len(images)])
    return images.fingerprint
