"""Do the images leak that stood out before training, shown often or far from all others?

`memaudit dataset risk` orders a training set so without any model. Here the order is compared with
the leaks that a scan found. docs/statistics.md says how to read it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import Block, Paragraph, Row, measures, share_row
from memaudit.audit.neighbors.exposure import Exposure, rank_exposure
from memaudit.audit.statistics.auc import delong
from memaudit.audit.statistics.intervals import (
    Estimate,
    Proportion,
    clopper_pearson,
    interval_text,
)
from memaudit.audit.statistics.rank_correlation import RankCorrelation, rank_correlation
from memaudit.wording import p_text, percent

FIRST_SHARE = 0.1
"""Share of the order whose leaks are compared with those of the rest."""

SEES_ISOLATED = (
    "The rule itself sees noisy copies of isolated images more easily, so this alone does not show "
    "that they are copied more often."
)


@dataclass(frozen=True)
class ExposureCheck:
    """The order of `memaudit dataset risk` against the leaks of a scan; duplicates count once."""

    num_kinds: int
    """Training images, duplicates taken together."""
    num_leaked: int
    """Those of them that leaked."""
    correlation: RankCorrelation
    """Between the order and the number of copies of each."""
    auc: Estimate | None
    """Chance that one that leaked stands before one that did not, with DeLong's interval; None with
    fewer than two of either."""
    first: Proportion
    """Leaks among the first tenth of the order."""
    rest: Proportion
    """Leaks among the rest."""


def compare_with_leaks(
    exposure: Exposure, leaks: np.ndarray, confidence: float = 0.95
) -> ExposureCheck | None:
    """Compare an order with what leaked.

    Args:
        exposure: the order of the training images.
        leaks: copies found of each kind, in that order, int64 [K].
        confidence: of the intervals.

    Returns:
        None where nothing leaked, or everything equally often.
    """
    K = len(exposure)
    # Kinds that are shown equally often and lie equally far from others stand equally.
    standing = -_ties(exposure).astype(np.float64)
    correlation = rank_correlation(standing, leaks)
    if correlation is None:
        return None
    leaked = leaks > 0
    num_first = max(1, round(FIRST_SHARE * K))
    enough = 2 <= leaked.sum() <= K - 2
    return ExposureCheck(
        num_kinds=K,
        num_leaked=int(leaked.sum()),
        correlation=correlation,
        auc=delong(standing[leaked], standing[~leaked], confidence) if enough else None,
        first=clopper_pearson(int(leaked[:num_first].sum()), num_first, confidence),
        rest=clopper_pearson(int(leaked[num_first:].sum()), K - num_first, confidence),
    )


def _ties(exposure: Exposure) -> np.ndarray:
    """Place of each kind in the order, the same for those that the order does not tell apart."""
    change = (np.diff(exposure.times_shown) != 0) | (
        exposure.isolation[1:] != exposure.isolation[:-1]
    )
    return np.concatenate([[0], np.cumsum(change)])


def _run(context: Context) -> ExposureCheck | None:
    setting, index = context.setting, context.given_images.index
    rule = setting.config.rule
    hits = {leak.index: leak.hits for leak in context.findings.leaks}
    if not hits:
        return None
    exposure = rank_exposure(
        setting.data,
        duplicate_rms=rule.duplicate_rms,
        flips=index.flips,
        device=index.device,
        progress=setting.progress,
    )
    return compare_with_leaks(exposure, exposure.leaks_of(hits), rule.confidence)


def _section(result: ExposureCheck, page: PageContext) -> Iterator[Block]:
    yield Paragraph(
        "Before any training, images can be ordered by how often a training shows them and, among "
        "equals, by how far they are from all others (memaudit dataset risk). Here the order is "
        f"compared with the leaks found: {result.num_leaked:,} of {result.num_kinds:,} images, "
        "duplicates taken together. Where it holds, the images at its top are those to take out "
        "or to train on less often. The rule itself sees copies of isolated images a little more "
        "easily."
    )
    rows = [
        Row(
            "Rank correlation of order and copies",
            (f"{result.correlation.rho:.3f}", "–"),
            note=f"Spearman; {p_text(result.correlation.p_value)} if they had nothing to do with "
            "each other",
            is_headline=True,
        ),
        share_row("Leaked among the first tenth of the order", result.first),
        share_row("Leaked among the rest", result.rest),
    ]
    if result.auc is not None:
        auc = result.auc
        rows.insert(
            1,
            Row(
                "AUC",
                (f"{auc.value:.3f}", f"{auc.low:.3f} to {auc.high:.3f}"),
                note="chance that an image that leaked stands before one that did not; 0.5 for an "
                "order by chance",
            ),
        )
    yield measures(result.first.confidence, *rows)
    yield Paragraph(SEES_ISOLATED, is_small=True)


def _lines(result: ExposureCheck) -> Iterator[str]:
    yield (
        f"Exposure: the order of memaudit dataset risk and the copies found have a rank "
        f"correlation of {result.correlation.rho:.2f} ({p_text(result.correlation.p_value)}); "
        f"{percent(result.first.ratio)} % of its first tenth leaked "
        f"({interval_text(result.first)}) and {percent(result.rest.ratio)} % of the rest "
        f"({interval_text(result.rest)}). {SEES_ISOLATED}"
    )


DIAGNOSTIC = Diagnostic(
    title="Training images that leak",
    requires=frozenset({"training"}),
    run=_run,
    section=_section,
    lines=_lines,
    by_request=True,
)
