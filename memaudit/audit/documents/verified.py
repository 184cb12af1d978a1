"""A report that was verified against itself, as an annex or a card needs it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from memaudit.audit.report.charts import row_of_copies
from memaudit.audit.report.folder import PAGE
from memaudit.audit.report.schema import LARGEST_REPORT, Report, decode
from memaudit.audit.statistics.intervals import Proportion
from memaudit.audit.verification.verify import verify_report
from memaudit.errors import DataError
from memaudit.files import read_regular
from memaudit.wording import counted, percent

LARGEST_PAGE = 256 << 20
"""Most bytes of a report.html that are read for its anchors."""


@dataclass(frozen=True)
class VerifiedReport:
    """A report whose files agree with each other."""

    folder: Path
    report: Report
    page: str
    """The text of report.html."""
    sha256: str
    """SHA-256 of report.json."""
    num_checks: int
    """Checks that were made, all of which passed."""
    unproven: tuple[str, ...]
    """What the report states and these checks do not prove."""


def open_verified(folder: str | Path) -> VerifiedReport:
    """Read a report that passes the checks that `verify_report` makes of the folder alone.

    Raises:
        ConfigError: there is no report.
        DataError: it fails a check: it was changed after it was written.
    """
    folder = Path(folder)
    found = verify_report(folder)
    failed = [check for check in found.checks if not check.passed]
    if failed:
        first = failed[0]
        raise DataError(
            f"{folder} fails {counted(len(failed), 'check', 'checks')} of its own files "
            f"({first.name}{f': {first.detail}' if first.detail else ''}). What follows from it is "
            f"not written. See `memaudit verify {folder}`, and scan again."
        )
    content = read_regular(folder / "report.json", LARGEST_REPORT)
    if hashlib.sha256(content).hexdigest() != found.sha256:
        raise DataError(f"{folder}/report.json was changed while it was read. Try again.")
    return VerifiedReport(
        folder=folder,
        report=decode(content),
        page=read_regular(folder / PAGE, LARGEST_PAGE).decode(),
        sha256=found.sha256,
        num_checks=len(found.checks),
        unproven=tuple(each.text for each in found.unproven),
    )


def share_text(ratio: Proportion) -> str:
    """`3 of 1,000, 0.30 % (95 % interval 0.06 to 0.87 %)`."""
    return (
        f"{ratio.count:,} of {ratio.total:,}, {percent(ratio.ratio)} % "
        f"({100 * ratio.confidence:g} % interval {percent(ratio.low)} to {percent(ratio.high)} %)"
    )


def copies_text(report: Report) -> str:
    """The share of copies with its interval; after a verdict, with the end that it rests on."""
    ratio, row = report.ratios.copies, row_of_copies(report.ratios.copies, report.gate)
    if row.bound == "both":
        return f"{share_text(ratio)}, {report.interval}"
    return (
        f"{ratio.count:,} of {ratio.total:,}, {percent(ratio.ratio)} % ({row.interval} at "
        f"{100 * ratio.confidence:g} % confidence)"
    )
