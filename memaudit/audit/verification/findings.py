"""What follows from the matches: ratios, intervals, verdict, leaks, computed again."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memaudit.audit.config import ScanConfig
from memaudit.audit.diagnostics.diagnostic import Context
from memaudit.audit.diagnostics.registry import recompute
from memaudit.audit.memorization.findings import Findings, Gate, summarize_matches
from memaudit.audit.memorization.matches import Leak, Matches
from memaudit.audit.memorization.rule import Rule
from memaudit.audit.memorization.screened import ScreenedRows, Screening, summarize_screening
from memaudit.audit.report.folder import LEAKS, MATCHES, SCREENING, encoded
from memaudit.audit.report.schema import Report, plain
from memaudit.audit.report.tables import (
    LeakNames,
    MatchTable,
    leaks_csv,
    matches_csv,
    read_leaks,
    read_matches,
    screening_csv,
)
from memaudit.audit.unchosen_seeds import are_consecutive
from memaudit.audit.verdict import Conclusion, conclude
from memaudit.audit.verification.check import Check, check
from memaudit.audit.verification.files import ReportFiles


@dataclass(frozen=True)
class Recomputed:
    """What a report's tables hold, and what follows from them."""

    table: MatchTable
    known: LeakNames
    """Names, duplicates and captions in leaks.csv, which do not follow from the matches."""
    context: Context
    """What diagnostics are computed from: of a screened scan, the seeds drawn at random."""
    screened: ScreenedRows | None = None
    """What screening said of the rows, or None where every seed was sampled in full."""
    screening: Screening | None = None
    """What follows from that."""


class _Names(dict[int, str]):
    """The names in leaks.csv."""

    def __missing__(self, index: int) -> str:
        raise ValueError(f"leaks.csv lacks the training image {index}, of which there are copies")


def read_tables(files: ReportFiles, report: Report) -> tuple[MatchTable, LeakNames]:
    """Read both tables.

    Raises:
        ValueError: they have another form. Whatever else a forged table may cause is the caller's
            to catch.
    """
    rule = Rule(report.threshold_fraction, report.duplicate_rms, report.confidence)
    discoveries = report.diagnostics.discoveries
    num_holdout = 0 if discoveries is None else discoveries.num_holdout
    table = read_matches(
        files.text(MATCHES),
        rule,
        report.space,
        match=report.search.match,
        num_holdout=num_holdout,
    )
    if not len(table.matches):
        raise ValueError("matches.csv has no rows")
    return table, read_leaks(files.text(LEAKS))


def seeds_of(table: MatchTable) -> tuple[int, ...]:
    """The seeds of a model's images, at least one.

    Raises:
        ValueError: the images have names.
    """
    seeds = tuple(key for key in table.keys if isinstance(key, int))
    if not seeds:
        raise ValueError("matches.csv has no seeds")
    return seeds


def recompute_findings(
    table: MatchTable,
    known: LeakNames,
    report: Report,
    screened: ScreenedRows | None = None,
    config: ScanConfig | None = None,
) -> Recomputed:
    """What follows from the tables, given the controls that the report states.

    Args:
        table: matches.csv.
        known: what leaks.csv adds.
        report: may be hostile.
        screened: what screening.csv holds, of a screened scan.
        config: its settings.
    """
    screening = None
    if screened is not None:
        assert config is not None and config.screening is not None and report.screening is not None
        screening = summarize_screening(
            screened, table.matches, config.seeds, config.screening, report.screening.key
        )
    gate = None
    if report.fail_above is not None:
        gate = Gate(
            report.fail_above,
            sequential=report.source.kind == "checkpoint" and report.fail_above_groups is None,
            floor=report.controls.in_gate,
            whole_images=report.controls.whole_images_in_gate,
        )
    findings = summarize_matches(
        table.matches,
        _Names(known.names),
        gate=gate,
        floors=report.controls.floor,
        alone=report.controls.leave_one_out,
        screened=screened,
        num_screened=0 if screening is None else screening.num_seeds,
        groups=None if report.data.num_groups is None else _Names(known.groups or {}),
    )
    rows = slice(None) if screened is None else np.flatnonzero(screened.is_drawn)
    context = Context(
        matches=table.matches[rows],
        findings=findings,
        class_index=None if table.class_index is None else table.class_index[rows],
        num_train=report.data.num_images,
        fail_above=report.fail_above,
        conformal=table.conformal,
        num_groups=report.data.num_groups,
        group_kind=report.data.group_kind,
        fail_above_groups=report.fail_above_groups,
    )
    return Recomputed(table, known, context, screened, screening)


def check_findings(
    again: Recomputed, files: ReportFiles, report: Report, config: ScanConfig
) -> Iterator[Check]:
    """Compare ratios, intervals, verdict and leaks with those computed from the saved matches."""
    table, findings = again.table, again.context.findings
    conclusion = conclude(
        findings,
        controls=report.controls,
        diagnostics=report.diagnostics,
        denoising=report.denoising,
        source=report.source,
        num_train=report.data.num_images,
        rule=table.matches.rule,
        flips=report.search.flips,
        exact=report.space.exact,
        match=report.search.match,
        fail_on=report.fail_on,
        seeds_chosen=report.source.kind == "checkpoint"
        and not are_consecutive(seeds_of(table) if again.screening is None else config.seeds),
        screening=again.screening,
        confirmation=None if report.sampling is None else report.sampling.confirmation,
        sampler_control=report.sampler_control,
        class_index=None if report.sampling is None else report.sampling.class_index,
        choices=report.conclusion.choices,
    )
    recomputed = _recomputed(findings, conclusion, again.context, without=report.without)
    recomputed["screening"] = plain(again.screening)
    stated = _stated(report)
    differing = [key for key, value in recomputed.items() if not same(stated.get(key), value)]
    yield check(
        "ratios and verdict", not differing, f"the matches give another {', '.join(differing)}"
    )
    if table.groups is not None:
        yield check("groups", *_same_groups(table.matches, table.groups, findings.leaks))
    if table.conformal is not None and report.diagnostics.discoveries is not None:
        yield check(
            "p-values",
            table.conformal.is_consistent_with(table.matches.distance_ratio),
            "cannot be those of the distance ratios",
        )
    known = again.known
    leaks = leaks_csv(
        findings.leaks,
        table.keys,
        report.space,
        known.duplicates,
        known.captions,
        with_rules=bool(table.matches.finds),
    )
    texts = [(MATCHES, matches_csv(table)), (LEAKS, leaks)]
    if again.screened is not None and report.screening is not None:
        below = report.screening.below
        of_both = screening_csv(table.keys, again.screened, table.matches, below)
        texts.append((SCREENING, of_both))
    for name, text in texts:
        yield check(
            f"columns of {name}",
            encoded(text) == files.contents[name],
            "are not those that its own distances give",
        )


def _same_groups(matches: Matches, groups: np.ndarray, leaks: Sequence[Leak]) -> tuple[bool, str]:
    """Whether the names of groups in leaks.csv stand for the numbers in matches.csv, one each.

    The table does not say the number of an image that only a further rule names.
    """
    index = np.concatenate([matches.nn1, matches.nn2_distinct])
    number_of = dict(zip(index.tolist(), groups.T.ravel().tolist(), strict=True))
    pairs = {(number_of[leak.index], leak.group) for leak in leaks if leak.index in number_of}
    one_each = (
        len(pairs) == len({number for number, _ in pairs}) == len({name for _, name in pairs})
    )
    return one_each, "the names in leaks.csv are not those of the numbers in matches.csv, one each"


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


def same(stated: Any, recomputed: Any, *, rounding: float = 1e-9) -> bool:
    """Whether JSON values are equal; floats may differ as versions of scipy round differently."""
    if isinstance(recomputed, dict):
        return (
            isinstance(stated, dict)
            and stated.keys() == recomputed.keys()
            and all(
                same(stated[key], value, rounding=rounding) for key, value in recomputed.items()
            )
        )
    if isinstance(recomputed, list):
        return (
            isinstance(stated, list)
            and len(stated) == len(recomputed)
            and all(same(*pair, rounding=rounding) for pair in zip(stated, recomputed, strict=True))
        )
    if isinstance(recomputed, float) and isinstance(stated, int | float):
        return math.isclose(stated, recomputed, rel_tol=rounding, abs_tol=1e-12)
    return bool(stated == recomputed)
