"""The EMM of several searches side by side, read from their emm.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from memaudit.audit.report.charts import IntervalRow, interval_chart
from memaudit.audit.report.comparison import Comparison
from memaudit.audit.report.comparison_page import write_comparison
from memaudit.audit.report.curve_page import Section, render_curves
from memaudit.audit.report.words import say
from memaudit.errors import DataError
from memaudit.experiments.emm.page import RESULT, SCHEMA, rounded_outwards
from memaudit.files import atomic_write, check_new, read_regular
from memaudit.wording import printable, short

LARGEST_RESULT = 32 << 20
"""Most bytes of an emm.json that are read."""
MOST_IMAGES = 1e15
"""No training set has more."""


EMM_HEADER = tuple(
    say(f"overview.emm_{name}")
    for name in ("search", "estimate", "level", "threshold", "trainings")
)
"""Header of a table of searches."""


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
        ends = [each for each in (self.low, self.high) if each is not None]
        numbers = ends if self.emm is None else [self.emm, *ends]
        can_be = (
            all(0 < each < MOST_IMAGES for each in numbers)
            and len(ends) != 1
            and ends == sorted(ends)
            and 0 < self.epsilon < 1
            and 0 < self.confidence < 1
            and 0 <= self.replicates < MOST_IMAGES
        )
        if self.schema != SCHEMA or not can_be:
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


def emms_dict(found: dict[Path, FoundEMM]) -> list[dict[str, Any]]:
    """The searches in values that strict JSON can hold."""
    return [{"file": str(file), **msgspec.to_builtins(each)} for file, each in found.items()]


def write_overview(
    comparison: Comparison | None, found: dict[Path, FoundEMM], path: Path, *, overwrite: bool
) -> None:
    """Write the page of a comparison, which the searches follow or stand alone in.

    Args:
        comparison: of reports; None without any.
        found: what `find_emms` found; at least one search if there is no report.
        path: of the page.
        overwrite: replace the file if it exists.

    Raises:
        ConfigError: the file exists and must not be overwritten, or its folder does not exist.
    """
    sections = [_section(found)] if found else []
    if comparison is not None:
        write_comparison(comparison, path, further=sections, overwrite=overwrite)
        return
    check_new(path, overwrite=overwrite)
    page = render_curves(
        title=say("overview.emm"),
        lead=say("overview.emm_lead", count=len(found)),
        sections=sections,
        intervals=say("overview.emm_intervals"),
    )
    with atomic_write(path) as file:
        file.write(page.encode())


def emm_rows(found: dict[Path, FoundEMM]) -> list[tuple[str, ...]]:
    """A row of words for each search, under EMM_HEADER."""
    rows: list[tuple[str, ...]] = []
    for file, each in found.items():
        interval = rounded_outwards(each.low, each.high)
        estimate = _estimate(each)
        level = interval if each.low is None else f"{interval} ({100 * each.confidence:g} %)"
        threshold = f"{100 * (1 - each.epsilon):g} %"
        rows.append((_name(file), estimate, level, threshold, f"{each.replicates:,}"))
    return rows


def _name(file: Path) -> str:
    return short(file.parent.name or str(file.parent), 60)


def _estimate(each: FoundEMM) -> str:
    if each.emm is None:
        return say("overview.emm_none", reason=short(each.reason, 200))
    return say("overview.emm_alone", emm=round(each.emm))


def _section(found: dict[Path, FoundEMM]) -> Section:
    """A chart and a table of EMMs with their intervals, rounded outwards."""
    drawn = []
    for file, each in found.items():
        if each.emm is None:
            continue
        text = _estimate(each)
        if each.low is not None and each.high is not None:
            interval = rounded_outwards(each.low, each.high)
            text = say("overview.emm_value", emm=round(each.emm), interval=interval)
        drawn.append(IntervalRow(_name(file), text, each.emm, each.low, each.high))
    return Section(
        title=say("overview.emm"),
        text=(say("overview.emm_text"),),
        chart=None,
        header=EMM_HEADER,
        rows=tuple(emm_rows(found)),
        intervals=interval_chart(say("overview.emm_chart"), drawn, say("overview.emm_axis"))
        if drawn
        else None,
    )
