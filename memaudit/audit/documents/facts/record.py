"""Who ran the audit, when, with what, and what of it was checked."""

from collections.abc import Iterator
from datetime import datetime

from memaudit.audit.documents.facts.fact import PROVENANCE, Fact
from memaudit.audit.documents.verified import VerifiedReport
from memaudit.wording import counted, duration, short


def responsible(auditor: str | None, authority: str | None) -> Iterator[Fact]:
    """Who answers for the audit; lines to fill in if not given."""
    yield Fact("Who ran the audit", auditor)
    yield Fact("On whose authority", authority)
    yield Fact("Relation to those who built the model", None)


def record(verified: VerifiedReport) -> Iterator[Fact]:
    """When and with what it was done, and which checks it passed."""
    report = verified.report
    environment = report.environment
    finished = datetime.fromisoformat(environment.finished)
    yield Fact(
        "Audit finished",
        f"{finished:%-d %B %Y, %H:%M %Z}, after {duration(report.timings.total)}",
        "environment.finished",
        PROVENANCE,
    )
    yield Fact(
        "Tool and machine",
        f"memaudit {environment.memaudit}, Python {environment.python}, "
        f"{short(environment.device)}",
        "environment.memaudit",
        PROVENANCE,
    )
    yield Fact(
        "Checked for this annex",
        f"{counted(verified.num_checks, 'check', 'checks')} of memaudit verify, without model and "
        "images; all passed. Not proven by them: "
        + "; ".join(each.rstrip(".") for each in verified.unproven)
        + ".",
    )
