"""What was found, how often it is a coincidence, and what remains possible."""

from collections.abc import Iterator

from memaudit.audit.documents.facts.fact import Fact
from memaudit.audit.documents.verified import copies_text, share_text
from memaudit.audit.report.charts import row_of_copies
from memaudit.audit.report.schema import Report
from memaudit.wording import percent


def results(report: Report) -> Iterator[Fact]:
    """The conclusion, its limit, the shares and what else was found."""
    ratios = report.ratios
    yield Fact("Conclusion", f"{report.conclusion.headline}.", "conclusion.headline", "verdict")
    if report.gate is not None:
        gate = report.gate
        yield Fact(
            "Limit",
            f"{percent(gate.limit)} % of the generated images; chance of a wrong verdict at most "
            f"{100 - 100 * gate.confidence:g} % on either side, if the limit was chosen before the "
            "scan, which a report does not show",
            "gate.limit",
            "verdict",
        )
    if report.screening is not None:
        share = report.screening.share_text
        yield Fact("Share of copies", share, "screening.copies", "screening")
        of_drawn = " among the seeds drawn at random"
    else:
        of_drawn = ""
        yield Fact(
            "Share of copies",
            copies_text(report),
            "ratios.copies",
            "ratios",
        )
    yield Fact(
        f"By the published rule{of_drawn}", share_text(ratios.paper), "ratios.paper", "ratios"
    )
    for i, row in enumerate(ratios.by_rule):
        yield Fact(
            f"By the rule {row.rule}{of_drawn}",
            share_text(row.copies),
            f"ratios.by_rule.{i}.copies",
            "ratios",
        )
    yield Fact(
        "Training images nearest to what was counted"
        if report.conclusion.is_explained_by_floor
        else "Training images copied at least once",
        f"{report.num_leaking_images:,} of {report.data.num_images:,}",
        "num_leaking_images",
        "leaks",
    )
    richness = report.diagnostics.richness
    if richness is not None and richness.chao1 is not None and richness.chao1.value is not None:
        chao1 = richness.chao1
        yield Fact(
            "Estimated number in the long run",
            f"at least about {chao1.value:,.0f} ({100 * richness.confidence:g} % interval "
            f"{chao1.low:,.0f} to {chao1.high:,.0f}; Chao’s lower estimate)",
            "diagnostics.richness.chao1",
            "leaks",
        )
    evidence = report.conclusion.evidence
    yield Fact(
        "Evidence beside the count",
        f"{'; '.join(evidence)}." if evidence else "None found by the diagnostics that ran.",
        "conclusion.evidence",
        "verdict",
    )


def coincidence(report: Report) -> Iterator[Fact]:
    """How often images that copy nothing count as copies."""
    floors = (
        ("holdout", report.controls.holdout, "of images that the model never saw"),
        ("leave_one_out", report.controls.leave_one_out, "of training images among the others"),
    )
    for name, floor, whose in floors:
        if floor is not None:
            yield Fact(
                f"Coincidence rate, {floor.control}",
                f"{share_text(floor.copies)} {whose} count as copies",
                f"controls.{name}.copies",
                "controls",
            )
    if all(floor is None for _, floor, _ in floors):
        yield Fact("Coincidence rate", "not measured: no control was left", "controls", "controls")


def detection(report: Report) -> Iterator[Fact]:
    """Which copies the rule sees, and which it does not."""
    conclusion = report.conclusion
    yield Fact(
        "Copies that the rule sees",
        conclusion.recall or "Not measured in this report.",
        "conclusion.recall",
        "what-the-rule-sees",
    )
    yield Fact(
        "Copies that it does not see", conclusion.not_tried, "conclusion.not_tried", "limits"
    )


def residual(report: Report) -> Iterator[Fact]:
    """What the audit does not exclude."""
    share = report.ratios.copies if report.screening is None else report.screening.copies
    high, end = share.high, "upper end of the interval"
    if report.screening is None and report.gate is not None:
        row = row_of_copies(report.ratios.copies, report.gate)
        if row.bound == "upper":
            high, end = row.high, "what the verdict rests on"
    made = "what the model makes with these settings"
    if report.source.kind == "images":
        made = "what the generator makes, if the images given are a random sample of it"
    yield Fact(
        "Share of copies not excluded",
        f"up to {percent(high)} % of {made} ({end}, at {100 * share.confidence:g} % confidence). "
        "However small a share is, each copy may concern a person.",
        "ratios.copies.high" if report.screening is None else "screening.copies.high",
        "ratios" if report.screening is None else "screening",
    )
    richness = report.diagnostics.richness
    if richness is not None and richness.unseen_share is not None:
        unseen = richness.unseen_share
        yield Fact(
            "Copies yet unseen",
            f"about {percent(unseen.value)} % of further copies would show a training image not "
            f"copied so far ({100 * richness.confidence:g} % interval {percent(unseen.low)} to "
            f"{percent(unseen.high)} %)",
            "diagnostics.richness.unseen_share",
            "leaks",
        )
    reasons = " ".join(reason.text for reason in report.conclusion.reasons)
    if reasons:
        yield Fact("Why the verdict is limited", reasons, "conclusion.reasons", "verdict")
    if report.conclusion.advice:
        yield Fact("What would decide", report.conclusion.advice, "conclusion.advice", "verdict")
    yield Fact(
        "Not covered",
        "Other checkpoints, samplers, guidance and conditions; the attacks that were not run; "
        "copies that the rule is not made to see; images that were not among those searched.",
        "",
        "limits",
    )
    if report.verdict == "PASS":
        yield Fact(
            "What PASS does not say",
            "PASS is about the share of copies among generated images. It does not say that no "
            "training image can be extracted, nor that the model is anonymous.",
        )
    yield Fact("Measures taken against what remains", None)
