"""The card of an audit: a few lines of Markdown for the page of a model."""

import re
import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from textwrap import wrap

from memaudit.audit.documents.command import scan_command, selection_text
from memaudit.audit.documents.verified import (
    VerifiedReport,
    copies_text,
    open_verified,
    share_text,
)
from memaudit.audit.report.schema import Report
from memaudit.escapes import markdown, markdown_code
from memaudit.wording import counted, percent, printable, short

WIDTH = 100
"""Columns of the lines that are not in a table."""


def audit_card(folder: str | Path) -> str:
    """Write the card of a report as Markdown.

    It names files without their folders, and no training image.

    Args:
        folder: a report that `scan` wrote. It is verified against itself first.

    Raises:
        ConfigError: there is no report.
        DataError: the report fails a check of `verify`.
    """
    return "\n".join(_lines(open_verified(folder))) + "\n"


def _lines(verified: VerifiedReport) -> Iterator[str]:
    report = verified.report
    conclusion = report.conclusion
    yield "Memorization audit"
    yield "------------------"
    yield ""
    yield f"**{markdown(conclusion.headline)}**"
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, text in _rows(verified):
        yield f"| {name} | {text} |"
    yield ""
    yield "To repeat it:"
    yield ""
    command = list(_broken(scan_command(report)))
    # A fence longer than any run of backticks in a name keeps the name inside.
    runs = re.findall("`+", " ".join(command))
    fence = "`" * max([3, *(1 + len(run) for run in runs)])
    yield f"{fence}sh"
    yield from command
    yield fence
    yield ""
    yield from wrap(
        " ".join(_limits(report)), WIDTH, break_long_words=False, break_on_hyphens=False
    )


def _broken(words: Sequence[str]) -> Iterator[str]:
    """A command in lines that a shell reads as one: each ends before an option."""
    line = ""
    for i, word in enumerate(words):
        word = printable(shlex.quote(word))  # a line end in a name would end the line
        following = [] if i + 1 == len(words) else words[i + 1 : i + 2]
        value = "" if not following or following[0].startswith("--") else f" {following[0]}"
        if word.startswith("--") and len(line) + len(word) + len(value) + 1 > WIDTH - 2:
            yield f"{line} \\"
            line = f"    {word}"
        else:
            line += f" {word}" if line else word
    yield line


def _rows(verified: VerifiedReport) -> Iterator[tuple[str, str]]:
    report = verified.report
    source = report.source
    name = markdown_code(Path(source.path).name or source.path)
    if source.model is None:
        name = f"{report.ratios.copies.total:,} generated images, {name}"
    if source.sha256 is not None:
        of_pixels = " of the pixels" if source.model is None else ""
        name += f", SHA-256{of_pixels} {markdown_code(source.sha256)}"
    yield "Audited", name
    yield (
        "Training images",
        f"{report.data.num_images:,}, SHA-256 of the pixels "
        f"{markdown_code(report.data.fingerprint)}",
    )
    if report.screening is None:
        yield "Copies", copies_text(report)
    else:
        yield "Copies", markdown(report.screening.share_text)
    if report.gate is not None:
        yield (
            "Limit",
            f"{percent(report.gate.limit)} %, chance of a wrong verdict at most "
            f"{100 - 100 * report.gate.confidence:g} % on either side",
        )
    floor = report.controls.floor
    if floor is not None:
        yield "Counted by coincidence", f"{share_text(floor.copies)}, {floor.control}"
    leaks = f"{report.num_leaking_images:,} of {report.data.num_images:,}"
    explained = report.conclusion.is_explained_by_floor
    yield (
        "Training images nearest to what was counted" if explained else "Training images copied",
        leaks,
    )
    groups = report.diagnostics.groups
    if groups is not None:
        yield (
            "Groups nearest to what was counted" if explained else "Groups copied",
            f"{groups.num_copied:,} of {counted(groups.num_groups, 'group', 'groups')} "
            f"({markdown(groups.kind)})",
        )
    if report.conclusion.evidence:
        yield "Evidence beside the count", markdown("; ".join(report.conclusion.evidence))
    reasons = tuple(reason.text for reason in report.conclusion.reasons)
    if reasons:
        yield "Why it is limited", markdown(" ".join(reasons))
    # One on a model that does not denoise begins with the reason, and is long.
    warnings = [
        short(_without_folders(each, report), 300)
        for each in source.warnings
        if not each.startswith(reasons)
    ]
    if warnings:
        yield "Warning", markdown(" ".join(warnings))
    if report.conclusion.choices:
        yield "Not the defaults", markdown("; ".join(report.conclusion.choices))
    finished = datetime.fromisoformat(report.environment.finished)
    yield "Date", f"{finished:%Y-%m-%d}, memaudit {markdown(report.environment.memaudit)}"
    yield "Report", f"SHA-256 of report.json `{verified.sha256}`"


def _without_folders(text: str, report: Report) -> str:
    for path in (report.source.path, report.data.path):
        if name := Path(path).name:
            text = text.replace(path, name)
    return text


def _limits(report: Report) -> Iterator[str]:
    yield "Limits:"
    if report.verdict is None:
        yield "there is no verdict, since no limit on the share of copies was set."
    elif report.screening is not None:
        yield "seeds were screened, which gives no PASS."
    else:
        yield "the verdict is about the share of copies among generated images."
    yield markdown(report.conclusion.confirmed)
    yield markdown(report.conclusion.not_tried)
    if selected := selection_text(report):
        yield selected
    yield "That few or no copies were found does not mean that nothing was memorized."
