"""Print a scan's result: the verdict, the ratios and the pairs closest to being copies."""

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from memaudit.audit.report.ci import next_step
from memaudit.audit.statistics.gate import Decision, fixed_sample_size
from memaudit.audit.statistics.intervals import describe, interval_text
from memaudit.cli.console import out
from memaudit.cli.wording import percent, printable
from memaudit.wording import exponential

if TYPE_CHECKING:
    from memaudit.audit.diagnostics.section import Table as ShownTable
    from memaudit.audit.result import ScanResult

WORST_PAIRS = 8
"""Number of closest pairs in the table; the report shows more."""

VERDICT_STYLE = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}


def render(result: "ScanResult") -> None:
    """Print what a scan found."""
    headline = result.ratios.distinct
    if result.decision is not None:
        print_verdict(result.decision)
    if result.denoising is not None:
        trusted = result.denoising.denoises and not result.denoising.noise_range.problem
        _say(Text(result.denoising.message, "" if trusted else "bold red"))
        if result.denoising.preprocessing.best is not None:
            _say(Text(result.denoising.preprocessing.message, "bold red"))
    _say(
        Text.assemble(
            (f"{headline.count:,} of {headline.total:,}", "bold red" if headline.count else "bold"),
            f" generated images copy a training image: {describe(headline)}",
        )
    )
    if result.num_kept:
        _say(f"{result.num_kept:,} images were kept from an earlier run.")
    out.print(_ratios(result))
    if result.findings.num_degenerate:
        _say(
            f"{result.findings.num_degenerate:,} images equal both of their neighbors, which are "
            "exact duplicates; the paper's rule cannot count them."
        )
    _say(f"{len(result.leaks):,} of {len(result.data):,} training images leak.")
    if result.few_searched:
        _say(result.few_searched)
    _diagnostic_lines(result)
    out.print(_closest_pairs(result))


def print_verdict(decision: Decision) -> None:
    """Print the verdict, its evidence, and what a fixed-size test would have needed."""
    limit, level = percent(decision.limit), f"{100 * decision.confidence:g} %"
    _say(
        Text.assemble(
            (decision.verdict, VERDICT_STYLE[decision.verdict]),
            {
                "PASS": f": at most {limit} of the images are copies, at {level} confidence.",
                "FAIL": f": more than {limit} of the images are copies, at {level} confidence.",
                "INCONCLUSIVE": f": {decision.total:,} images do not decide whether more than "
                f"{limit} are copies, at {level} confidence.",
            }[decision.verdict],
        )
    )
    above, below = decision.evidence_above, decision.evidence_below
    needed = fixed_sample_size(decision.limit, decision.confidence)
    if decision.method == "exact":
        _say(
            f"Exact binomial tests of all {decision.total:,} images given. If the limit were kept, "
            f"the chance of this many copies or more would be {exponential(-above)}; if it were "
            f"exceeded, the chance of this many or fewer would be {exponential(-below)}. "
            f"A chance of {1 - decision.confidence:.2g} or less decides."
        )
    else:
        stopped = (
            "all samples are used up"
            if decision.verdict == "INCONCLUSIVE"
            else "the evidence was enough"
        )
        _say(
            f"Sampling stopped at {decision.total:,} because {stopped}: "
            f"e-value {exponential(above)} for more, {exponential(below)} for less; "
            f"{exponential(decision.required)} is needed."
        )
    _say(f"A fixed-size test would need {needed:,} images without a single copy to pass.")
    if decision.verdict == "INCONCLUSIVE":
        more = " Give more --samples." if decision.method == "sequential" else ""
        _say(next_step(decision) + more)
    elif decision.method == "sequential":
        _say(
            "The verdict comes from a one-sided test, which is sharper than the two-sided interval "
            "below; both are valid although sampling stopped early."
        )


def _diagnostic_lines(result: "ScanResult") -> None:
    """Print the lines of the diagnostics, in order."""
    for _, diagnostic, found in result.diagnostics.results():
        for line in diagnostic.lines(found):
            if isinstance(line, str):
                _say(line)
            else:
                out.print(_table(line))
    if result.left_out:
        _say(f"Left out on request: {result.left_out}.")


def _table(shown: "ShownTable") -> Table:
    """Make a terminal table of a diagnostic's table."""
    table = Table(
        title=shown.title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for name in shown.columns:
        table.add_column(name, justify="right")
    for row in shown.rows:
        table.add_row(printable(row.label), *map(printable, row.cells))
    return table


def _say(text: str | Text) -> None:
    out.print(text, soft_wrap=True)


def _ratios(result: "ScanResult") -> Table:
    headline = result.ratios.distinct
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rule")
    table.add_column("memorized", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column(f"{100 * headline.confidence:g} % interval", justify="right")
    for ratio, rule in (
        (headline, f"distinct (duplicates: {result.config.rule.duplicate_rms:g} levels)"),
        (result.ratios.distinct_at_0, "distinct (exact duplicates)"),
        (result.ratios.paper, "paper"),
    ):
        table.add_row(
            rule, f"{ratio.count:,} / {ratio.total:,}", percent(ratio.ratio), interval_text(ratio)
        )
    return table


def _closest_pairs(result: "ScanResult") -> Table:
    matches, data = result.matches, result.data
    table = Table(title="Closest pairs", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("seed" if result.source.kind == "checkpoint" else "image")
    table.add_column("nearest training image", overflow="fold")
    table.add_column("RMS distance" if result.space.exact else "distance", justify="right")
    table.add_column("d1/d2", justify="right")
    table.add_column("copy")
    for row in matches.distance_ratio.argsort(kind="stable")[:WORST_PAIRS]:
        table.add_row(
            printable(str(result.keys[row])),
            printable(data.names[matches.nn1[row]]),
            f"{result.space.distance(matches.squared_distance1[row]):.2f}",
            f"{matches.distance_ratio[row]:.3f}",
            "yes" if matches.memorized_distinct[row] else "no",
        )
    return table
