"""The annex of a report: one page in the order of an official text, with a place to sign.

Facts only, each with the field of report.json that it comes from. What a report does not hold is
left as a line to fill in; what an annex must not pass over (a screened, undecided or unconfirmed
audit) stands before everything else. The order is in texts.py.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import memaudit
from memaudit.audit.documents.facts import attacks, record, results, subject
from memaudit.audit.documents.facts.fact import Fact
from memaudit.audit.documents.texts import TEXTS, FactGroup, OfficialText, Part
from memaudit.audit.documents.verified import (
    VerifiedReport,
    open_verified,
)
from memaudit.audit.report.folder import PAGE
from memaudit.audit.report.html import render_template
from memaudit.files import atomic_write, check_new

AnnexText = Literal["edpb", "cnil", "nist"]

LIMITS = (
    "Limits: this page states measurements of one checkpoint or one set of images, with the "
    "settings and the training images named, and no legal assessment. What the text asks is "
    "summarized, not quoted, and only in part. That no copies were found does not mean that "
    "nothing was memorized."
)
"""The sentence that ends every annex."""


def write_annex(
    folder: str | Path,
    text: AnnexText,
    *,
    out: str | Path | None = None,
    auditor: str | None = None,
    authority: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the annex of a report as one HTML page that needs no network.

    The report is verified against itself first; what that does not prove is said in the annex.

    Args:
        folder: a report that `scan` wrote.
        text: whose order to follow.
        out: where to write; by default annex-TEXT.html in the folder. Links lead to the report.
        auditor: who ran the audit; None leaves a line to fill in.
        authority: on whose authority; None leaves a line to fill in.
        overwrite: replace a file that exists.

    Returns:
        Path of the page.

    Raises:
        ConfigError: there is no report, or the file exists, or cannot be written there.
        DataError: the report fails a check of `verify`.
    """
    verified = open_verified(folder)
    out = Path(folder) / f"annex-{text}.html" if out is None else Path(out)
    check_new(out, overwrite=overwrite)
    page = render_annex(
        verified, TEXTS[text], out=out, auditor=auditor, authority=authority, written=_today()
    )
    with atomic_write(out) as file:
        file.write(page.encode())
    return out


def _today() -> date:
    return datetime.now(UTC).date()


def render_annex(
    verified: VerifiedReport,
    text: OfficialText,
    *,
    out: Path,
    auditor: str | None,
    authority: str | None,
    written: date,
) -> str:
    """Render the page.

    Args:
        verified: the report, and what its verification left unproven.
        text: whose order to follow.
        out: where the page will be written; links to the report are relative to it.
        auditor: who ran the audit, or None.
        authority: on whose authority, or None.
        written: the date of the annex.
    """
    report = verified.report
    facts = _facts(verified, auditor=auditor, authority=authority)
    page = os.path.relpath(verified.folder / PAGE, out.absolute().parent).replace(os.sep, "/")
    href = quote(os.fsencode(page))
    anchors = set(re.findall(r'<section id="([^"]+)"', verified.page))

    def linked(fact: Fact) -> Fact:
        anchor = f"#{fact.section}" if fact.section in anchors else ""
        return replace(fact, href=href + anchor)

    def part(each: Part) -> dict[str, Any]:
        rows = [linked(fact) for group in each.groups for fact in facts[group]()]
        return {"title": each.title, "asks": each.asks, "facts": rows}

    return render_template(
        "annex.html.j2",
        text=text,
        page=href,
        headline=report.conclusion.headline,
        cautions=list(_cautions(verified)),
        parts=[part(each) for each in text.parts],
        limits=LIMITS,
        written=f"{written:%-d %B %Y}",
        sha256=verified.sha256,
        version=memaudit.__version__,
    )


def _facts(
    verified: VerifiedReport, *, auditor: str | None, authority: str | None
) -> Mapping[FactGroup, Callable[[], Iterator[Fact]]]:
    report = verified.report
    return {
        "model": lambda: subject.model(report),
        "data": lambda: subject.data(report),
        "persons": lambda: subject.persons(report),
        "indications": lambda: subject.indications(report),
        "attacks": lambda: attacks.attacks(report),
        "not_run": lambda: attacks.not_run(report),
        "results": lambda: results.results(report),
        "coincidence": lambda: results.coincidence(report),
        "detection": lambda: results.detection(report),
        "residual": lambda: results.residual(report),
        "responsible": lambda: record.responsible(auditor, authority),
        "record": lambda: record.record(verified),
    }


def _cautions(verified: VerifiedReport) -> Iterator[str]:
    report = verified.report
    conclusion = report.conclusion
    if report.verdict is None:
        yield "The audit had no limit (no gate): it states shares, and neither PASS nor FAIL."
    elif report.verdict == "INCONCLUSIVE":
        yield f"The audit did not decide. {conclusion.headline}."
    if conclusion.is_contradicted:
        yield f"Evidence of memorization: {'; '.join(conclusion.evidence)}."
    if report.screening is not None:
        yield f"Screened: {report.screening.sentence} A screened audit gives no PASS."
    if report.without:
        names = ", ".join(name.replace("_", "-") for name in report.without)
        yield f"Incomplete: left out on request: {names}."
    if not report.controls.num_holdout:
        yield (
            "No held-out images were given: the coincidence rate is that of training images among "
            "each other, and no test compares with images that the model never saw."
        )
    if report.source.model is None or not report.source.model.trained_on_data:
        yield conclusion.confirmed
    if conclusion.choices:
        yield f"Not the defaults: {'; '.join(conclusion.choices)}."
    for warning in report.source.warnings:
        yield f"Warning: {warning}"
    yield (
        "Verified against itself only: numbers and verdict follow from the report’s tables. No "
        "image was generated or searched again for this annex."
    )
