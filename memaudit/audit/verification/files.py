"""The files of a report folder, read once each and within limits.

What is hashed is what is judged, although the folder may change meanwhile.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memaudit.audit.image_check.config import REPORT as CHECK_REPORT
from memaudit.audit.report.folder import LEAKS, MATCHES, PAGE, REPORT, SCREENING
from memaudit.audit.report.schema import LARGEST_REPORT, Report
from memaudit.audit.scan_state import STATE
from memaudit.audit.verification.check import Check, check
from memaudit.errors import ConfigError
from memaudit.files import read_regular

LARGEST = {MATCHES: 1 << 30, LEAKS: 1 << 30, PAGE: 256 << 20, SCREENING: 1 << 30}
"""Most bytes of each file: a table of 5 million images, and ten times the pictures that a page has
with images of 64x64 pixels."""


@dataclass(frozen=True)
class ReportFiles:
    """The bytes of a report's files besides report.json."""

    contents: dict[str, bytes]
    """By name; files that cannot be read are missing."""
    problems: dict[str, str]
    """Why a file is missing."""

    def text(self, name: str) -> str:
        """A file as text.

        Raises:
            ValueError: it is missing, or not UTF-8.
        """
        if name not in self.contents:
            raise ValueError(f"{name} cannot be read")
        return self.contents[name].decode("utf-8")


def read_report_bytes(folder: Path) -> bytes:
    """The bytes of report.json.

    Raises:
        ConfigError: there is none, or it is not a regular file of a size that makes sense.
    """
    try:
        return read_regular(folder / REPORT, LARGEST_REPORT)
    except FileNotFoundError as error:
        if (folder / STATE).is_dir():
            raise ConfigError(
                f"{folder} holds a scan that was stopped before its report was written. Give the "
                "command of that scan again: it resumes where it was."
            ) from error
        if (folder / CHECK_REPORT).is_file():
            raise ConfigError(
                f"{folder} holds what `memaudit check` found about single images. Its page, "
                "check.html, is the document to hand in; `memaudit scan` writes the reports that "
                "card, annex and verify are made of."
            ) from error
        raise ConfigError(
            f"{folder} holds no report.json ({error.strerror}). Name the folder that "
            "`memaudit scan` wrote."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{folder / REPORT} cannot be read: {error.strerror}. Name the folder that "
            "`memaudit scan` wrote."
        ) from error


def names_of(report: Report) -> tuple[str, ...]:
    """The other files that a report has."""
    return tuple(name for name in LARGEST if name != SCREENING or report.screening is not None)


def read_files(folder: Path, report: Report) -> ReportFiles:
    """Read the other files of a report."""
    contents, problems = {}, {}
    for name in names_of(report):
        limit = LARGEST[name]
        try:
            contents[name] = read_regular(folder / name, limit)
        except OSError as error:
            problems[name] = f"cannot be read: {error.strerror}"
        except MemoryError:
            problems[name] = "cannot be read: it does not fit into memory"
    return ReportFiles(contents, problems)


def check_hashes(files: ReportFiles, report: Report) -> Iterator[Check]:
    """Compare every file with the hash that report.json holds."""
    names, wanted = [file.name for file in report.files], names_of(report)
    yield check("list of files", sorted(names) == sorted(wanted), f"is not {', '.join(wanted)}")
    stated = {file.name: file.sha256 for file in report.files}
    for name in wanted:
        if name in files.problems:
            yield Check(name, False, files.problems[name])
            continue
        found = hashlib.sha256(files.contents[name]).hexdigest()
        yield check(name, found == stated.get(name), "was changed after it was written")
