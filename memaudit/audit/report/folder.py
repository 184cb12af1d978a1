"""The report folder: report.json, matches.csv, leaks.csv, and the page to show, report.html.

`report.json` follows a versioned schema (schema.py). It holds the SHA-256 of the other files and of
itself, and is written last: a folder that has it has all four, whole. What it says about ratios,
verdict and leaks can be computed again from matches.csv (verify.py).
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from memaudit.audit.report.page import render_page
from memaudit.audit.report.pictures import Pictures
from memaudit.audit.report.schema import FileHash, encode, make_report, read_report
from memaudit.audit.report.tables import (
    MatchTable,
    caption_text,
    leaks_csv,
    matches_csv,
    screening_csv,
)
from memaudit.audit.scan_state import (
    discard_finished_state,
    discard_state,
    finish_state,
    keep_state,
    keeps_reported_images,
    only_scan_in,
)
from memaudit.audit.scanned import Scanned
from memaudit.audit.statistics.forecast import GateTest, advice
from memaudit.errors import ConfigError, DataError
from memaudit.files import atomic_write
from memaudit.wording import parse_ranges, ranges, short

REPORT = "report.json"
PAGE = "report.html"
MATCHES = "matches.csv"
LEAKS = "leaks.csv"
SCREENING = "screening.csv"
"""What both samplers say of each seed sampled in full; in the report of a screened scan only."""


def check_output_folder(
    folder: str | Path,
    *,
    overwrite: bool = False,
    seeds: Sequence[int] | None = None,
    nonce: str | None = None,
) -> None:
    """Create the folder of a report, or refuse it before any work is done.

    Args:
        folder: where the report will be written.
        overwrite: allow a folder that holds a report; it stays until the new one is written.
        seeds: those of a scan that may continue: also allow a report of INCONCLUSIVE whose seeds
            are the first of these, and whose images were kept.
        nonce: what draws the seeds instead, if anything does; then it must be the report's own.

    Raises:
        ConfigError: a file, a folder that cannot be written, or one that holds a report.
    """
    folder = Path(folder)
    _refuse_file(folder)
    if (folder / REPORT).exists():
        discard_finished_state(folder)
    if (folder / REPORT).exists() and not overwrite and not _continues(folder, seeds, nonce):
        raise ConfigError(
            f"{folder} already holds a report. Name another folder, or replace it with "
            "{overwrite}.",
            field="overwrite",
        )
    make_folder(folder)


def make_folder(folder: str | Path) -> None:
    """Create a folder to write into, or refuse it before any work is done.

    Raises:
        ConfigError: a file, or a folder that cannot be written.
    """
    folder = Path(folder)
    _refuse_file(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written: {error.strerror}. Name a folder that can."
        ) from error


def _refuse_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; a report needs a folder. Name another one.")


def _continues(folder: Path, seeds: Sequence[int] | None, nonce: str | None) -> bool:
    """Whether a scan of these seeds continues the one whose report is in the folder.

    Raises:
        ConfigError: it could, but not with these seeds.
    """
    if seeds is None or not keeps_reported_images(folder):
        return False
    try:
        report = read_report(folder)
        sampling = report.sampling
        judged = [] if sampling is None else parse_ranges(sampling.seeds)
    except (DataError, ValueError):
        return False
    if report.gate is None or report.gate.verdict != "INCONCLUSIVE":
        return False
    if sampling is None or not judged:
        return False
    if sampling.nonce != nonce:
        drawn = "no nonce" if sampling.nonce is None else f"the nonce '{sampling.nonce}'"
        raise ConfigError(
            f"{folder} holds an INCONCLUSIVE report whose seeds were drawn with {drawn}. To "
            "continue it, give the same {nonce}; or name another folder, or start again with "
            "{overwrite}.",
            field=("nonce", "overwrite"),
        )
    if nonce is None and list(seeds[: len(judged)]) != judged[: len(seeds)]:
        raise ConfigError(
            f"{folder} holds an INCONCLUSIVE report. To continue it, the {{seeds}} must begin with "
            f"its own, {short(ranges(judged))}; or name another folder, or start again with "
            "{overwrite}.",
            field=("seeds", "overwrite"),
        )
    if len(seeds) <= len(judged):
        more = advice(
            report.gate.may_fail_by[0], report.gate.total, GateTest.of(report.gate), sequential=True
        )
        raise ConfigError(
            f"{folder} holds a report that {len(judged):,} images left INCONCLUSIVE, and these "
            f"images. Give more {{samples}} to continue. {more} Or name another folder, or start "
            "again with {overwrite}.",
            field=("samples", "overwrite"),
        )
    return True


@contextmanager
def report_folder(
    folder: str | Path,
    *,
    overwrite: bool = False,
    seeds: Sequence[int] | None = None,
    nonce: str | None = None,
) -> Iterator[None]:
    """The folder of a report while a scan works on it: checked, and closed to a second scan.

    Raises:
        ConfigError: as `check_output_folder`, and where another scan is writing into it.
    """
    check_output_folder(folder, overwrite=overwrite, seeds=seeds, nonce=nonce)
    with only_scan_in(Path(folder)):
        yield


def reports_in(path: Path) -> list[Path]:
    """The report.json that `path` is, or those in it at any depth.

    Raises:
        DataError: there is none.
    """
    found = [path] if path.is_file() else list(path.rglob(REPORT)) if path.is_dir() else []
    if not found:
        raise DataError(
            f"{path} holds no {REPORT}. Give a report that `memaudit scan` wrote, or a folder with "
            "some."
        )
    return found


def write_report(result: Scanned, folder: str | Path, *, pictures: Pictures = "full") -> Path:
    """Write the four files of a report, replacing those of an earlier one.

    The images of a gated scan that ended INCONCLUSIVE stay beside it, so that it can continue.

    Args:
        result: what a scan found.
        folder: created if need be.
        pictures: what the page shows of training and generated images: `full`; `blurred`, mean
            colors of at most 4 by 4 areas; or `none`.

    Returns:
        Path of report.html.
    """
    folder = Path(folder)
    groups = MatchTable.groups_of(result.matches, result.data.group_numbers)
    table = MatchTable(result.keys, result.class_index, result.matches, result.conformal, groups)
    captions = None
    if result.data.captions is not None and pictures == "full":  # they tell what images show
        texts = result.data.captions
        captions = {leak.index: caption_text(texts[leak.index]) for leak in result.leaks}
    leaks = leaks_csv(
        result.leaks,
        result.keys,
        result.space,
        result.duplicates,
        captions,
        with_rules=bool(result.matches.finds),
    )
    files = {MATCHES: encoded(matches_csv(table)), LEAKS: encoded(leaks)}
    if result.screening is not None and result.screened is not None:
        below = result.screening.below
        table_of_both = screening_csv(result.keys, result.screened, result.matches, below)
        files[SCREENING] = encoded(table_of_both)
    report = make_report(result, pictures=pictures)
    report = replace(report, files=_hashes(files))
    files[PAGE] = render_page(result, report).encode()
    report = replace(report, files=_hashes(files))

    folder.mkdir(parents=True, exist_ok=True)
    decision = result.decision
    is_open = (
        decision is not None
        and decision.verdict == "INCONCLUSIVE"
        and decision.method == "sequential"
        and result.screening is None  # another number of seeds is another random share
    )
    if is_open:
        keep_state(folder)
    (folder / REPORT).unlink(missing_ok=True)
    (folder / SCREENING).unlink(missing_ok=True)
    if not is_open:
        finish_state(folder)
    for name, content in {**files, REPORT: encode(report)}.items():
        with atomic_write(folder / name) as file:
            file.write(content)
    if not is_open:
        discard_state(folder)
    return folder / PAGE


def encoded(table: str) -> bytes:
    """A table as bytes. What is not text in a name becomes an escape, never an error."""
    return table.encode(errors="backslashreplace")


def write_texts(folder: str | Path, texts: Mapping[str, str]) -> None:
    """Write pages and tables into a folder, which is created if necessary.

    Args:
        folder: where to write.
        texts: the content of each file by its name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(encoded(text))


def _hashes(files: dict[str, bytes]) -> tuple[FileHash, ...]:
    return tuple(
        FileHash(name, hashlib.sha256(content).hexdigest()) for name, content in files.items()
    )
