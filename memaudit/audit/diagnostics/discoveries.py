"""Which generated images are copies, at a stated rate of false discoveries?

An image's distance ratio is ranked among those of held-out images, which are not copies. This needs
no threshold. docs/statistics.md says how to read it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from memaudit.audit.diagnostics.diagnostic import Context, Diagnostic, PageContext
from memaudit.audit.diagnostics.section import Block, Row, measures
from memaudit.audit.statistics.intervals import level_text


@dataclass(frozen=True)
class Discoveries:
    """How many generated images stand out among held-out ones."""

    count: int
    """Images whose q-value is at most the rate."""
    total: int
    """All generated images."""
    rate: float
    """The false-discovery rate: of the images that stand out, on average at most this share does so
    by chance."""
    num_holdout: int
    """m, held-out images that they were compared with; no p-value is below 1/(m + 1)."""

    @property
    def least_count(self) -> int:
        """The smallest count above 0 that so many held-out images can show."""
        return math.ceil(self.total / (self.rate * (self.num_holdout + 1)))


def _run(context: Context) -> Discoveries:
    found, rule = context.given_conformal, context.matches.rule
    rate = 1 - rule.confidence
    return Discoveries(
        count=int((found.q_value <= rate).sum()),
        total=len(context.matches),
        rate=rate,
        num_holdout=found.num_references,
    )


def _section(result: Discoveries, page: PageContext) -> Iterator[Block]:
    note = (
        "images whose distance ratio is small among those of held-out images; of these, at most "
        f"{level_text(result.rate)} on average are no copies. With {result.num_holdout:,} held-out "
        f"images, fewer than {result.least_count:,} cannot be told from chance"
    )
    yield measures(
        1 - result.rate,
        Row(
            f"Copies at a false-discovery rate of {level_text(result.rate)}",
            (f"{result.count:,} of {result.total:,}", "–"),
            note=note,
        ),
    )


def _lines(result: Discoveries) -> Iterator[str]:
    text = (
        f"At a false-discovery rate of {level_text(result.rate)}, {result.count:,} of "
        f"{result.total:,} generated images stand out among {result.num_holdout:,} held-out ones"
    )
    if not result.count and result.least_count > 1:
        text += f" (fewer than {result.least_count:,} cannot be told from chance)"
    yield f"{text}."


DIAGNOSTIC = Diagnostic(
    title="Controls",
    requires=frozenset({"conformal"}),
    run=_run,
    section=_section,
    lines=_lines,
)
