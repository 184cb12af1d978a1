"""Read from the report of a scan which training images were copied, for a check of some of them."""

import hashlib
from pathlib import Path

from memaudit.audit.image_check.earlier_scan import EarlierScan
from memaudit.audit.report.folder import LEAKS
from memaudit.audit.report.schema import read_report
from memaudit.audit.report.tables import read_leak_keys
from memaudit.errors import DataError
from memaudit.files import read_regular

LARGEST_LEAKS = 1 << 30
"""Most bytes of leaks.csv."""


def read_earlier_scan(folder: str | Path) -> EarlierScan:
    """Read the copies that a scan found, from the folder of its report.

    Args:
        folder: where `write_report` wrote.

    Raises:
        DataError: report.json or leaks.csv cannot be read, or was changed after it was written.
    """
    report, path = read_report(folder), Path(folder) / LEAKS
    try:
        content = read_regular(path, LARGEST_LEAKS)
        stated = {file.name: file.sha256 for file in report.files}
        if hashlib.sha256(content).hexdigest() != stated.get(LEAKS):
            raise DataError(
                f"{path} was changed after it was written. See `memaudit verify {folder}`, and "
                "leave it out."
            )
        keys = read_leak_keys(content.decode("utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DataError(f"{path} is not the table of a scan: {error}.") from error
    screening = report.screening
    return EarlierScan(
        path=str(folder),
        source_sha256=report.source.sha256,
        data_fingerprint=report.data.fingerprint,
        num_images=report.ratios.copies.total if screening is None else screening.num_sampled,
        keys=keys,
    )
