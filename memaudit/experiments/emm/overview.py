"""The EMM of several searches side by side, read from their emm.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from memaudit.audit.report.charts import IntervalRow, interval_chart
from memaudit.audit.report.curve_page import Section
from memaudit.audit.report.words import say
from memaudit.errors import DataError
from memaudit.experiments.emm.page import RESULT, SCHEMA, rounded_outwards
from memaudit.files import read_regular
from memaudit.wording import printable, short

LARGEST_RESULT = 32 << 20
"""Most bytes of an emm.json that are read."""
MOST_IMAGES = 1e15
"""No training set has more."""


@dataclass(frozen=True)
class FoundEMM:
    """What a search found, of what its emm.json holds."""

    schema: str
    epsilon: float
    emm: float | None
    replicates: int
    low: float | None
    high: float | None
    confidence: float
    reason: str

    def __post_init__(self) -> None:
        numbers = [each for each in (self.emm, self.low, self.high) if each is not None]
        if self.schema != SCHEMA or any(not 0 < each < MOST_IMAGES for each in numbers):
            raise ValueError(f"it is not of {SCHEMA}, or holds a number that cannot be")


def find_emms(paths: Sequence[Path]) -> dict[Path, FoundEMM]:
    """The results of searches in folders at any depth, by their files.

    Raises:
        DataError: one cannot be read.
    """
    files = {file.resolve(): file for path in paths if path.is_dir() for file in path.rglob(RESULT)}
    return {file: _read(file) for file in sorted(files.values())}


def _read(file: Path) -> FoundEMM:
    try:
        return msgspec.json.decode(read_regular(file, LARGEST_RESULT), type=FoundEMM)
    except (OSError, ValueError, RecursionError) as error:
        reason = short(printable(str(error)), 300)
        raise DataError(
            f"{file} is not a readable {RESULT}: {reason}. Run `memaudit emm` again, or leave it "
            "out."
        ) from error


def emm_section(found: dict[Path, FoundEMM]) -> Section | None:
    """A chart and a table of EMMs with their intervals, rounded outwards; None without any."""
    if not found:
        return None
    rows, drawn = [], []
    for file, each in found.items():
        name = short(file.parent.name or str(file.parent), 60)
        interval = rounded_outwards(each.low, each.high)
        if each.emm is None:
            estimate = say("overview.emm_none", reason=short(each.reason, 200))
        else:
            emm = round(each.emm)
            estimate = f"{emm:,}"
            text = say("overview.emm_value", emm=emm, interval=interval)
            if each.low is None or each.high is None:
                text = say("overview.emm_alone", emm=emm)
            drawn.append(IntervalRow(name, text, each.emm, each.low, each.high))
        level = f"{interval} ({100 * each.confidence:g} %)" if each.low is not None else interval
        threshold = f"{100 * (1 - each.epsilon):g} %"
        rows.append((name, estimate, level, threshold, f"{each.replicates:,}"))
    names = ("search", "estimate", "level", "threshold", "trainings")
    return Section(
        title=say("overview.emm"),
        text=(say("overview.emm_text"),),
        chart=None,
        header=tuple(say(f"overview.emm_{name}") for name in names),
        rows=tuple(rows),
        intervals=interval_chart(say("overview.emm_chart"), drawn, say("overview.emm_axis"))
        if drawn
        else None,
    )
