"""The annex of a report: one page in the order of an official text, with a place to sign.

Facts only, each with the field of report.json that it comes from. What a report does not hold is
left as a line to fill in; what an annex must not pass over (a screened, undecided or unconfirmed
audit) stands before everything else. The order is in texts.py.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import memaudit
from memaudit.audit.diagnostics.registry import DIAGNOSTICS
from memaudit.audit.documents.texts import TEXTS, FactGroup, OfficialText, Part
from memaudit.audit.documents.verified import (
    VerifiedReport,
    copies_text,
    open_verified,
    share_text,
)
from memaudit.audit.report.charts import row_of_copies
from memaudit.audit.report.folder import PAGE
from memaudit.audit.report.html import render_template
from memaudit.audit.report.schema import Report
from memaudit.errors import ConfigError
from memaudit.files import atomic_write
from memaudit.wording import counted, duration, percent, plural, short

AnnexText = Literal["edpb", "cnil", "nist"]

LIMITS = (
    "Limits: this page states measurements of one checkpoint or one set of images, with the "
    "settings and the training images named, and no legal assessment. That no copies were found "
    "does not mean that nothing was memorized."
)
"""The sentence that ends every annex."""
_PROVENANCE = "provenance"


@dataclass(frozen=True)
class Fact:
    """A row of the annex."""

    name: str
    text: str | None
    """None leaves a line to fill in."""
    field: str = ""
    """Its place in report.json, such as `ratios.copies`; empty if it holds none."""
    section: str = ""
    """The section of report.html that shows it."""
    href: str = ""
    is_heading: bool = False


@dataclass(frozen=True)
class _Attack:
    """An attack that a scan may run: a diagnostic, and how much of it was done."""

    name: str
    diagnostic: str
    budget: Callable[[Any], str]


_ATTACKS = (
    _Attack(
        "Membership inference from the model’s loss",
        "membership",
        lambda found: (
            f"{found.num_train:,} training and {found.num_holdout:,} held-out images scored"
        ),
    ),
    _Attack(
        "Membership of the training set, inferred from generated images (label test)",
        "label_test",
        lambda found: (
            f"{found.num_samples:,} generated images among {found.num_pairs:,} training and as "
            f"many held-out images, {found.num_labelings:,} labelings"
        ),
    ),
    _Attack(
        "Reconstruction from noised training images (noise and return)",
        "noise_and_return",
        lambda found: (
            f"{counted(len(found.at_sigma), 'noise level', 'noise levels')}, "
            f"{found.at_sigma[0].train.total if found.at_sigma else 0:,} training images at each, "
            f"{counted(found.num_noises, 'noise', 'noises')} per image"
        ),
    ),
    _Attack(
        "Comparison with the closed-form optimum, which can only copy",
        "optimality",
        lambda found: (
            f"{found.num_train:,} training images and {found.num_trajectories:,} generated ones"
        ),
    ),
)
NOT_IN_A_SCAN = (
    (
        "Chosen training images (is this image given back?)",
        "Not part of a scan; memaudit check answers it in a report of its own.",
    ),
    (
        "Model inversion and reconstruction by optimizing over inputs or weights",
        "memaudit does not run it.",
    ),
    (
        "Attribute and property inference",
        "memaudit does not run it.",
    ),
    (
        "Extraction by text prompts aimed at one image",
        "memaudit does not run it: images are generated from seeds and classes.",
    ),
    (
        "Exfiltration or extraction of the model itself",
        "Outside the audit: it concerns the system that serves the model.",
    ),
)
"""Attacks that no report of a scan covers, and why."""


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
    if out.is_dir() or (out.exists() and not overwrite):
        raise ConfigError(
            f"{out} exists; name another file, or replace it with {{overwrite}}.",
            field="overwrite",
        )
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out.parent} is not a folder; make it, or name a file in another one.")
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
        "model": lambda: _model(report),
        "data": lambda: _data(report),
        "persons": lambda: _persons(report),
        "indications": lambda: _indications(report),
        "attacks": lambda: _attacks(report),
        "not_run": lambda: _not_run(report),
        "results": lambda: _results(report),
        "coincidence": lambda: _coincidence(report),
        "detection": lambda: _detection(report),
        "residual": lambda: _residual(report),
        "responsible": lambda: _responsible(auditor, authority),
        "record": lambda: _record(verified),
    }


# ------------------------------------------------------------------------------------------------
# What must not be passed over


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


# ------------------------------------------------------------------------------------------------
# The groups of facts


def _model(report: Report) -> Iterator[Fact]:
    source = report.source
    name = Path(source.path).name or source.path
    if source.model is None:
        yield Fact(
            "Generated images",
            f"{report.ratios.copies.total:,} images of {short(name)}; the model itself was not "
            "given",
            "source.path",
            _PROVENANCE,
        )
        yield Fact("SHA-256 of their pixels", source.sha256, "source.sha256", _PROVENANCE)
        yield Fact("Model that made them", None)
        return
    kind = source.model.config.get("class_name")
    network = f", network {short(str(kind))}" if kind else ""
    yield Fact(
        "Model",
        f"{short(name)} ({source.model.format}{network})",
        "source.model.format",
        _PROVENANCE,
    )
    yield Fact("SHA-256", source.sha256, "source.sha256", _PROVENANCE)
    yield Fact("Intended use, version, provider", None)


def _data(report: Report) -> Iterator[Fact]:
    data = report.data
    channels, height, width = data.image_shape
    part = ""
    if data.indices is not None:
        part = ", a selection of their source (data.indices)"
    elif data.split is not None:
        part = f", split {short(data.split)}"
    yield Fact(
        "Training images searched",
        f"{data.num_images:,} images of {height} × {width} pixels, {channels} "
        f"{'channel' if channels == 1 else 'channels'}{part}",
        "data.num_images",
        _PROVENANCE,
    )
    yield Fact("SHA-256 of their pixels", data.fingerprint, "data.fingerprint", _PROVENANCE)
    yield Fact(
        "Training data confirmed", report.conclusion.confirmed, "conclusion.confirmed", "limits"
    )
    held = report.controls.num_holdout
    yield Fact(
        "Held-out images",
        f"{held:,}, which the model is said not to have seen" if held else "none given",
        "controls.num_holdout",
        "controls",
    )
    yield Fact("Origin of the data, and personal data in it", None)


def _persons(report: Report) -> Iterator[Fact]:
    data, found = report.data, report.diagnostics.groups
    if data.num_groups is None or found is None:
        yield Fact(
            "Persons concerned",
            "Which images belong to which person was not given: images are counted, not persons.",
            "data.num_groups",
            _PROVENANCE,
        )
    else:
        kinds = plural(found.kind)
        explained = report.conclusion.is_explained_by_floor
        yield Fact(
            f"Groups ({short(kinds)})",
            f"{data.num_groups:,} in the training images; images of {found.num_copied:,} of them "
            + ("are the nearest to what was counted" if explained else "were copied"),
            "diagnostics.groups.num_copied",
            "groups-that-leak",
        )
    yield Fact("Categories of persons, number", None)


def _indications(report: Report) -> Iterator[Fact]:
    model, num_images = report.source.model, report.data.num_images
    seen = None if model is None else model.images_seen
    if seen is None:
        yield Fact("Images seen in training", "not stated by the source", "", "")
    else:
        repeats = ""
        if model is not None and model.trained_on_data:
            times = seen / num_images
            repeats = f": each training image about {times:,.{1 if times < 10 else 0}f} times"
        yield Fact(
            "Images seen in training",
            f"{seen:,}{repeats}, as the checkpoint states",
            "source.model.provenance.images_seen",
            _PROVENANCE,
        )
    values = num_images * int(report.space.num_values or 0)
    if report.space.exact and values:
        yield Fact(
            "Size of the training data",
            f"{values:,} pixel values ({num_images:,} images of {report.space.num_values:,})",
            "space.num_values",
            _PROVENANCE,
        )
    yield Fact("Parameters of the model", None)
    alone = report.controls.leave_one_out
    if alone is not None:
        yield Fact(
            "Near-duplicates in the training data",
            f"{alone.num_near:,} of {alone.copies.total:,} training images lie within "
            f"{report.duplicate_rms:g} gray levels of another",
            "controls.leave_one_out.num_near",
            "controls",
        )


def _attacks(report: Report) -> Iterator[Fact]:
    yield Fact("Attacks run: budget and result", "", is_heading=True)
    budget = _sampling_budget(report)
    about = report.conclusion.about
    yield Fact(
        "Regurgitation: generate images, and search each among the training images",
        f"{budget} {about}",
        "sampling.seeds" if report.sampling is not None else "ratios.copies.total",
        "measured",
    )
    for attack in _ATTACKS:
        found = getattr(report.diagnostics, attack.diagnostic)
        if found is None:
            continue
        diagnostic = DIAGNOSTICS[attack.diagnostic]
        said = [line for line in diagnostic.lines(found) if isinstance(line, str)]
        yield Fact(
            attack.name,
            f"{attack.budget(found)}. {' '.join(said)}",
            f"diagnostics.{attack.diagnostic}",
            diagnostic.title.lower().replace(" ", "-"),
        )


def _sampling_budget(report: Report) -> str:
    sampling, total = report.sampling, report.ratios.copies.total
    if sampling is None:
        return f"{counted(total, 'image', 'images')} that were given."
    steps = sampling.sampler.num_steps
    of_steps = "" if steps is None else f" of {steps} steps"
    if report.screening is not None:
        screening = report.screening
        return (
            f"{screening.num_seeds:,} seeds screened, {screening.num_sampled:,} sampled in "
            f"full{of_steps} (seeds {short(screening.seeds, 60)})."
        )
    most = ""
    if sampling.most_seeds != total:
        most = f" of at most {sampling.most_seeds:,}, where the verdict was certain"
    sampling_time = next(
        (step.seconds for step in report.timings.steps if step.step == "sampling"), None
    )
    took = "" if sampling_time is None else f", {duration(sampling_time)} of sampling"
    return (
        f"{counted(total, 'image', 'images')}{most}, sampler{of_steps}, seeds "
        f"{short(sampling.seeds, 60)}{took}."
    )


def _not_run(report: Report) -> Iterator[Fact]:
    yield Fact("Attacks not run, and why", "", is_heading=True)
    for attack in _ATTACKS:
        if getattr(report.diagnostics, attack.diagnostic) is None:
            yield Fact(
                attack.name,
                f"{_why_not(report, attack.diagnostic)}.",
                "without" if attack.diagnostic in report.without else "",
                _PROVENANCE,
            )
    yield from (Fact(name, why) for name, why in NOT_IN_A_SCAN)


def _why_not(report: Report, name: str) -> str:
    """Why a diagnostic has no result, as a clause."""
    diagnostic = DIAGNOSTICS[name]
    if name in report.without:
        return "Left out on request"
    if "model" in diagnostic.requires and report.source.kind == "images":
        return "The model was not given, only images"
    if "holdout" in diagnostic.requires and not report.controls.num_holdout:
        return "No held-out images were given"
    if diagnostic.by_request:
        return f"Not asked for: it runs only with --also {name.replace('_', '-')}"
    return "It was not possible with these settings or images"


def _results(report: Report) -> Iterator[Fact]:
    ratios = report.ratios
    yield Fact("Conclusion", f"{report.conclusion.headline}.", "conclusion.headline", "verdict")
    if report.gate is not None:
        gate = report.gate
        yield Fact(
            "Limit, set before",
            f"{percent(gate.limit)} % of the generated images; chance of a wrong verdict at most "
            f"{100 - 100 * gate.confidence:g} % on either side",
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


def _coincidence(report: Report) -> Iterator[Fact]:
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


def _detection(report: Report) -> Iterator[Fact]:
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


def _residual(report: Report) -> Iterator[Fact]:
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
        f"up to {percent(high)} % of {made} ({end}, at {100 * share.confidence:g} % confidence). A "
        "small share is not zero, and one copy may concern one person.",
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


def _responsible(auditor: str | None, authority: str | None) -> Iterator[Fact]:
    yield Fact("Who ran the audit", auditor)
    yield Fact("On whose authority", authority)
    yield Fact("Relation to those who built the model", None)


def _record(verified: VerifiedReport) -> Iterator[Fact]:
    report = verified.report
    environment = report.environment
    finished = datetime.fromisoformat(environment.finished)
    yield Fact(
        "Audit finished",
        f"{finished:%-d %B %Y, %H:%M %Z}, after {duration(report.timings.total)}",
        "environment.finished",
        _PROVENANCE,
    )
    yield Fact(
        "Tool and machine",
        f"memaudit {environment.memaudit}, Python {environment.python}, "
        f"{short(environment.device)}",
        "environment.memaudit",
        _PROVENANCE,
    )
    yield Fact(
        "Checked for this annex",
        f"{counted(verified.num_checks, 'check', 'checks')} of memaudit verify, without model and "
        "images; all passed. Not proven by them: "
        + "; ".join(each.rstrip(".") for each in verified.unproven)
        + ".",
    )
