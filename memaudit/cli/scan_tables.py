"""Print a scan's result: the verdict, the ratios and the pairs closest to being copies."""

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from memaudit.audit.statistics.gate import Decision
from memaudit.audit.statistics.intervals import Proportion, interval_text, level_text
from memaudit.cli.console import out, say
from memaudit.cli.wording import percent
from memaudit.wording import exponential

if TYPE_CHECKING:
    from memaudit.audit.diagnostics.section import Table as ShownTable
    from memaudit.audit.result import ScanResult

WORST_PAIRS = 8
"""Number of closest pairs in the table; the report shows more."""

SHORTEST_AXIS, LONGEST_AXIS = 8, 18
"""Characters of an axis on which intervals are drawn."""
VERDICT_STYLE = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}


def render(result: "ScanResult") -> None:
    """Print what a scan found."""
    _first_screen(result)
    if result.decision is not None:
        _evidence_of_gate(result.decision, is_screened=result.screening is not None)
    is_said = any(reason.kind == "denoising" for reason in result.conclusion.reasons)
    if result.denoising is not None and not is_said:
        trusted = result.denoising.denoises and not result.denoising.noise_range.problem
        say(result.denoising.message, "" if trusted else "bold red")
        if result.denoising.preprocessing.best is not None:
            say(result.denoising.preprocessing.message, "bold red")
    for text in (result.kept_text, result.confirmation_text):
        if text:
            say(text)
    out.print(_shares(result))
    if result.screening is not None:
        say(result.screening.agreement_text)
        out.print(_both_samplers(result))
        say(
            "Leaks and pairs are those of all seeds sampled in full; everything else below is of "
            "the seeds drawn at random."
        )
    if result.ratios.by_rule:
        out.print(_by_rule(result))
    _other_rules(result)
    if result.findings.num_degenerate:
        say(
            f"{result.findings.num_degenerate:,} images equal both of their neighbors, which are "
            "exact duplicates; the paper's rule cannot count them."
        )
    if result.few_searched:
        say(result.few_searched)
    cannot_tell = "; whether they leak, the count cannot tell"
    say(f"{result.leaks_text}{cannot_tell if result.is_explained_by_floor else ''}.")
    _notes_of_controls(result)
    _diagnostic_lines(result)
    out.print(_closest_pairs(result))


def _first_screen(result: "ScanResult") -> None:
    """Print the verdict, what it is about, the evidence, the closest pair and what to do next."""
    from memaudit.audit.report.first_screen import first_screen
    from memaudit.audit.report.words import say as sentence

    first, conclusion = first_screen(result), result.conclusion
    style = VERDICT_STYLE.get(conclusion.verdict or "", "bold")
    if conclusion.is_contradicted:
        style = VERDICT_STYLE["INCONCLUSIVE"]
    say(first.headline, style)
    say(first.about)
    if conclusion.evidence:
        uncounted = "" if conclusion.verdict == "FAIL" else "_uncounted"
        evidence = "; ".join(conclusion.evidence)
        say(sentence(f"first.memorization{uncounted}", evidence=evidence))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for piece in first.evidence:
        table.add_row(piece.value, piece.what.text)
    out.print(table)
    if first.pair is not None:
        say(first.pair.text)
    say(f"{sentence('first.next')}: {first.next_text}", "bold")
    out.rule()
    for text in (
        conclusion.confirmed,
        conclusion.sampler,
        conclusion.recall,
        conclusion.not_tried,
    ):
        if text:
            say(text)
    if conclusion.choices:
        say(f"Not the defaults: {'; '.join(conclusion.choices)}.")


def _evidence_of_gate(decision: Decision, *, is_screened: bool) -> None:
    """Print the evidence on both sides, and how much of it decides."""
    if is_screened:
        say(
            f"At least {decision.count:,} of {decision.total:,} seeds give a copy. Evidence "
            f"(e-value) for more than {percent(decision.fail_limit)} (limit and floor): "
            f"{exponential(decision.evidence_above)}, where "
            f"{exponential(decision.required_above)} fails. A screened scan cannot show that there "
            "are fewer."
        )
        return
    above, below = decision.evidence_above, decision.evidence_below
    if decision.method == "exact":
        alpha = 1 - decision.confidence
        say(
            f"Exact binomial tests of all {decision.total:,} images: p = "
            f"{exponential(-above)} for more than {percent(decision.fail_limit)} (limit and "
            f"floor), p = {exponential(-below)} for less than {percent(decision.limit)}; "
            f"{exponential(-decision.required_above)} or less fails, {alpha:.2g} or less passes."
        )
    else:
        say(
            f"Sampling stopped at {decision.total:,} images. Evidence (e-values) for less than "
            f"{percent(decision.limit)}: {exponential(below)}, where "
            f"{exponential(decision.required)} passes; for more than "
            f"{percent(decision.fail_limit)} (limit and floor): {exponential(above)}, where "
            f"{exponential(decision.required_above)} fails."
        )
    test = decision.whole_images
    if test is not None:
        is_exact = decision.method == "exact"
        value = exponential(-test.evidence_above if is_exact else test.evidence_above)
        say(
            f"Whole images by themselves: {test.count:,} copies, {'p = ' if is_exact else ''}"
            f"{value} for more than {percent(test.fail_limit)} (limit and floor), which fails at "
            "the same value."
        )


def _shares(result: "ScanResult") -> Table:
    """Share of copies, floor and excess on one axis, with the limit."""
    from memaudit.audit.report.charts import share_rows

    rows, end = share_rows(result)
    limit = result.config.fail_above
    level = level_text(result.ratios.copies.confidence)
    cells = [("share", "images", "", f"{level} interval")]
    cells += [
        (
            row.label,
            "" if row.total is None else f"{row.total:,}",
            percent(row.value),
            row.interval,
        )
        for row in rows
    ]
    # The axis takes what the numbers leave of the line: each gap takes 3, and each end 1.
    taken = (
        sum(max(map(len, column)) for column in zip(*cells, strict=True)) + 3 * len(cells[0]) + 2
    )
    width = max(SHORTEST_AXIS, min(LONGEST_AXIS, out.width - taken))
    axis = f"0-{percent(end)}" + ("" if limit is None else ", ! limit")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in cells[0][:3]:
        table.add_column(name, justify="left" if name == "share" else "right", no_wrap=True)
    table.add_column(axis, min_width=width, max_width=width)
    table.add_column(cells[0][3], justify="right", no_wrap=True)
    for row, (*before, interval) in zip(rows, cells[1:], strict=True):
        drawn = draw_interval(row.value, row.low, row.high, end=end, mark=limit, width=width)
        table.add_row(*before, drawn, interval)
    return table


def _both_samplers(result: "ScanResult") -> Table:
    """The seeds nearest to being copies by either sampler, judged by both."""
    import numpy as np

    rows, matches, rule = result.screened, result.matches, result.config.rule
    assert rows is not None
    table = Table(
        title="Both samplers (in a report, screening.csv has all)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("seed")
    for name in ("screened d1/d2", "in full d1/d2"):
        table.add_column(name, justify="right")
    for name in ("same nearest", "drawn", "copy"):
        table.add_column(name)
    lower = np.minimum(rows.distance_ratio, matches.distance_ratio)
    screened, full = rows.is_copy(rule), matches.is_copy
    # Where they disagree first: the rest are the closest pairs, which are shown below anyway.
    for row in np.lexsort([lower, screened == full])[:WORST_PAIRS]:
        table.add_row(
            str(result.keys[row]),
            f"{rows.distance_ratio[row]:.3f}",
            f"{matches.distance_ratio[row]:.3f}",
            "yes" if rows.nn1[row] == matches.nn1[row] else "no",
            "yes" if rows.is_drawn[row] else "no",
            {(True, True): "both", (True, False): "screened only", (False, True): "yes"}.get(
                (bool(screened[row]), bool(full[row])), "no"
            ),
        )
    return table


def draw_interval(
    value: float,
    low: float,
    high: float,
    *,
    end: float,
    mark: float | None,
    width: int = LONGEST_AXIS,
) -> str:
    """Draw an interval on an axis from 0 to `end` as `  |--o----|    !`, `!` at the mark."""

    def column(share: float) -> int:
        return round(min(max(share / end, 0), 1) * (width - 1)) if end else 0

    line = [" "] * width
    first, last = column(low), column(high)
    line[first : last + 1] = "-" * (last + 1 - first)
    line[first] = line[last] = "|"
    if mark is not None:
        line[column(mark)] = "!"
    line[column(value)] = "o"
    return "".join(line)


def _notes_of_controls(result: "ScanResult") -> None:
    """Print what a reader must know about the floor."""
    for note in result.controls.notes(result.config.rule.duplicate_rms):
        say(note)


def _diagnostic_lines(result: "ScanResult") -> None:
    """Print the lines of the diagnostics, in order."""
    for _, diagnostic, found in result.diagnostics.results():
        for line in diagnostic.lines(found):
            if isinstance(line, str):
                say(line)
            else:
                out.print(_table(line))
    if result.left_out:
        say(f"Left out on request: {result.left_out}.")


def _table(shown: "ShownTable") -> Table:
    """Make a terminal table of a diagnostic's table."""
    table = Table(
        title=shown.title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for name in shown.columns:
        table.add_column(name, justify="right")
    for row in shown.rows:
        table.add_row(row.label, *row.cells)
    return table


def _by_rule(result: "ScanResult") -> Table:
    """What each rule counts, where several do, and what it counts of each control."""
    controls = result.controls
    floors = [each for each in (controls.holdout, controls.leave_one_out) if each is not None]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("copies by", no_wrap=True)
    for name in ("images", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    level = level_text(result.ratios.copies.confidence)
    table.add_column(f"{level} interval", justify="right", no_wrap=True)
    table.add_column("by no other", justify="right")
    for floor in floors:
        table.add_column(f"floor, {floor.control}", justify="right", overflow="fold")
    for place, row in enumerate(result.ratios.by_rule):
        table.add_row(
            row.rule,
            f"{row.copies.count:,}",
            percent(row.copies.ratio),
            _short_interval(row.copies),
            f"{row.num_alone:,}",
            *(f"{each.by_rule[place].count:,} / {each.copies.total:,}" for each in floors),
        )
    any_of = result.ratios.copies
    table.add_row(
        "any",
        f"{any_of.count:,}",
        percent(any_of.ratio),
        _short_interval(any_of),
        "",
        *(f"{each.copies.count:,} / {each.copies.total:,}" for each in floors),
    )
    return table


def _short_interval(share: Proportion) -> str:
    """Both ends with one unit, for a table that has to fit in 80 columns."""
    return f"{percent(share.low).removesuffix(' %')} to {percent(share.high)}"


def _other_rules(result: "ScanResult") -> None:
    """Print the ratios by the other rules, in a line where they are the same."""
    ratios = result.ratios
    counts = {ratio.count for ratio in (ratios.distinct, ratios.distinct_at_0, ratios.paper)}
    if counts == {ratios.copies.count}:
        say(
            "The distance ratio alone, with and without near-duplicates, and the paper's rule "
            "count the same."
        )
    else:
        out.print(_ratios(result))


def _ratios(result: "ScanResult") -> Table:
    headline = result.ratios.copies
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rule")
    table.add_column("memorized", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column(f"{level_text(headline.confidence)} interval", justify="right")
    for ratio, rule in (
        (headline, "copies"),
        (
            result.ratios.distinct,
            f"distinct (duplicates: {result.config.rule.duplicate_rms:g} levels)",
        ),
        (result.ratios.distinct_at_0, "distinct (exact duplicates)"),
        (result.ratios.paper, "paper"),
    ):
        table.add_row(
            rule, f"{ratio.count:,} / {ratio.total:,}", percent(ratio.ratio), interval_text(ratio)
        )
    return table


def _closest_pairs(result: "ScanResult") -> Table:
    """The closest pair of each training image."""
    from memaudit.audit.report.pairs import rows_to_show

    matches, data = result.matches, result.data
    table = Table(title="Closest pairs", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("seed" if result.source.kind == "checkpoint" else "image")
    table.add_column("nearest training image", overflow="fold")
    table.add_column("RMS distance" if result.space.exact else "distance", justify="right")
    table.add_column("d1/d2", justify="right")
    table.add_column("copy")
    for row in rows_to_show(matches)[0][:WORST_PAIRS].tolist():
        table.add_row(
            str(result.keys[row]),
            data.names[matches.nn1[row]],
            f"{result.space.distance(matches.squared_distance1[row]):.2f}",
            f"{matches.distance_ratio[row]:.3f}",
            _copied_by(result, int(row)),
        )
    return table


def _copied_by(result: "ScanResult", row: int) -> str:
    """Whether an image is a copy, and by which further rules."""
    matches = result.matches
    if not matches.is_copy[row]:
        return "no"
    rules = [name for name, hits in matches.by_rule.items() if hits[row]]
    if len(rules) > 1 and len(rules) == len(matches.by_rule):
        return "by every rule"
    return ", ".join(rules) if rules else "yes"
