"""A scan's result in the terminal: the verdict, the ratios, the pairs closest to being copies."""

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from memaudit.audit.statistics.gate import Decision, fixed_sample_size
from memaudit.cli.console import out
from memaudit.cli.wording import describe, interval, percent, printable
from memaudit.wording import exponential

if TYPE_CHECKING:
    from memaudit.audit.diagnostics.holdout import HoldoutControl
    from memaudit.audit.diagnostics.noise_and_return import ReturnTest
    from memaudit.audit.scan import ScanResult

WORST_PAIRS = 8
"""Rows of the table of closest pairs; the report has more."""

VERDICT_STYLE = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}


def render(result: "ScanResult") -> None:
    """Print what a scan found."""
    headline = result.ratios["distinct"]
    if result.decision is not None:
        print_verdict(result.decision)
    _say(
        Text.assemble(
            (f"{headline.count:,} of {headline.total:,}", "bold red" if headline.count else "bold"),
            f" generated images copy a training image: {describe(headline)}",
        )
    )
    out.print(_ratios(result))
    if result.findings.num_degenerate:
        _say(
            f"{result.findings.num_degenerate:,} images equal both their neighbors, exactly "
            "duplicated training images: the paper's rule cannot count them."
        )
    _say(_leaks(result))
    if result.holdout is not None:
        _say(_control(result.holdout))
    if result.optimality is not None:
        same = result.optimality.agreement
        _say(
            "From the same noise, model and closed-form optimum end at the same training image for "
            f"{same.count} of {same.total} seeds: {describe(same)}"
        )
    if result.return_test is not None:
        out.print(_returns(result.return_test))
        _say(_attractors(result))
    if result.membership is not None:
        members = result.membership
        _say(
            f"Membership: at {percent(members.max_fpr)} false positives the loss gives away "
            f"{describe(members.tpr)} of the training images (AUC {members.auc:.3f})."
        )
    out.print(_closest_pairs(result))


def print_verdict(decision: Decision) -> None:
    """The verdict, why it is one, and what a test of fixed size would have needed."""
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
            f"Exact binomial tests of all {decision.total:,} images given. Were the limit kept, so "
            f"many copies would have a chance of {exponential(-above)}; were it exceeded, so few a "
            f"chance of {exponential(-below)}. {1 - decision.confidence:.2g} or less decides."
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
    _say(
        f"A test whose number of images is fixed before passes with {needed:,} images and not a "
        "single copy."
    )
    if decision.verdict == "INCONCLUSIVE":
        more = "--samples" if decision.method == "sequential" else "images"
        _say(f"The ratio is near the limit, or the images are too few: give more {more}.")
    elif decision.method == "sequential":
        _say(
            "The verdict is that of a test to one side, which is sharper than the two-sided "
            "interval below; both are valid although sampling stopped early."
        )


def _leaks(result: "ScanResult") -> str:
    """How many training images leak, and how many more would."""
    text = f"{len(result.leaks):,} of {len(result.data):,} training images leak"
    chao1 = result.findings.richness.chao1
    if chao1 is None or chao1.high < len(result.leaks) + 0.5:
        return f"{text}."
    if round(chao1.value) <= len(result.leaks):
        return f"{text}; with more samples perhaps more would, up to {chao1.high:,.0f} (Chao1)."
    return (
        f"{text}; with more samples at least about {chao1.value:,.0f} would "
        f"({chao1.low:,.0f} to {chao1.high:,.0f}, Chao1)."
    )


def _control(control: "HoldoutControl") -> str:
    """The floor, the excess over it, and C_T."""
    floor, excess, copying = control.ratios["distinct"], control.excess, control.copying
    text = (
        f"Of {control.num_images:,} held-out images the same rule flags {floor.count:,}: "
        f"{describe(floor)}. "
    )
    if excess is not None:
        text += (
            f"Copies beyond that floor: {100 * excess.value:.2f} % "
            f"({100 * excess.low:.2f} % to {100 * excess.high:.2f} %). "
        )
    return text + (
        f"C_T {copying.value:.1f}, where {copying.spread:.1f} is chance: far below 0 is copying."
    )


def _returns(test: "ReturnTest") -> Table:
    """Images that sampling returned to, by the noise it started from."""
    table = Table(
        title="Noise and return", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for name in ("sigma", "training images", "interval", "held-out images", "interval"):
        table.add_column(name, justify="right")
    for at in test.at_sigma:
        row = [f"{at.sigma:g}"]
        for returned in (at.train, at.holdout):
            row += (
                ["", ""]
                if returned is None
                else [f"{returned.count} / {returned.total}", interval(returned)]
            )
        table.add_row(*row)
    return table


def _attractors(result: "ScanResult") -> str:
    """How many training images are returned to, and how many free sampling did not find."""
    assert result.return_test is not None
    leaking = {leak.index for leak in result.leaks}
    attractors = result.return_test.attractors
    limit = result.return_test.holdout_sigma
    if limit is not None:
        attractors = tuple(found for found in attractors if found.sigma > limit)
    missed = sum(found.index not in leaking for found in attractors)
    beyond = "" if limit is None else ", from more noise than any held-out image"
    return (
        f"Sampling returns to {len(attractors):,} of the training images tried{beyond}; "
        f"{missed:,} of them are not among the leaks above."
    )


def _say(text: str | Text) -> None:
    out.print(text, soft_wrap=True)


def _ratios(result: "ScanResult") -> Table:
    headline = result.ratios["distinct"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rule")
    table.add_column("memorized", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column(f"{100 * headline.confidence:g} % interval", justify="right")
    for name, rule in (
        ("distinct", f"distinct (duplicates: {result.config.duplicate_rms:g} levels)"),
        ("distinct_at_0", "distinct (exact duplicates)"),
        ("paper", "paper"),
    ):
        ratio = result.ratios[name]
        table.add_row(
            rule, f"{ratio.count:,} / {ratio.total:,}", percent(ratio.ratio), interval(ratio)
        )
    return table


def _closest_pairs(result: "ScanResult") -> Table:
    matches, data = result.matches, result.data
    table = Table(title="Closest pairs", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("seed" if result.source["kind"] == "checkpoint" else "image")
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
